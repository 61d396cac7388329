"""`diagnose` on loops that really break in one way: step, tensors and cause are named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from milepost_ml.augmentation import Flip
from milepost_ml.diagnosis.findings import Diagnosis, describe
from milepost_ml.diagnosis.search import diagnose
from milepost_ml.keyed import Order, make_seed
from tests.support.breaking import (
    MLP_TENSORS,
    SwitchedLoss,
    at,
    confirm,
    evaluate_forward,
    pass_again,
    stop_zeroing,
)
from tests.support.models import make_task
from tests.support.training import Loop, record

pytestmark = pytest.mark.slow  # every test records, and trains again in several ways


def test_a_run_that_repeats_has_nothing_to_explain(tmp_path: Path) -> None:
    folder = record(tmp_path)
    for interval in range(3):
        assert diagnose(folder, interval) == Diagnosis(interval, repeats=True)
    assert describe(diagnose(folder, 1)) == []


@pytest.mark.parametrize("profile", ["class", "rounded", "exact"])
@pytest.mark.parametrize("stride", [1, 5])
def test_gradients_that_are_not_cleared(profile: str, stride: int, tmp_path: Path) -> None:
    folder = record(tmp_path, cheat=at(0, stop_zeroing), profile=profile, stride=stride)
    found = diagnose(folder, 0)
    confirm(found, "kept-gradients", 1)
    assert found.tensors == MLP_TENSORS
    assert found.tensors_of == "gradient"


@pytest.mark.parametrize(
    ("cause", "options"),
    [
        ("clipped-norm", {"clip": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.5)}),
        ("clipped-value", {"clip": lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.1)}),
        ("not-clipped", {"clip_norm": 0.5}),
        ("clipped-norm", {
            "clip": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.25), "clip_norm": 0.5,
        }),
    ],
)  # fmt: skip
def test_clipping_that_is_not_as_declared(
    cause: str, options: dict[str, Any], tmp_path: Path
) -> None:
    found = diagnose(record(tmp_path, **options), 0)
    confirm(found, cause, 0)
    assert "loss" not in found.parts


@pytest.mark.parametrize(
    ("cause", "declared", "other", "task"),
    [
        ("summed", {}, {"reduction": "sum"}, "mlp"),
        ("summed", {}, {"reduction": "sum"}, "mlp-mse"),
        ("averaged", {"reduction": "sum"}, {}, "mlp"),
        ("smoothed", {}, {"label_smoothing": 0.1}, "mlp"),
        ("not-smoothed", {"label_smoothing": 0.1}, {}, "mlp"),
    ],
)
def test_another_loss_than_declared(
    cause: str, declared: dict[str, Any], other: dict[str, Any], task: str, tmp_path: Path
) -> None:
    chosen = make_task(task)
    loss = SwitchedLoss(partial(chosen.loss, **declared), partial(chosen.loss, **other))
    found = diagnose(record(tmp_path, task=chosen._replace(loss=loss), cheat=loss.switch(2)), 0)
    confirm(found, cause, 2)
    assert found.parts == ("gradient", "loss", "state")


def test_a_loss_that_is_not_divided_for_accumulation(tmp_path: Path) -> None:
    def undo(model: nn.Module) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(2)

    confirm(diagnose(record(tmp_path, clip=undo, accumulate=2, steps=6), 0), "undivided", 0)


@pytest.mark.parametrize("stride", [1, 5])
def test_a_forward_pass_in_evaluation_mode(stride: int, tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet", cheat=at(3, evaluate_forward), stride=stride)
    confirm(diagnose(folder, 0), "eval-mode", 3)


@pytest.mark.parametrize("stride", [1, 5])
def test_a_forward_pass_too_many(stride: int, tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet", cheat=at(2, pass_again), stride=stride)
    confirm(diagnose(folder, 0), "forward-before", 2)


def test_a_forward_pass_that_moves_buffers_alone(tmp_path: Path) -> None:
    task = make_task("convnet")
    batch = task.inputs[Order(seed=make_seed(3), records=40, batch_size=8).get_indices(0)]

    def measure(model: nn.Module) -> None:
        with torch.no_grad():
            model(batch)

    found = diagnose(record(tmp_path, task=task, clip=measure), 0)
    confirm(found, "forward-after", 0)
    assert found.parts == ("state",)
    assert found.tensors[0] == "model.body.1.running_mean"
    assert len(found.tensors) == 6


def test_augmentation_that_is_not_done(tmp_path: Path) -> None:
    task = make_task("lenet")
    order = Order(seed=make_seed(3), records=40, batch_size=8)

    def use_plain(number: int, loop: Loop) -> None:
        loop.batch[0] = task.inputs[order.get_indices(number)]

    folder = record(
        tmp_path,
        task=task,
        cheat=use_plain,
        steps=4,
        augment=(Flip(horizontal=True, vertical=False),),
    )
    confirm(diagnose(folder, 0), "not-augmented", 0)


def test_autocast_that_is_not_declared(tmp_path: Path) -> None:
    model_of = make_task("mlp")

    def cast(loop: Loop) -> None:
        def forward(x: torch.Tensor, plain: Any = loop.model.forward) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                result: torch.Tensor = plain(x)
            return result.float()

        loop.model.forward = forward

    found = diagnose(record(tmp_path, task=model_of, cheat=at(1, cast)), 0)
    confirm(found, "autocast", 1)


@pytest.mark.parametrize(
    ("cause", "choose"),
    [
        ("other-batch", lambda order, number: order.get_indices(7)),
        ("unshuffled", lambda order, number: np.arange(24, 32)),
        ("reversed-batch", lambda order, number: order.get_indices(number)[::-1].copy()),
        ("sorted-batch", lambda order, number: np.sort(order.get_indices(number))),
    ],
)
@pytest.mark.parametrize("stride", [1, 5])
def test_another_batch_than_the_one_that_was_given(
    stride: int, cause: str, choose: Callable[[Order, int], Any], tmp_path: Path
) -> None:
    task = make_task("mlp")
    rows = choose(Order(seed=make_seed(3), records=40, batch_size=8), 3)

    def swap(loop: Loop) -> None:
        loop.batch[:] = [task.inputs[rows], task.targets[rows]]

    found = diagnose(record(tmp_path, task=task, cheat=at(3, swap), stride=stride), 0)
    confirm(found, cause, 3)
    if cause == "other-batch":
        assert found.cause is not None
        assert "trained batch 7 where it was given batch 3" in found.cause.text


@pytest.mark.parametrize(
    ("factor", "cause", "text"),
    [(0.0, "gradient-zero", "zero"), (0.5, "gradient-scaled", "0.5 times")],
)
def test_one_gradient_that_was_changed_is_named(
    factor: float, cause: str, text: str, tmp_path: Path
) -> None:
    def change(model: nn.Module) -> None:
        gradient = model.get_parameter("second.weight").grad
        assert gradient is not None
        gradient.mul_(factor)

    found = diagnose(record(tmp_path, clip=change), 0)
    confirm(found, cause, 0)
    assert found.tensors == ("second.weight",)
    assert found.cause is not None
    assert f"second.weight are {text}" in found.cause.text


def test_a_loss_that_is_logged_times_a_factor(tmp_path: Path) -> None:
    task = make_task("mlp")

    class Logged(torch.autograd.Function):
        """Twice the loss, with the gradient of the loss."""

        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return 2 * loss

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0]

    def double(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = Logged.apply(  # type: ignore[no-untyped-call]
            task.loss(output, target)
        )
        return result

    loss = SwitchedLoss(task.loss, double)
    found = diagnose(record(tmp_path, task=task._replace(loss=loss), cheat=loss.switch(1)), 0)
    confirm(found, "loss-scaled", 1)
    assert found.parts == ("loss",)
