"""Transactions per second that four real node processes accept and make final.

What is sent are Attests: the ledger's most frequent transaction, and the one whose rate nothing but
the ledger limits (a Submit that a client hands in is answered only after its record was validated,
and that takes a worker process a second or so).  Submissions are synthetic and on the chain, held
and elected before the clock starts.  The verifiers are members without a node whose keys are known
here, so that nothing retrains; every one of their answers is signed, posted alone to one of the
nodes by HTTP, gossiped, checked by the rules and carried by a block like that of anybody.

The clock runs from the first POST until every node has all of them on disk.  The sender shares the
processors with the nodes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import decode, encode
from milepost_consensus.members import VALIDATOR, VERIFIER, Genesis
from milepost_consensus.params import Params
from milepost_consensus.payloads import Attest, Hold, compute_submission_id
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_consensus.submissions import RETRACING
from milepost_consensus.transactions import Payload, Tx, compute_tx_id, make_tx
from milepost_node.channel import Channel
from milepost_node.envelopes import encode_batch, make_envelope
from milepost_node.sync import PAGE_BLOCKS
from tests.support.ledger import make_genesis, make_record, make_signer
from tests.support.node_processes import NodeProcesses, poll

NODES: Final = 4
VERIFIERS: Final = 16
SUBMITTERS: Final = 16
SUBMISSIONS: Final = 120
LINES: Final = 8
"""Connections to each node on which one transaction after the other is posted."""
ACCEPTED: Final = 202
PARAMS: Final = Params(
    min_block_ms=100,
    idle_block_ms=60_000,
    timeout_ms=5_000,
    auditors=VERIFIERS,
    sub_quorum_size=VERIFIERS,
    attest_window=100_000,
)
TICKS: Final = os.sysconf("SC_CLK_TCK")


def _make_genesis() -> Genesis:
    """Four members that only validate, sixteen that only verify, some that submit."""
    genesis = make_genesis(
        NODES + VERIFIERS,
        params=PARAMS,
        submitters=[f"submitter-{i}" for i in range(SUBMITTERS)],
    )
    roles = {f"node-{i}": VALIDATOR if i < NODES else VERIFIER for i in range(NODES + VERIFIERS)}
    members = tuple(
        msgspec.structs.replace(m, roles=roles.get(m.name, m.roles)) for m in genesis.members
    )
    return msgspec.structs.replace(genesis, members=members)


class Chain:
    """The chain of one node, followed from outside and checked block by block."""

    def __init__(self, genesis: Genesis, url: str) -> None:
        self.state: LedgerState = make_initial_state(genesis)
        self.blocks: list[Block] = []
        self._url = url

    def follow(self) -> LedgerState:
        """Fetch and apply what was decided since."""
        while True:
            first = len(self.blocks) + 1
            body = httpx.get(
                f"{self._url}/v1/peer/blocks?from={first}&limit={PAGE_BLOCKS}", timeout=60
            ).content
            page = msgspec.msgpack.decode(body, type=list[tuple[bytes, bytes]])
            for data, certificate in page:
                decode(Certificate, certificate)
                block = decode(Block, data)
                self.state = validate_block(self.state, block, now_ms=None)
                self.blocks.append(block)
            if not page:
                return self.state


class Crowd:
    """Signs for all members, and posts to the nodes."""

    def __init__(self, nodes: NodeProcesses) -> None:
        self._nodes = nodes
        self._signers = {m.id: make_signer(m.name) for m in nodes.genesis.members}
        self.chain = Chain(nodes.genesis, nodes.urls[0])

    def sign(self, payload: Payload, sender: bytes) -> Tx:
        return make_tx(
            payload,
            signer=self._signers[sender],
            valid_until=self.chain.state.height + 900,
            network=self._nodes.network,
        )

    def submit(self) -> None:
        """Put all submissions on the chain and hold them, as peers pass such transactions on."""
        submits = [
            (make_signer(f"submitter-{i % SUBMITTERS}").public, make_record(f"run {i}").submit)
            for i in range(SUBMISSIONS)
        ]
        self._pass_on([self.sign(submit, sender) for sender, submit in submits])
        ids = [compute_submission_id(s, submit, self._nodes.network) for s, submit in submits]
        holders = [member.id for member in self.chain.state.validators]
        self._pass_on([self.sign(Hold(each), holder) for each in ids for holder in holders])

        def is_elected() -> bool:
            state = self.chain.follow()
            return all(state.submissions[each].phase == RETRACING for each in ids)

        poll(is_elected, 60, "all submissions elected")

    def _pass_on(self, txs: Sequence[Tx]) -> None:
        wanted = {compute_tx_id(tx, self._nodes.network): tx for tx in txs}

        def is_on_chain() -> bool:
            """Those that found no room beside the sender's others are said again."""
            self.chain.follow()
            there = _get_ids(self.chain.blocks, self._nodes.network)
            missing = [tx for tx_id, tx in wanted.items() if tx_id not in there]
            body = encode_batch([make_envelope(tx) for tx in missing])
            for url in self._nodes.urls if missing else ():
                assert httpx.post(url + "/v1/peer/messages", content=body, timeout=60).is_success
            return not missing

        poll(is_on_chain, 120, f"{len(txs)} transactions on the chain")

    def make_attests(self) -> list[Tx]:
        """The answers to all open duties."""
        return [
            self.sign(
                Attest(
                    submission.id,
                    duty.interval,
                    1,
                    duty.work_step,
                    compute_digest("work", duty.verifier),
                    0,
                ),
                duty.verifier,
            )
            for submission in self.chain.state.open_submissions
            for duty in submission.duties
        ]

    async def post(self, txs: Sequence[Tx]) -> list[int]:
        """Post every transaction alone, each line its share; returns the statuses."""
        lines = [Channel(url) for url in self._nodes.urls for _ in range(LINES)]
        bodies = [encode(tx) for tx in txs]

        async def send(line: Channel, share: Sequence[bytes]) -> list[int]:
            answers = [await line.post("/v1/transactions", body, {}) for body in share]
            await line.close()
            return answers

        shares = [bodies[i :: len(lines)] for i in range(len(lines))]
        answers = await asyncio.gather(*map(send, lines, shares))
        return [status for each in answers for status in each]


