"""Runs recorded and retraced on a GPU; there must be one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from milepost_ml.arithmetic import known_answer
from milepost_ml.errors import RecordingError
from milepost_ml.files import FolderFiles, get_snapshot_name, get_steps_name
from milepost_ml.gpus import is_gpu_class
from milepost_ml.record_files import read_recipe
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from tests.support.models import make_model, make_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
STEPS, EVERY = 8, 4


def record(folder: Path, model: nn.Module, profile: str, *, autocast: bool = False) -> Path:
    """A run of a model where it lies, with dropout."""
    task = make_task("lenet")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    device = next(model.parameters()).device
    run = Run(
        *("test", model, optimizer),
        loss=task.loss,
        every=EVERY,
        folder=folder,
        seed=3,
        profile=profile,
        stride=1,
        selfcheck=False,
        quiet=True,
        autocast="bfloat16" if autocast else None,
    )
    for x, y in run.batches(task.inputs, task.targets, batch_size=8, steps=STEPS):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    return run.finish()


def make_dropping() -> nn.Module:
    return nn.Sequential(make_model(make_task("lenet")), nn.Dropout(0.2))


@pytest.mark.parametrize(
    ("profile", "autocast"), [("exact", False), ("class", False), ("class", True)]
)
def test_what_a_gpu_recorded_retraces_on_it(profile: str, autocast: bool, tmp_path: Path) -> None:
    folder = record(tmp_path, make_dropping().cuda(), profile, autocast=autocast)
    _, recipe = read_recipe(FolderFiles(folder))
    assert is_gpu_class(recipe.device_class) == (profile == "class")
    assert known_answer.find_fault(recipe.device_class) == ""
    assert known_answer.choose_device(recipe.device_class).type == "cuda"
    for interval in range(STEPS // EVERY):
        assert retrace_recorded(folder, interval).agrees


def test_gpu_and_processor_make_the_same_exact_record(tmp_path: Path) -> None:
    model = make_dropping()
    first = record(tmp_path / "cpu", copy.deepcopy(model), "exact")
    second = record(tmp_path / "gpu", model.cuda(), "exact")
    assert read_recipe(FolderFiles(first)) == read_recipe(FolderFiles(second))
    for name in (get_steps_name(0), get_steps_name(1), get_snapshot_name(1), get_snapshot_name(2)):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("profile", ["rounded", "tolerance"])
def test_profiles_with_a_processors_random_numbers_are_refused(
    profile: str, tmp_path: Path
) -> None:
    tolerance = 1e-3 if profile == "tolerance" else None
    model = make_dropping().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    task = make_task("lenet")
    run = Run(
        *("test", model, optimizer),
        loss=task.loss,
        every=EVERY,
        folder=tmp_path,
        profile=profile,
        tolerance=tolerance,
    )
    with pytest.raises(RecordingError, match="random numbers"):
        run.batches(task.inputs, task.targets, batch_size=8, steps=STEPS)
