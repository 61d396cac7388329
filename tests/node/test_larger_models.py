"""A ResNet-18 and a small transformer, trained on real data, submitted to real nodes and judged.

The ResNet has 181 times the weights of the demo's LeNet-5, and its snapshots are 89 MB: what holds
for the small runs of the other tests must hold there within the limits that every node has.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from milepost import bundle, delivery, network
from milepost.answers import verify
from milepost.processes import LocalNetwork
from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.params import Params
from milepost_consensus.submissions import AGREES, UPHELD, Submission
from milepost_consensus.verdicts import FULL, INVALID, VALID, Verdict
from milepost_ml.files import get_snapshot_name
from tests.support.forging import forge_end
from tests.support.larger_models import make_digits_task, make_text_task
from tests.support.models import Task, make_model
from tests.support.training import MakeOptimizer, make_sgd, record

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODES = 4
EVERY = 2
STEPS = 4
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
def resnet_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of a ResNet-18 in two intervals."""
    task = make_digits_task()
    assert count_weights(task) == 11_173_962
    run = record_exactly(tmp_path_factory.mktemp("resnet"), task, make_sgd, batch_size=2)
    assert (run / get_snapshot_name(STEPS // EVERY)).stat().st_size > LARGE_BYTES
    return run


def count_weights(task: Task) -> int:
    return sum(each.numel() for each in make_model(task).parameters())


def record_exactly(folder: Path, task: Task, make: MakeOptimizer, *, batch_size: int) -> Path:
    return record(
        folder,
        task=task,
        make=make,
        steps=STEPS,
        every=EVERY,
        batch_size=batch_size,
        stride=1,
        profile="exact",
    )


def judge(net: Path, run: Path) -> tuple[Submission, Verdict]:
    """What the network makes of a run."""
    done = delivery.submit(run, network=net, wait=True)
    assert done.checked
    assert done.proof is not None
    proof = bundle.read_proof(done.proof).bundle
    return proof.submission, proof.verdict


def assert_valid(net: Path, run: Path) -> None:
    """The network finds a run VALID, all of it retraced, and its model file verifies offline."""
    submission, verdict = judge(net, run)
    assert (verdict.outcome, verdict.assurance, verdict.profile) == (VALID, FULL, "exact")
    assert not submission.accusations
    assert {duty.interval for duty in submission.duties} == set(range(STEPS // EVERY))
    assert {duty.answer for duty in submission.duties} == {AGREES}
    report = verify(run / "model.safetensors", trust=net / "network.trust")
    assert (report.verdict, report.subject["assurance"]) == ("accepted", FULL)


def test_a_resnet_is_retraced_and_its_model_verifies(net: Path, resnet_run: Path) -> None:
    assert_valid(net, resnet_run)


def test_one_weight_of_a_resnet_that_was_edited_is_found(
    net: Path, resnet_run: Path, tmp_path: Path
) -> None:
    """In the end state: the large state before the last step goes from node to node."""
    forged = tmp_path / "forged"
    shutil.copytree(resnet_run, forged)
    forge_end(forged, STEPS // EVERY - 1, "head.bias")
    submission, verdict = judge(net, forged)
    assert verdict.outcome == INVALID
    assert [(each.interval, each.step) for each in verdict.refuted] == [(1, STEPS - 1)]
    (accusation,) = submission.accusations
    assert accusation.outcome == UPHELD
    assert accusation.pre_state != ZERO_DIGEST
    assert not verdict.overruled


def make_adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-4)


def test_a_transformer_is_retraced_and_its_model_verifies(net: Path, tmp_path: Path) -> None:
    task = make_text_task()
    assert count_weights(task) == 834_304
    assert_valid(net, record_exactly(tmp_path, task, make_adamw, batch_size=4))
