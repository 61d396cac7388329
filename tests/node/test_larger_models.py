"""A ResNet-18 and a small transformer, trained on real data, submitted to real nodes and judged.

The ResNet has 181 times the weights of the demo's LeNet-5, and its snapshots are 89 MB: what holds
for the small runs of the other tests must hold there within the limits that every node has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from milepost import bundle, delivery, network
from milepost.answers import verify
from milepost.processes import LocalNetwork
from milepost_consensus.params import Params
from milepost_consensus.submissions import AGREES, UPHELD, Submission
from milepost_consensus.verdicts import FULL, INVALID, VALID, Verdict
from tests.support.larger_models import make_digits_task, make_text_task
from tests.support.models import Task, make_model
from tests.support.training import Cheat, Loop, make_sgd, record

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODES = 4
LARGE_BYTES = 80_000_000


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a network of four nodes that run."""
    folder = tmp_path_factory.mktemp("larger") / "net"
    homes = network.write_network(
        folder, name="larger", nodes=NODES, params=Params(idle_block_ms=500)
    )
    with LocalNetwork(homes) as running:
        running.start()
        running.wait_ready()
        yield folder


@pytest.fixture(scope="module")
def digits() -> Task:
    return make_digits_task()


def judge(net: Path, run: Path) -> tuple[Submission, Verdict]:
    """What the network makes of a run."""
    done = delivery.submit(run, network=net, wait=True)
    assert done.checked
    assert done.proof is not None
    proof = bundle.read_proof(done.proof).bundle
    return proof.submission, proof.verdict


def assert_valid(net: Path, run: Path, *, intervals: int) -> None:
    """The network finds a run VALID, all of it retraced, and its model file verifies offline."""
    submission, verdict = judge(net, run)
    assert (verdict.outcome, verdict.assurance, verdict.profile) == (VALID, FULL, "exact")
    assert not submission.accusations
    assert {duty.interval for duty in submission.duties} == set(range(intervals))
    assert {duty.answer for duty in submission.duties} == {AGREES}
    report = verify(run / "model.safetensors", trust=net / "network.trust")
    assert (report.verdict, report.subject["assurance"]) == ("accepted", FULL)


def count_weights(task: Task) -> int:
    return sum(each.numel() for each in make_model(task).parameters())


def record_resnet(folder: Path, task: Task, *, seed: int, cheat: Cheat | None = None) -> Path:
    """Four steps of SGD with momentum in two intervals."""
    run = record(
        folder,
        task=task,
        make=make_sgd,
        steps=4,
        every=2,
        batch_size=4,
        profile="exact",
        seed=seed,
        cheat=cheat,
    )
    assert (run / "mileposts" / "00002.safetensors").stat().st_size > LARGE_BYTES
    return run


def test_a_resnet_is_recorded_retraced_and_verified(
    net: Path, digits: Task, tmp_path: Path
) -> None:
    assert count_weights(digits) == 11_173_962
    assert_valid(net, record_resnet(tmp_path, digits, seed=5), intervals=2)


def test_one_poisoned_batch_of_a_resnet_is_found(net: Path, digits: Task, tmp_path: Path) -> None:
    """Not the first step of its interval: the state before it goes from node to node."""

    def poison(step: int, loop: Loop) -> None:
        if step == 3:
            loop.batch[1] = (loop.batch[1] + 1) % 10

    submission, verdict = judge(net, record_resnet(tmp_path, digits, seed=6, cheat=poison))
    assert verdict.outcome == INVALID
    assert [(each.interval, each.step) for each in verdict.refuted] == [(1, 3)]
    (accusation,) = submission.accusations
    assert accusation.outcome == UPHELD
    assert any(accusation.pre_state)
    assert not verdict.overruled


def make_adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-4)


def test_a_transformer_is_recorded_retraced_and_verified(net: Path, tmp_path: Path) -> None:
    task = make_text_task()
    assert count_weights(task) == 834_304
    run = record(
        tmp_path, task=task, make=make_adamw, steps=8, every=4, batch_size=4, profile="exact"
    )
    assert_valid(net, run, intervals=2)
