"""S8, from the reveals alone: the mix, the onions and the seeds of the chain, computed once more.

Nothing here reads a standing.  What every validator has promised follows from the genesis, the
updates that were in effect and the OnionRefresh transactions; who has revealed when follows from
the headers.  So whatever a proposer does with times, orders and transactions of its block, it has
the choice between its one reveal and none.
"""

from __future__ import annotations

from dataclasses import dataclass

from milepost_consensus.beacon import compute_link, compute_mix
from milepost_consensus.blocks import Block
from milepost_consensus.election import compute_seed
from milepost_consensus.members import Member, compute_fault_limit
from milepost_consensus.payloads import OnionRefresh
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import ANCHORED, SEEDING, Submission
from milepost_consensus.transactions import decode_payload
from tests.simulation.monitor import Violation


@dataclass
class Promise:
    """The onion of one member, and the one that follows it."""

    head: bytes
    left: int
    since: int
    following: tuple[bytes, int, int] | None = None

    def turn_over(self) -> None:
        """Begin with the next onion where this one is used up."""
        if not self.left and self.following is not None:
            (self.head, self.left, self.since), self.following = self.following, None


class BeaconLaws:
    """Follows the chain from block to block."""

    def __init__(self, genesis: LedgerState) -> None:
        self._mix = genesis.network
        self._promises: dict[bytes, Promise] = {}
        self._reveals: dict[bytes, int] = {}
        """The height at which each member revealed last."""
        self._seeds: dict[bytes, bytes] = {}
        self.turnovers = 0
        self._join(genesis.validators, 0)

    def on_block(self, before: LedgerState, block: Block, after: LedgerState) -> None:
        """A block is final."""
        height = block.header.height
        fault_limit = compute_fault_limit(len(before.validators))
        self._check_reveal(block, fault_limit)
        for tx in block.txs:
            payload = decode_payload(tx)
            if isinstance(payload, OnionRefresh):
                promise = self._promises[tx.sender]
                promise.following = (payload.onion, payload.onion_left, height)
                promise.turn_over()
        if block.header.reveal:
            self._peel(block)
        self._mix = compute_mix(self._mix, block.header.reveal, height)
        if block.header.mix != self._mix:
            raise Violation(f"S8: the mix of block {height} is somebody's choice")
        for key, submission in after.submissions.items():
            known = before.submissions.get(key)
            due = known is None or known.phase in (ANCHORED, SEEDING)
            self._check_seed(submission, fault_limit, due=due)
        self._join(after.validators, height)

    def _check_reveal(self, block: Block, fault_limit: int) -> None:
        header = block.header
        promise = self._promises[header.proposer]
        known = promise.since and self._count_reveals(promise.since) <= fault_limit
        owed = header.round == 0 and promise.left > 0 and not known
        if bool(header.reveal) != owed:
            raise Violation(f"S8: block {header.height} reveals nothing or more than it owes")
        link = compute_link(header.proposer, promise.left, header.reveal)
        if header.reveal and link != promise.head:
            raise Violation(f"S8: block {header.height} reveals what nobody promised")

    def _peel(self, block: Block) -> None:
        header = block.header
        promise = self._promises[header.proposer]
        promise.head, promise.left = header.reveal, promise.left - 1
        self._reveals[header.proposer] = header.height
        generation = promise.since
        promise.turn_over()
        self.turnovers += promise.since != generation

    def _check_seed(self, submission: Submission, fault_limit: int, *, due: bool) -> None:
        """The seed is there with the reveal that completes f+1 different ones, and stays."""
        known = self._seeds.get(submission.id)
        mixed = self._count_reveals(submission.anchored_height) > fault_limit
        if known is None and due and mixed:
            known = self._seeds[submission.id] = compute_seed(self._mix, submission.id)
        if submission.seed != (known or b""):
            raise Violation(
                "S8: the seed of a submission does not follow from the reveals since its anchor"
            )

    def _count_reveals(self, since: int) -> int:
        return sum(height > since for height in self._reveals.values())

    def _join(self, validators: tuple[Member, ...], height: int) -> None:
        for member in validators:
            if member.id not in self._promises:
                self._promises[member.id] = Promise(member.onion, member.onion_left, height)
