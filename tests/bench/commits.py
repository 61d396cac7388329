"""Commit latency as a client of seven real nodes sees it.

One transaction at a time is posted to the nodes in turn, at a pace that leaves them idle between.
The latency runs from the moment before the POST to the log line of that node that says that the
block which carries it is decided and on disk, and for "all nodes" to the last node's such line.

The last line says what else the processors did: a commit is a tenth of a second of processor time,
spread over all nodes, so with other programs beside them everything waits, on all nodes alike, and
once a commit takes longer than the pace the next transactions wait for it too.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from milepost_consensus.params import Params
from tests.bench.stream import Stream, read_events, read_heights
from tests.faults.network import FaultyNetwork, poll

NODES: Final = 7
COUNT: Final = 140
PACE_SECONDS: Final = 0.2
PARAMS: Final = Params(idle_block_ms=60_000, attest_window=100_000)
"""Blocks come when there is something to carry, and only then."""


def describe(name: str, values: Sequence[float], unit: str) -> str:
    """Median, 95th percentile and largest in one line."""
    cuts = statistics.quantiles(values, n=20)
    return (
        f"{name}: p50 {statistics.median(values):.0f} {unit}, p95 {cuts[-1]:.0f} {unit},"
        f" largest {max(values):.0f} {unit} ({len(values)} measured)"
    )


def read_processor_seconds(processes: Iterable[int]) -> float:
    """What these processes have taken so far."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def read_machine_seconds() -> tuple[float, float]:
    """What all processors have worked and waited so far."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    times = [int(field) / os.sysconf("SC_CLK_TCK") for field in first.split()[1:9]]
    waited = times[3] + times[4]
    return sum(times) - waited, waited


def bench_commits() -> None:
    """Print p50 and p95 of commit latency with seven nodes."""
    with (
        tempfile.TemporaryDirectory() as name,
        FaultyNetwork(Path(name), NODES, params=PARAMS) as network,
    ):
        network.start()
        network.wait_ready()
        stream = Stream(network)
        posted = []
        processes = [process.pid for process in network.running.values()] + [os.getpid()]
        begun, (worked, waited) = read_processor_seconds(processes), read_machine_seconds()
        for number in range(COUNT):
            index = number % NODES
            posted.append((index, *stream.post(index)))
            time.sleep(PACE_SECONDS)
        poll(lambda: not any(network.get_status(i)["mempool"] for i in network.all), "all carried")
        own_seconds = read_processor_seconds(processes) - begun
        worked, waited = (
            now - before
            for now, before in zip(read_machine_seconds(), (worked, waited), strict=True)
        )
        network.wait_height(max(map(network.get_height, network.all)))
        heights = read_heights(network, 0)
        decided = [
            {entry["height"]: at for at, entry in read_events(network, index, "block")}
            for index in network.all
        ]
        own, all_nodes = [], []
        for index, tx_id, begin in posted:
            times = [node[heights[tx_id]] - begin for node in decided]
            own.append(times[index])
            all_nodes.append(max(times))
        print(describe(f"commit latency at the node asked, {NODES} nodes", own, "ms"))
        print(describe(f"commit latency at all {NODES} nodes", all_nodes, "ms"))
        others = max(0.0, worked - own_seconds) / (worked + waited)
        print(
            f"processor time {1_000 * own_seconds / COUNT:.0f} ms per commit on all nodes and here;"
            f" other programs took {others:.0%} of the processors meanwhile"
        )