def _get_ids(blocks: Sequence[Block], network: bytes) -> set[bytes]:
    return {compute_tx_id(tx, network) for block in blocks for tx in block.txs}


def _read_cpu_seconds(nodes: NodeProcesses) -> float:
    """Processor time of the node processes so far."""
    total = 0
    for process in nodes.running.values():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def _measure(nodes: NodeProcesses, crowd: Crowd) -> None:
    txs = crowd.make_attests()
    first_height = crowd.chain.state.height + 1
    before_cpu, begin = _read_cpu_seconds(nodes), time.monotonic()
    statuses = Counter(asyncio.run(crowd.post(txs)))
    accepted_seconds = time.monotonic() - begin
    assert statuses == {ACCEPTED: len(txs)}, statuses

    def is_done() -> bool:
        shown = [nodes.get(i, "/v1/status") for i in range(NODES)]
        return not any(s["mempool"] for s in shown) and len({s["height"] for s in shown}) == 1

    poll(is_done, 300, "all transactions final on every node")
    seconds, cpu = time.monotonic() - begin, _read_cpu_seconds(nodes) - before_cpu
    crowd.chain.follow()
    blocks = crowd.chain.blocks[first_height - 1 :]
    carried = Counter(compute_tx_id(tx, nodes.network) for block in blocks for tx in block.txs)
    assert carried == {compute_tx_id(tx, nodes.network): 1 for tx in txs}
    full = [len(block.txs) for block in blocks if block.txs]
    print(
        f"{len(txs)} attests of {VERIFIERS} verifiers about {SUBMISSIONS} submissions, "
        f"{NODES} node processes on {os.cpu_count()} processors, sender included"
    )
    print(
        f"accepted {len(txs) / accepted_seconds:.0f} /s, accepted and final on all nodes"
        f" {len(txs) / seconds:.0f} /s ({seconds:.1f} s)"
    )
    print(
        f"{len(full)} blocks, transactions in each: median {statistics.median(full):.0f},"
        f" most {max(full)}; processor time per transaction at all nodes together"
        f" {cpu / len(txs) * 1_000:.2f} ms"
    )


def bench_throughput() -> None:
    """Print transactions per second accepted and final at four node processes."""
    with (
        tempfile.TemporaryDirectory() as name,
        NodeProcesses(Path(name) / "net", NODES, genesis=_make_genesis()) as nodes,
    ):
        nodes.start(*range(NODES))
        nodes.wait_ready()
        crowd = Crowd(nodes)
        crowd.submit()
        _measure(nodes, crowd)
