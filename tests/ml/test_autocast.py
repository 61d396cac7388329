"""Mixed precision: forward and loss under PyTorch's autocast, repeated bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.device import compute_device_class
from milepost_ml.errors import RecordingError
from milepost_ml.files import RECIPE, FolderFiles
from milepost_ml.recipe import encode_recipe
from milepost_ml.record_files import read_recipe
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from tests.support.models import MLP, make_task
from tests.support.training import make_sgd, record


def make_adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.mark.parametrize("task", ["mlp", "lenet", "convnet", "transformer"])
def test_twenty_steps_in_bfloat16_retrace(task: str, tmp_path: Path) -> None:
    folder = record(tmp_path, task=task, make=make_adamw, steps=20, every=10, autocast="bfloat16")
    _, recipe = read_recipe(FolderFiles(folder))
    assert recipe.autocast == "bfloat16"
    assert recipe.device_class == compute_device_class(autocast=True)
    assert "/bfloat16/" in recipe.device_class
    assert all(retrace_recorded(folder, k).agrees for k in range(2))
    submit, _ = build_submit(folder)
    validate_record(submit, FolderFiles(folder))


def test_recurrent_layers_do_not_repeat_under_autocast_and_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="LSTM and GRU") as caught:
        record(tmp_path, task="recurrent", autocast="bfloat16")
    assert caught.value.slug == "cannot-capture"


def test_autocast_computes_otherwise_than_float32(tmp_path: Path) -> None:
    folder = record(tmp_path, task="lenet", steps=2, every=2, autocast="bfloat16")
    _, recipe = read_recipe(FolderFiles(folder))
    lie = msgspec.structs.replace(
        recipe, autocast=None, device_class=compute_device_class(autocast=False)
    )
    (folder / RECIPE).write_bytes(encode_recipe(lie))
    found = retrace_recorded(folder, 0)
    assert (found.step, found.part) == (0, "gradient")


def test_a_step_without_the_declared_autocast_is_found(tmp_path: Path) -> None:
    model, task = MLP(), make_task("mlp")
    optimizer = make_sgd(model)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=3, folder=tmp_path, quiet=True,
        selfcheck=False, autocast="bfloat16",
    )  # fmt: skip
    batches = run.batches(task.inputs, task.targets, batch_size=8, steps=3)
    for number, (x, y) in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=number != 1):
            loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    found = retrace_recorded(run.finish(), 0)
    assert (found.step, found.part) == (1, "gradient")


def test_the_profile_is_chosen_for_it(tmp_path: Path) -> None:
    model, task = MLP(), make_task("mlp")
    optimizer = make_sgd(model)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=2, folder=tmp_path, quiet=True,
        selfcheck=False, autocast="bfloat16",
    )  # fmt: skip
    for x, y in run.batches(task.inputs, task.targets, batch_size=8, steps=2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    folder = run.finish()
    assert read_recipe(FolderFiles(folder))[1].profile == "class"
    assert retrace_recorded(folder, 0).agrees


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"autocast": "float16"}, "GradScaler"),
        ({"autocast": "bfloat16", "profile": "exact"}, "'exact'"),
        ({"autocast": "bfloat16", "profile": "rounded"}, "'class'"),
    ],
)
def test_other_precision_is_refused_by_name(
    options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordingError, match=told) as caught:
        record(tmp_path, **options)
    assert caught.value.slug == "unsupported-precision"


def test_autocast_around_the_run_is_refused(tmp_path: Path) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RecordingError) as caught:
        record(tmp_path)
    assert caught.value.slug == "unsupported-precision"


class Inside(nn.Module):
    """A model that enters autocast itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: torch.Tensor = self.layer(x)
        return result.float()


def test_autocast_in_the_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    task = make_task("mlp")._replace(make=Inside, loss=functional.cross_entropy)
    with pytest.raises(RecordingError, match="declare it") as caught:
        record(tmp_path, task=task)
    assert caught.value.slug == "unknown-operator"
