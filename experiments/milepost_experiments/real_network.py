"""Models judged by a real network: node processes on this machine, some of which lie.

Everything is as in a network of strangers, over HTTP on 127.0.0.1: records travel, the beacon draws
the verifiers, their workers retrain, blocks carry the answers, and the verdict is checked against
the trust file.  Keys are drawn anew, so that no two networks decide by the same draw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from milepost import bundle, delivery
from milepost.errors import Refused
from milepost.network import write_network
from milepost.processes import LocalNetwork
from milepost_consensus.params import Params
from milepost_consensus.submissions import MISSED, OPEN, Submission
from milepost_consensus.verdicts import INVALID, UNDECIDED, VALID
from milepost_experiments.experiment import Row, Value
from milepost_experiments.mnist_runs import Run, plan_runs, read_run, record_run, retrace_run
from milepost_experiments.points import FIVE, RECORDED, Count, make_row

VERDICT_SECONDS: Final = 900.0


def judge_runs(
    *,
    nodes: int,
    liars: int,
    mode: str,
    steps_per_interval: int,
    share: float,
    params: Params,
    limit: int | None = None,
) -> list[Row]:
    """Let one network judge the runs of the paper's test set; one row a run.

    The last `liars` nodes behave as `mode` says.  `limit` takes only so many runs.
    """
    with tempfile.TemporaryDirectory() as parent:
        runs, folders = _record(Path(parent) / "runs", steps_per_interval, share, limit)
        network = Path(parent) / "network"
        malicious = {nodes - 1 - number: mode for number in range(liars)}
        homes = write_network(
            network, name="experiment", nodes=nodes, malicious=malicious, params=params
        )
        with LocalNetwork(homes) as running:
            running.start()
            running.wait_ready()
            # All at once: the network works on them side by side.
            for folder in folders:
                delivery.submit(folder, network=network)
            point: dict[str, Value] = {"rule": "witness", "mode": mode, "nodes": nodes}
            point |= {"malicious": liars / nodes, "liars": liars}
            point |= {"poisoned": FIVE, "flags": RECORDED}
            return [
                make_row(run, _follow(run, folder, network), 1, point)
                for run, folder in zip(runs, folders, strict=True)
            ]


def _record(
    parent: Path, steps_per_interval: int, share: float, limit: int | None
) -> tuple[list[Run], list[Path]]:
    runs, folders = [], []
    for plan in plan_runs(0)[:limit]:
        folder, measured = record_run(plan, parent, steps_per_interval, share)
        runs.append(read_run(plan, retrace_run(folder, measured)))
        folders.append(folder)
    return runs, folders


def _follow(run: Run, folder: Path, network: Path) -> Count:
    # Submitting again follows what is open; what is decided by then is refused, with its proof.
    try:
        delivery.submit(folder, network=network, wait=True, timeout_seconds=VERDICT_SECONDS)
    except Refused as error:
        if error.slug != "duplicate":
            raise
    decided = bundle.read_proof(folder / bundle.PROOF_FILE).bundle
    outcome = decided.verdict.outcome
    return Count(
        right=int(outcome == (VALID if run.valid else INVALID)),
        valid=int(outcome == VALID),
        invalid=int(outcome == INVALID),
        undecided=int(outcome == UNDECIDED),
        trained=sum(run.truths[interval].trained for interval in _get_answered(decided.submission)),
        panel=sum(
            len(accusation.answers) - len(accusation.accusers)
            for accusation in decided.submission.accusations
        ),
        extended=int(decided.submission.extensions > 0),
    )


def _get_answered(submission: Submission) -> Sequence[int]:
    """The interval of every duty that somebody did."""
    return [duty.interval for duty in submission.duties if duty.answer not in (OPEN, MISSED)]
