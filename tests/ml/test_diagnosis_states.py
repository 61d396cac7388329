"""`diagnose` where the state differs, and what it says where no cause is confirmed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from milepost_ml.diagnosis.findings import describe
from milepost_ml.diagnosis.search import diagnose
from tests.support.breaking import (
    MLP_TENSORS,
    at,
    clamp,
    confirm,
    hook_step,
    poison,
)
from tests.support.models import make_task
from tests.support.training import Loop, record

pytestmark = pytest.mark.slow  # every test records, and trains again in several ways


def test_weights_that_something_else_changes(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, cheat=hook_step(clamp, 2)), 0)
    assert found.cause is not None
    assert (found.step, found.parts, found.tensors) == (2, ("state",), ("model.first.weight",))
    assert (found.cause.name, found.cause.confirmed) == ("state-parameter", False)
    assert "first.weight" in found.cause.text
    assert found.tried


def test_a_buffer_that_something_else_changes(tmp_path: Path) -> None:
    def drift(model: nn.Module) -> None:
        model.get_buffer("body.1.running_mean").add_(0.1)

    found = diagnose(record(tmp_path, task="convnet", clip=drift), 0)
    assert found.cause is not None
    assert (found.step, found.tensors) == (0, ("model.body.1.running_mean",))
    assert (found.cause.name, found.cause.confirmed) == ("state-buffer", False)
    assert "buffers (body.1.running_mean)" in found.cause.text


class Counting(nn.Module):
    """Remembers how often it was called, where nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(12, 4)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += not torch.compiler.is_exporting()
        result: torch.Tensor = self.only(x) / (1.0 if self.calls < 4 else 2.0)
        return result


def test_state_that_is_not_registered(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, task=make_task("mlp")._replace(make=Counting)), 0)
    assert found.cause is not None
    assert found.parts == ("gradient", "loss", "state")
    assert found.tensors == ("only.weight", "only.bias")
    assert found.cause.name == "forward"
    assert "without registering it as a buffer" in found.cause.text


def test_weights_that_stay_where_they_were(tmp_path: Path) -> None:
    kept: list[torch.Tensor] = []

    def keep(number: int, loop: Loop) -> None:
        kept[:] = [loop.model.get_parameter("first.bias").detach().clone()]
        if number == 2:
            hook_step(restore, 2)(2, loop)

    @torch.no_grad()
    def restore(model: nn.Module) -> None:
        model.get_parameter("first.bias").copy_(kept[0])

    found = diagnose(record(tmp_path, cheat=keep), 0)
    confirm(found, "frozen", 2)
    assert found.tensors == ("model.first.bias",)


@pytest.mark.parametrize(
    ("cause", "average", "step"), [("averaged-weights", 0.5, 3), ("restored-weights", None, 8)]
)
def test_weights_that_are_not_those_of_the_step_before(
    cause: str, average: float | None, step: int, tmp_path: Path
) -> None:
    """`.data` is not counted as a change by PyTorch."""
    averages: dict[str, torch.Tensor] = {}

    def follow(number: int, loop: Loop) -> None:
        """What the run's own averages are; without decay, the weights at the interval's start."""
        for name, weight in loop.model.named_parameters():
            if average is not None and number:
                averages[name].lerp_(weight.detach(), 1 - average)
            elif number in (0, 5):
                averages[name] = weight.detach().clone()
        if number == step:
            for name, weight in loop.model.named_parameters():
                weight.data.copy_(averages[name])

    found = diagnose(record(tmp_path, cheat=follow, average=average), step // 5)
    confirm(found, cause, step)


def test_what_nothing_explains_says_what_was_tried(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, cheat=at(2, poison)), 0)
    assert found.cause is not None
    assert (found.step, found.tensors, found.compared) == (2, MLP_TENSORS, 4)
    assert (found.cause.name, found.cause.confirmed) == ("forward", False)
    assert "other batches" in found.tried
    assert [label for label, _ in describe(found)] == [
        "first difference", "tensors", "usual cause", "tried, not it",
    ]  # fmt: skip
