"""What clients were told, and whether the ledger that came of it makes all of it true.

H1  Every acknowledged submission is on the final chain exactly once, any other at most once.
H2  No fork: the chains of all nodes are equal, block by block, and every block that anybody
    was ever shown is on them.
H3  Each node's every block has a certificate that verifies, and follows from those before it.
H4  A node's height never goes back, not by a crash either, unless its disk was lost.
H5  A proof that was read once is read the same for ever: from every node that showed a verdict,
    and with the same verdict from all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import verify_certificate
from milepost_consensus.encoding import decode, encode
from milepost_consensus.light import ProofBundle, make_trust, verify_bundle
from milepost_consensus.members import Genesis
from milepost_consensus.payloads import Submit, compute_submission_id
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_consensus.transactions import SUBMIT, decode_payload

ACKNOWLEDGED: Final = "acknowledged"
REFUSED: Final = "refused"
UNKNOWN: Final = "unknown"
"""No answer came: it may or may not have been taken."""

Chain = list[tuple[bytes, bytes]]


@dataclass
class History:
    """What clients of one network did and saw, in the order in which they did."""

    genesis: Genesis
    submits: list[tuple[bytes, str]] = field(default_factory=list)
    """Submission and outcome, one entry for each attempt."""
    heights: dict[int, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    """Heights and block ids by node; forgotten when the node's disk is lost."""
    shown: dict[int, bytes] = field(default_factory=dict)
    """Block id by height, as anybody first showed it."""
    proofs: dict[bytes, ProofBundle] = field(default_factory=dict)
    """The first proof that was read of each submission."""

    @property
    def acknowledged(self) -> set[bytes]:
        return {submission for submission, outcome in self.submits if outcome == ACKNOWLEDGED}

    def add_status(self, node: int, height: int, block_id: bytes) -> None:
        """A node said where it stands (H2, H4)."""
        seen = self.heights[node]
        if seen:
            assert height >= seen[-1][0], f"node {node} went back from {seen[-1][0]} to {height}"
        seen.append((height, block_id))
        first = self.shown.setdefault(height, block_id)
        assert block_id == first, f"fork: node {node} has another block {height}"

    def add_proof(self, node: int, bundle: ProofBundle) -> None:
        """A node proved a verdict (H5)."""
        verify_bundle(bundle, make_trust(self.genesis))
        first = self.proofs.setdefault(bundle.verdict.submission, bundle)
        assert bundle.verdict == first.verdict, f"node {node} proves another verdict"

    def add_loss(self, node: int) -> None:
        """A node's disk was lost."""
        self.heights.pop(node, None)

    def check(self, chains: list[Chain]) -> LedgerState:
        """Raises AssertionError unless H1 to H5 hold of the final chains; returns the state."""
        state, submissions = replay(self.genesis, chains[0])
        for other in chains[1:]:
            assert [block for block, _ in other] == [block for block, _ in chains[0]], "fork"
            _verify_certificates(self.genesis, other)
        for submission, outcome in self.submits:
            count = submissions[submission]
            least = int(outcome == ACKNOWLEDGED)
            assert least <= count <= 1, f"{outcome} submission is {count} times on the chain"
        ids = [compute_block_id(decode(Block, b).header, state.network) for b, _ in chains[0]]
        for height, block_id in self.shown.items():
            assert not height or ids[height - 1] == block_id, f"block {height} was replaced"
        for submission, bundle in self.proofs.items():
            header = bundle.header
            assert ids[header.height - 1] == compute_block_id(header, state.network)
            assert state.verdicts[submission] == bundle.verdict
        return state


def replay(genesis: Genesis, chain: Chain) -> tuple[LedgerState, Counter[bytes]]:
    """The state after a chain whose every block and certificate holds, and how often it carries
    each submission (H3)."""
    state = make_initial_state(genesis)
    submissions: Counter[bytes] = Counter()
    for data, certificate in chain:
        block = decode(Block, data)
        assert encode(block) == data
        verify_certificate(
            decode(Certificate, certificate), block.header, state.validators, state.network
        )
        state = validate_block(state, block, now_ms=None)
        for tx in block.txs:
            if tx.kind == SUBMIT:
                submit = decode_payload(tx)
                assert isinstance(submit, Submit)
                submissions[compute_submission_id(tx.sender, submit, state.network)] += 1
    return state, submissions


def _verify_certificates(genesis: Genesis, chain: Chain) -> None:
    state = make_initial_state(genesis)
    for data, certificate in chain:
        header = decode(Block, data).header
        verify_certificate(
            decode(Certificate, certificate), header, state.validators, state.network
        )
