"""A real network of seven nodes: seconds from submission to verdict, and block latency.

The latency of a block at a node is the time from the proposer's clock in its header to the node's
log line that it is decided and on disk; all nodes share one machine and one clock.  Blocks between
election and last answer are "retraining"; the witness window is stretched to `IDLE_BLOCKS` empty
blocks, in which nobody retrains: "idle".
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from milepost import bundle, delivery, network
from milepost.api import Client
from milepost.demo import HONEST, SCRIPT, Training, copy_script
from milepost.network import NodeHome
from milepost.processes import LocalNetwork
from milepost_consensus.params import Params
from milepost_consensus.submissions import Submission

NODES: Final = 7
IDLE_BLOCKS: Final = 60


def _read_decided_ms(home: Path) -> dict[int, float]:
    """When the node had each height on disk, in milliseconds since the epoch."""
    decided = {}
    for line in (home / "node.log").read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "block":
            decided[entry["height"]] = datetime.fromisoformat(entry["time"]).timestamp() * 1_000
    return decided


def _describe(latencies: Sequence[float], blocks: int) -> str:
    cuts = statistics.quantiles(latencies, n=20)
    return (
        f"{blocks} blocks at {NODES} nodes: p50 {statistics.median(latencies):.0f} ms,"
        f" p95 {cuts[-1]:.0f} ms, largest {max(latencies):.0f} ms"
    )


def _print_latencies(
    submission: Submission, last: int, homes: Sequence[NodeHome], client: Client
) -> None:
    answered = max(duty.height for duty in submission.duties)
    made = {
        height: client.block(height)["block"]["header"]["time_ms"] for height in range(1, last + 1)
    }
    decided = [_read_decided_ms(home.home) for home in homes]
    for name, heights in (
        ("retraining", range(submission.held_height + 1, answered + 1)),
        ("idle", range(answered + 2, last + 1)),
    ):
        latencies = [
            node[height] - made[height] for node in decided for height in heights if height in node
        ]
        print(f"block latency {name:10}: {_describe(latencies, len(heights))}")


def bench_ledger() -> None:
    """Print seconds from submission to verdict and block latency, retraining and idle."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "net"
        homes = network.write_network(
            folder,
            name="bench",
            nodes=NODES,
            params=Params(witness_window=IDLE_BLOCKS, idle_block_ms=250),
        )
        copy_script(folder)
        with (
            LocalNetwork(homes) as running,
            Training(folder / SCRIPT, folder / "runs") as training,
        ):
            training.start(HONEST)
            run = Path(training.wait(HONEST)["folder"])
            begin = time.monotonic()
            running.start()
            running.wait_ready()
            print(f"{NODES} nodes ready after {time.monotonic() - begin:.1f} s")
            begin = time.monotonic()
            done = delivery.submit(run, network=folder, wait=True)
            seconds = time.monotonic() - begin
            assert done.proof is not None
            assert done.verdict is not None
            submission = bundle.read_proof(done.proof).bundle.submission
            print(
                f"submission to verdict {seconds:.1f} s, the witness window of {IDLE_BLOCKS} idle"
                f" blocks included: {done.verdict.outcome}, {done.verdict.assurance},"
                f" {len(submission.duties)} retracings of {done.verdict.intervals} intervals"
            )
            with Client([home.url for home in homes]) as client:
                _print_latencies(submission, done.verdict.height, homes, client)
