"""Gradient accumulation: several batches make one step, and every one of them is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.errors import RecordingError
from milepost_ml.files import RECIPE, FolderFiles
from milepost_ml.keyed import Order
from milepost_ml.optimizing import average
from milepost_ml.recipe import Recipe, encode_recipe
from milepost_ml.record_files import read_recipe, read_steps
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from tests.support.models import MLP, make_model, make_task
from tests.support.training import make_sgd, record

PROFILES = ("exact", "rounded", "class")


def read(folder: Path) -> Recipe:
    return read_recipe(FolderFiles(folder))[1]


def rewrite(folder: Path, **fields: Any) -> None:
    recipe = msgspec.structs.replace(read(folder), **fields)
    (folder / RECIPE).write_bytes(encode_recipe(recipe))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("task", ["mlp", "convnet"])
def test_accumulated_steps_retrace(task: str, profile: str, tmp_path: Path) -> None:
    """With dropout and batch normalisation, which go on from batch to batch."""
    folder = record(tmp_path, task=task, profile=profile, steps=7, accumulate=3)
    recipe = read(folder)
    assert (recipe.accumulate, recipe.batch_size, recipe.steps) == (3, 8, 7)
    assert all(retrace_recorded(folder, k).agrees for k in range(2))
    submit, _ = build_submit(folder)
    validate_record(submit, FolderFiles(folder))
    assert json.loads((folder / "run.json").read_text())["accumulate"] == 3


def test_a_step_takes_the_batches_in_order_and_logs_their_mean(tmp_path: Path) -> None:
    folder = record(tmp_path, profile="class", steps=5, accumulate=2)
    recipe, task = read(folder), make_task("mlp")
    order = Order(seed=recipe.seed_bytes, records=40, batch_size=8)
    model = make_model(task)
    optimizer = make_sgd(model)
    for step, row in enumerate(read_steps(FolderFiles(folder), recipe, 0)):
        losses = []
        for number in (2 * step, 2 * step + 1):
            rows = torch.from_numpy(order.get_indices(number))
            loss = task.loss(model(task.inputs[rows]), task.targets[rows])
            (loss / 2).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        assert row.loss == np.float32((losses[0] + losses[1]) / 2).tobytes()


def test_losses_are_added_in_order() -> None:
    assert average([3.5]) == 3.5
    assert average([2.0**53, 1.0, 1.0]) == 2.0**53 / 3  # from left to right, not compensated
    assert average([1.0, 1.0, 2.0**53]) == (2.0**53 + 2) / 3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_another_number_of_batches_than_declared_is_found(accumulate: int, tmp_path: Path) -> None:
    folder = record(tmp_path, profile="exact", steps=4, every=4, accumulate=2)
    rewrite(folder, accumulate=accumulate)
    found = retrace_recorded(folder, 0)
    assert (found.step, found.part) == (0, "batch")


def test_a_loss_that_is_not_divided_is_found(tmp_path: Path) -> None:
    """The loop forgets to divide in step 5 only, the first of the second interval."""

    def forget(number: int, loop: Any) -> None:
        if number in (10, 11):
            for parameter in loop.model.parameters():
                parameter.grad = None if parameter.grad is None else parameter.grad * 2

    folder = record(tmp_path, profile="exact", steps=7, accumulate=2, cheat=forget)
    assert retrace_recorded(folder, 0).agrees
    found = retrace_recorded(folder, 1)
    assert (found.step, found.part) == (5, "gradient")


def train(folder: Path, body: Any, **options: Any) -> None:
    model = MLP()
    optimizer = make_sgd(model)
    task = make_task("mlp")
    settings: dict[str, Any] = {"every": 3, "folder": folder, "profile": "class", **options}
    run = Run(
        "test", model, optimizer, loss=task.loss, selfcheck=False, quiet=True, seed=1, **settings
    )
    for number, (x, y) in enumerate(run.batches(task.inputs, task.targets, batch_size=8, steps=4)):
        loss = task.loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        body(run, optimizer, loss, number)
    run.finish()


def test_accumulating_without_saying_so_is_refused_with_what_to_say(tmp_path: Path) -> None:
    def skip(run: Run, optimizer: torch.optim.Optimizer, loss: torch.Tensor, number: int) -> None:
        run.log(loss)
        if number % 2:
            optimizer.step()

    with pytest.raises(RecordingError, match="accumulate=") as caught:
        train(tmp_path, skip)
    assert caught.value.slug == "one-step-per-batch"


@pytest.mark.parametrize(
    ("logs", "steps", "told"),
    [((0, 1, 2), (1,), "batch 2 of 3"), ((0, 2), (2,), "run.log"), ((0, 1, 2), (), "opt.step")],
)
def test_another_pace_than_declared_is_refused(
    logs: tuple[int, ...], steps: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    def go(run: Run, optimizer: torch.optim.Optimizer, loss: torch.Tensor, number: int) -> None:
        if number in logs:
            run.log(loss)
        if number in steps:
            optimizer.step()

    with pytest.raises(RecordingError) as caught:
        train(tmp_path, go, accumulate=3)
    assert caught.value.slug == "one-step-per-batch"
    assert told in str(caught.value)


def test_a_run_that_ends_within_a_step_forgets_it(tmp_path: Path) -> None:
    model = MLP()
    optimizer, task = make_sgd(model), make_task("mlp")
    run = Run(
        "test", model, optimizer, loss=task.loss, every=2, folder=tmp_path, profile="class",
        selfcheck=False, quiet=True, accumulate=2,
    )  # fmt: skip
    batches = run.batches(task.inputs, task.targets, batch_size=8, steps=9)
    for number, (x, y) in enumerate(batches):
        loss = task.loss(model(x), y)
        (loss / 2).backward()  # type: ignore[no-untyped-call]
        run.log(loss)
        if number == 6:
            break
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    folder = run.finish()
    assert read(folder).steps == 3
    assert all(retrace_recorded(folder, k).agrees for k in range(2))


@pytest.mark.parametrize("accumulate", [0, -1, 2**20])
def test_impossible_numbers_are_refused(accumulate: int, tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        record(tmp_path, accumulate=accumulate)
    assert caught.value.slug in ("bad-plan", "bad-recipe")
