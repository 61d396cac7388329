"""`diagnose` on whole records: changed files, later intervals, other machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost_ml import graph
from milepost_ml.diagnosis.findings import describe
from milepost_ml.diagnosis.search import diagnose
from milepost_ml.files import DATA, TENSORS, get_steps_name
from milepost_ml.keyed import Order, make_seed
from milepost_ml.recipe import get_snapshot_specs
from milepost_ml.recorded import read_recorded
from milepost_ml.snapshots import read_tensors, write_tensors
from milepost_ml.tensor_digests import read_tensor_digests
from tests.support.breaking import (
    MLP_TENSORS,
    SwitchedLoss,
    at,
    clamp,
    confirm,
    hook_step,
    poison,
)
from tests.support.models import Task, make_task
from tests.support.training import record

pytestmark = pytest.mark.slow  # every test records, and trains again in several ways


def test_later_intervals_name_tensors_of_their_end(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, cheat=at(6, poison)), 1)
    assert (found.step, found.tensors_of) == (6, "end")
    assert found.tensors[0] == "model.first.weight"
    assert "zero_grad() left out" in found.tried
    assert any("at the interval's end" in text for _, text in describe(found))
    first = diagnose(record(tmp_path, cheat=at(5, poison)), 1)
    assert first.step == 5
    assert "zero_grad() left out" not in first.tried, "the gradient before it is not at hand"
    last = diagnose(record(tmp_path, cheat=hook_step(clamp, 9)), 1)
    assert (last.step, last.tensors_of, last.tensors) == (9, "state", ("model.first.weight",))


def test_changed_data_are_named(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=30)
    data = read_tensors(folder / DATA)
    data["data.0"][17] += 1
    write_tensors(folder / DATA, data)
    order = Order(seed=make_seed(3), records=40, batch_size=8)
    step = next(step for step in range(5) if 17 in order.get_indices(step))
    found = diagnose(folder, 0)
    confirm(found, "data-records", step)
    assert found.cause is not None
    assert "record 17 is not what was fed" in found.cause.text
    data["data.0"] += 1
    write_tensors(folder / DATA, data)
    confirm(diagnose(folder, 0), "data-records", 0)


def test_steps_in_another_order_are_named(tmp_path: Path) -> None:
    folder = record(tmp_path)
    first, second = (folder / get_steps_name(interval) for interval in (0, 1))
    first.write_bytes(second.read_bytes())
    found = diagnose(folder, 0)
    confirm(found, "data-order", 0)
    assert found.cause is not None
    assert "the one that recipe and data give step 5" in found.cause.text


def test_an_operator_that_answers_differently_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path)
    plain, calls = graph.get_operator, iter(range(1_000_000))

    def get_operator(name: str) -> Callable[..., Any]:
        kernel = plain(name)
        if name != "tanh":
            return kernel
        return lambda value: kernel(value) * (1 + 1e-6 * next(calls))

    monkeypatch.setattr(graph, "get_operator", get_operator)
    found = diagnose(folder, 0)
    confirm(found, "unsteady", 0)
    assert found.cause is not None
    assert "the operator tanh" in found.cause.text
    assert "after first.weight, first.bias" in found.cause.text


def test_an_operator_whose_gradient_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path)
    plain, calls = graph.get_operator, iter(range(1_000_000))

    class Noisy(torch.autograd.Function):
        """tanh with a gradient that is another one each time."""

        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return torch.tanh(value)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * next(calls)

    def get_operator(name: str) -> Callable[..., Any]:
        return Noisy.apply if name == "tanh" else plain(name)

    monkeypatch.setattr(graph, "get_operator", get_operator)
    found = diagnose(folder, 0)
    confirm(found, "unsteady", 0)
    assert found.cause is not None
    assert "the backward pass, in first.weight" in found.cause.text


def test_within_a_tolerance_the_end_decides(tmp_path: Path) -> None:
    options: dict[str, Any] = {"profile": "tolerance", "tolerance": 1e-3, "every": 5}
    assert diagnose(record(tmp_path, **options), 0).repeats
    clipped = record(
        tmp_path, clip=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.5), **options
    )
    found = diagnose(clipped, 0)
    confirm(found, "clipped-norm", 0)
    assert found.tensors_of == "end"
    assert any("only the end of steps 0 to 4" in text for _, text in describe(found))
    strange = diagnose(record(tmp_path, cheat=at(3, poison), **options), 0)
    assert strange.cause is not None
    assert (strange.step, strange.cause.name) == (3, "forward")


def test_another_number_of_threads(tmp_path: Path) -> None:
    """Two threads divide the sums of a convolution's gradient otherwise than one."""
    before = torch.get_num_threads()
    try:
        folder = record(
            tmp_path, task=make_task("lenet", 200), batch_size=128, steps=2, every=2,
            cheat=at(0, lambda loop: torch.set_num_threads(2)),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    confirm(diagnose(folder, 0), "threads", 0)


def test_digests_by_tensor_are_kept_of_the_first_interval(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=9, every=5, stride=2)
    recipe = read_recorded(folder)
    rows = read_tensor_digests(folder, recipe)
    assert rows is not None
    assert len(rows) == 3
    assert set(rows[0].gradients) == set(MLP_TENSORS)
    assert set(rows[0].state) == {spec.name for spec in get_snapshot_specs(recipe, 1)}
    kept = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(kept[: len(kept) // 3])
    assert read_tensor_digests(folder, recipe) == rows[:1]
    (folder / TENSORS).write_bytes(b"x")
    assert read_tensor_digests(folder, recipe) is None
    assert diagnose(folder, 0).repeats


def test_records_without_them_name_tensors_of_the_end(tmp_path: Path) -> None:
    folder = record(tmp_path, cheat=at(2, poison))
    (folder / TENSORS).unlink()
    assert diagnose(folder, 0).tensors_of == "end"


def test_a_step_that_cannot_be_computed_says_why(tmp_path: Path) -> None:
    task: Task = make_task("mlp")
    folder = record(tmp_path, task=task)
    data = read_tensors(folder / DATA)
    data["data.1"][:] = 9
    write_tensors(folder / DATA, data)
    found = diagnose(folder, 0)
    assert found.parts == ("failed",)
    assert found.cause is not None
    assert "Target 9 is out of bounds" in found.cause.text


def test_functional_losses_are_edited_where_they_stand(tmp_path: Path) -> None:
    """A mean that is declared as a product is no reduction to swap."""
    task = make_task("mlp")
    loss = SwitchedLoss(
        lambda output, target: functional.cross_entropy(output, target, reduction="sum"),
        functional.cross_entropy,
    )
    found = diagnose(record(tmp_path, task=task._replace(loss=loss), cheat=loss.switch(1)), 0)
    confirm(found, "averaged", 1)
