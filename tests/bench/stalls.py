"""How long one hostile request keeps the event loop of a node from running anything else.

The node has submissions of two thousand intervals and blocks of hundreds of answers on its chain,
and is served by its real server.  "late" is how long a task that wants to run had to wait,
whatever the machine did besides; "busy" is the processor time of the loop's own thread meanwhile.
Requests come from another thread of this process, which takes some milliseconds of "late".
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from milepost_consensus.events import BlockFetched
from tests.fuzz.hostile import make_hostile_requests
from tests.fuzz.stage import LoopWatch, Stage, make_large_ledger, open_stage
from tests.support.ledger import Ledger
from tests.support.nodes import ScriptedRetracer, certify

SUBMISSIONS: Final = 4
INTERVALS: Final = 2_048
TIMES: Final = 3
LIMIT_MS: Final = 100


def _say(port: int, raw: bytes) -> int:
    """Send a request and read the answer to its end; returns its status."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = b""
        try:
            connection.sendall(raw)
            while block := connection.recv(2**20):
                head = head or block[:12]
        except ConnectionError:
            pass  # refused while it was still sending
    return int(head[9:12] or b"0")


class Idle(ScriptedRetracer):
    """Never ready, so that the node's own duties are not part of the figures."""

    async def start(self) -> None:
        await asyncio.Event().wait()


def _print(name: str, taken: Sequence[tuple[float, float]], note: str) -> float:
    """Print medians in milliseconds; returns that of the loop's own processor time."""
    late = 1_000 * statistics.median(each[0] for each in taken)
    busy = 1_000 * statistics.median(each[1] for each in taken)
    print(f"{name:36} {note:8} late {late:7.1f} ms, busy {busy:6.1f} ms")
    return busy


async def _measure(watch: LoopWatch, stage: Stage, name: str, raw: bytes) -> float:
    taken = []
    for _ in range(TIMES):
        watch.take()
        status = await asyncio.to_thread(_say, stage.port, raw)
        await asyncio.sleep(0.3)  # what the request left behind for later
        taken.append(watch.take())
    return _print(name, taken, f"HTTP {status}")


async def _measure_block(watch: LoopWatch, stage: Stage, ledger: Ledger) -> float:
    """A fetched block of a thousand answers, whose signatures nobody here has seen."""
    submission = ledger.state.open_submissions[-1]
    duties = [duty for duty in submission.duties if not duty.answer][:1_000]
    state = ledger.state
    txs = [ledger.attest(submission.id, duty) for duty in duties]
    block = ledger.apply(txs)
    event = BlockFetched(block, certify(block, state))
    await asyncio.sleep(0.1)  # making it took long enough
    watch.take()
    await stage.node.runtime.deliver(event)
    await asyncio.sleep(0.3)
    return _print(f"a block of {len(txs)} answers", [watch.take()], "fetched")


async def _measure_verdict(watch: LoopWatch, stage: Stage, ledger: Ledger) -> float:
    """The fetched block that decides a submission, whose proof is made then."""
    submission = ledger.state.open_submissions[-1].id
    taken = 0.0, 0.0
    while submission not in ledger.state.verdicts:
        state = ledger.state
        duties = [duty for duty in ledger.get(submission).duties if not duty.answer][:1_000]
        block = ledger.apply([ledger.attest(submission, duty) for duty in duties])
        await asyncio.sleep(0.1)  # making it took long enough
        watch.take()
        await stage.node.runtime.deliver(BlockFetched(block, certify(block, state)))
        await asyncio.sleep(0.3)
        taken = watch.take()
    assert stage.node.store.get_proof(submission) is not None
    return _print("a block with a verdict", [taken], "fetched")


async def _bench(folder: Path) -> None:
    ledger = make_large_ledger(SUBMISSIONS, INTERVALS)
    async with (
        open_stage(folder, ledger=ledger, retracer=Idle()) as stage,
        LoopWatch() as watch,
    ):
        print(
            f"chain of {stage.node.runtime.state.height} blocks, {SUBMISSIONS} submissions of"
            f" {INTERVALS} intervals"
        )
        await asyncio.sleep(1.0)
        watch.take()
        await asyncio.sleep(1.0)
        _print("nothing at all", [watch.take()], "")
        requests = make_hostile_requests(stage.node)
        lates = [await _measure(watch, stage, name, raw) for name, raw in requests.items()]
        lates.append(await _measure_block(watch, stage, ledger))
        lates.append(await _measure_verdict(watch, stage, ledger))
        print(f"busiest of all {max(lates):.1f} ms; the aim is {LIMIT_MS}")


def bench_stalls() -> None:
    """Print how late the event loop was during each hostile request."""
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_bench(Path(name)))
