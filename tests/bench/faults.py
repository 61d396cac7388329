"""What faults cost: figures of real nodes on lines and machines that fail.

    leader-crash gap   from the kill of the node whose turn it is until a block carries what was
                       handed to another node at that moment
    heal to commit     from the moment when lines are whole again until all nodes have a block that
                       none of them could make before
    catch-up           blocks per second that a node fetches, checks and stores
    restart            from the start of the process until the node answers, with a long chain

The timeouts are those of a network as `milepost dev` writes it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from milepost_consensus.params import Params
from tests.bench.stream import Stream, read_events
from tests.faults.network import FaultyNetwork, poll

NODES: Final = 4
REPEATS: Final = 5
CUT_SECONDS: Final = (2.0, 8.0)
LONG_CHAIN: Final = 500
SLOW: Final = Params(idle_block_ms=60_000, attest_window=100_000)
FAST: Final = Params(min_block_ms=1, idle_block_ms=1, attest_window=100_000)
"""An open submission makes blocks as fast as they come."""


@contextmanager
def _open_network(params: Params) -> Iterator[FaultyNetwork]:
    with (
        tempfile.TemporaryDirectory() as name,
        FaultyNetwork(Path(name), NODES, params=params) as network,
    ):
        network.start()
        network.wait_ready()
        yield network


def _describe(values: Sequence[float]) -> str:
    listed = ", ".join(f"{value:.2f}" for value in sorted(values))
    return f"median {statistics.median(values):.2f} s of {listed}"


def _measure_commit(network: FaultyNetwork, stream: Stream, index: int, *readers: int) -> float:
    """Seconds from handing in a transaction until these nodes are a block further."""
    height = max(network.get_height(reader) for reader in readers)
    begin = time.monotonic()
    stream.post(index)
    network.wait_height(height + 1, *readers)
    return time.monotonic() - begin


def _measure_leader_crashes(network: FaultyNetwork, stream: Stream) -> None:
    usual, gaps = [], []
    for _ in range(REPEATS):
        usual.append(_measure_commit(network, stream, 0, *network.all))
        leader = network.find_leader(0)
        others = [index for index in network.all if index != leader]
        network.kill(leader)
        gaps.append(_measure_commit(network, stream, others[0], *others))
        network.start(leader)
        network.wait_ready(leader)
        network.wait_height(network.get_height(others[0]), leader)
    print(f"commit with all leaders up: {_describe(usual)}")
    print(f"leader-crash gap: {_describe(gaps)}")


def _measure_heals(network: FaultyNetwork, stream: Stream) -> None:
    half = NODES // 2
    for seconds in CUT_SECONDS:
        taken = []
        for _ in range(REPEATS):
            network.lab.part(range(half), range(half, NODES))
            height = max(map(network.get_height, network.all))
            stream.post(0)
            stream.post(half)
            time.sleep(seconds)
            begin = time.monotonic()
            network.lab.heal()
            network.wait_height(height + 1)
            taken.append(time.monotonic() - begin)
            poll(lambda: not any(network.get_status(i)["mempool"] for i in network.all), "carried")
        print(f"heal to commit after {seconds:g} s in halves: {_describe(taken)}")


def _measure_long_chain(network: FaultyNetwork) -> None:
    begin, first = time.monotonic(), network.get_height(0)
    poll(lambda: network.get_height(0) >= LONG_CHAIN, f"{LONG_CHAIN} blocks", seconds=600)
    rate = (network.get_height(0) - first) / (time.monotonic() - begin)
    print(f"empty blocks one after the other: {rate:.0f} a second")
    for index in (1, 2, 3):
        network.stop(index)  # node 0 alone decides nothing more, and is left to be asked
    network.wipe(3)
    begun = time.time() * 1_000
    network.start(3)
    height = network.get_height(0)
    network.wait_height(height, 3)
    fetched = [at for at, _ in read_events(network, 3, "block") if at > begun]
    seconds = (fetched[-1] - fetched[0]) / 1_000
    print(f"catch-up: {len(fetched) / seconds:.0f} blocks a second ({len(fetched)} blocks)")
    network.kill(3)
    taken = []
    for _ in range(3):
        begin = time.monotonic()
        network.start(3)
        poll(lambda: network.get_height(3) == height, "restarted")
        taken.append(time.monotonic() - begin)
        network.kill(3)
    print(f"restart with {height} blocks until it answers: {_describe(taken)}")


def bench_faults() -> None:
    """Print what faults cost."""
    with _open_network(SLOW) as network:
        stream = Stream(network)
        _measure_leader_crashes(network, stream)
        _measure_heals(network, stream)
    with _open_network(FAST) as network:
        Stream(network)
        _measure_long_chain(network)
