"""Running averages of weights: state of the run like any other, and usable by the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.averages import EMA
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.files import RECIPE, FolderFiles, get_snapshot_name
from milepost_ml.recipe import encode_recipe
from milepost_ml.record_files import read_recipe
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from milepost_ml.snapshots import read_tensors, write_tensors
from tests.support.models import MLP, make_task
from tests.support.training import make_sgd, record

PROFILES = ("exact", "rounded", "class")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("task", ["mlp", "convnet"])
def test_averages_are_recorded_and_retrace(task: str, profile: str, tmp_path: Path) -> None:
    folder = record(tmp_path, task=task, profile=profile, average=0.9)
    _, recipe = read_recipe(FolderFiles(folder))
    assert recipe.ema_decay == 0.9
    assert all(retrace_recorded(folder, k).agrees for k in range(3))
    submit, _ = build_submit(folder)
    validate_record(submit, FolderFiles(folder))
    # A fresh run has none: before the first step an average is the weight itself.
    assert not any(
        name.endswith(".average") for name in read_tensors(folder / get_snapshot_name(0))
    )
    last = read_tensors(folder / get_snapshot_name(3))
    for item in recipe.parameters:
        average, weight = last[f"optimizer.{item.name}.average"], last[f"model.{item.name}"]
        assert average.dtype == np.float32
        assert average.shape == weight.shape
        assert not np.array_equal(average, weight)


def test_an_average_follows_the_weights(tmp_path: Path) -> None:
    folder = record(tmp_path, profile="exact", steps=4, every=1, average=0.75)
    start = read_tensors(folder / get_snapshot_name(0))
    average = start["model.first.weight"]
    for step in range(1, 5):
        state = read_tensors(folder / get_snapshot_name(step))
        # E14: start + weight * (end - start), each operation in float32.
        average = average + np.float32(0.25) * (state["model.first.weight"] - average)
        assert np.array_equal(average, state["optimizer.first.weight.average"])


def read_average(tensors: dict[str, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = tensors["optimizer.first.weight.average"]
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_the_loop_can_use_the_averages(profile: str, tmp_path: Path) -> None:
    model, task = MLP(), make_task("mlp")
    optimizer, ema = make_sgd(model), EMA(model, decay=0.9)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=3, folder=tmp_path, profile=profile,
        selfcheck=False, quiet=True, ema=ema,
    )  # fmt: skip
    for x, y in run.batches(task.inputs, task.targets, batch_size=8, steps=6):
        loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
        with run.paused(), ema.applied():
            assert torch.equal(model.first.weight, ema.averages["first.weight"].float())
            model(task.inputs)
    folder = run.finish()
    assert all(retrace_recorded(folder, k).agrees for k in range(2))
    last = read_tensors(folder / get_snapshot_name(2))
    averaged = ema.make_model().get_parameter("first.weight")
    assert averaged.dtype == torch.float32
    assert np.array_equal(averaged.detach().numpy(), read_average(last))
    assert np.array_equal(model.first.weight.detach().numpy(), last["model.first.weight"])


@pytest.mark.parametrize("decay", [None, 0.8])
def test_another_decay_than_declared_is_found(decay: float | None, tmp_path: Path) -> None:
    folder = record(tmp_path, profile="exact", average=0.9)
    _, recipe = read_recipe(FolderFiles(folder))
    told = msgspec.structs.replace(recipe, ema_decay=decay)
    (folder / RECIPE).write_bytes(encode_recipe(told))
    if decay is None:
        with pytest.raises(InvalidRecord, match="average"):
            retrace_recorded(folder, 0)
    else:
        found = retrace_recorded(folder, 0)
        assert (found.step, found.part) == (0, "state")


def test_a_changed_average_is_found(tmp_path: Path) -> None:
    """A loop that moves an average at step 6."""
    model, task = MLP(), make_task("mlp")
    optimizer, ema = make_sgd(model), EMA(model, decay=0.9)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=5, folder=tmp_path, profile="exact",
        selfcheck=False, quiet=True, ema=ema,
    )  # fmt: skip
    batches = run.batches(task.inputs, task.targets, batch_size=8, steps=10)
    for step, (x, y) in enumerate(batches):
        if step == 6:
            ema.averages["first.bias"] += 1
        loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    folder = run.finish()
    assert retrace_recorded(folder, 0).agrees
    found = retrace_recorded(folder, 1)
    assert (found.step, found.part) == (6, "state")


def test_a_snapshot_with_another_average_is_refused(tmp_path: Path) -> None:
    folder = record(tmp_path, average=0.9)
    path = folder / get_snapshot_name(1)
    tensors = read_tensors(path)
    read_average(tensors)[0, 0] += 1
    write_tensors(path, tensors)
    with pytest.raises(InvalidRecord):
        build_submit(folder)


def test_an_average_must_be_of_the_runs_model(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="another model") as caught:
        record(tmp_path, ema=EMA(MLP(), decay=0.9))
    assert caught.value.slug == "bad-plan"
    for decay in (-0.1, 1.0, float("nan")):
        with pytest.raises(RecordingError):
            EMA(MLP(), decay=decay)
