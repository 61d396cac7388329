"""One small real record, made once per test session, and copies of it to spoil."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from milepost_consensus.payloads import CLASS, Submit
from milepost_ml.admission import build_submit
from milepost_ml.files import FolderFiles, Manifest, build_manifest, encode_manifest
from milepost_ml.recipe import Recipe
from milepost_ml.record_files import read_recipe
from milepost_ml.recorder import Run
from milepost_ml.snapshots import read_tensors, write_tensors

RECORDS = 22
BATCH_SIZE = 4
EVERY = 4
STEPS = 18
"""Three whole epochs of five batches and a part of the fourth; the last interval has two steps."""
INTERVALS = 5


class TinyNet(torch.nn.Module):
    """Parameters, one of them frozen, and buffers of two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.second = torch.nn.Linear(5, 3)
        self.second.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.relu(self.norm(self.first(x))))
        return result


def record_tiny_run(
    parent: Path, *, name: str = "tiny", seed: int = 7, profile: str = CLASS
) -> Path:
    """Record a run of TinyNet with SGD, momentum and a schedule; returns the run's folder."""
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.normal(size=(RECORDS, 6)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, size=RECORDS))
    torch.manual_seed(seed)
    model = TinyNet()
    trained = [item for item in model.parameters() if item.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 6, 0.5)
    loss_of = torch.nn.functional.cross_entropy
    run = Run(
        name,
        model,
        optimizer,
        loss=loss_of,
        every=EVERY,
        folder=parent,
        seed=seed,
        profile=profile,
        selfcheck=False,
        quiet=True,
    )
    for x, y in run.batches(inputs, labels, batch_size=BATCH_SIZE, steps=STEPS):
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        run.log(loss)
    return run.finish()


class Spoilt(NamedTuple):
    """A copy of a record for a test to change, with the submission that it had before."""

    folder: Path
    submit: Submit

    @property
    def files(self) -> FolderFiles:
        return FolderFiles(self.folder)

    def edit_tensors(self, name: str, edit: Callable[[dict[str, NDArray[Any]]], None]) -> None:
        """Change the tensors of a file of the record in place."""
        path = self.folder / name
        tensors = read_tensors(path)
        edit(tensors)
        write_tensors(path, tensors)

    def edit_bytes(self, name: str, edit: Callable[[bytearray], None]) -> None:
        """Change the bytes of a file of the record in place."""
        data = bytearray((self.folder / name).read_bytes())
        edit(data)
        (self.folder / name).write_bytes(data)

    def resubmit(self) -> Submit:
        """The submission of a cheat who lists the changed files and repeats the rest."""
        fields = get_manifest_fields(build_manifest(self.folder))
        return msgspec.structs.replace(self.submit, **fields)


def get_manifest_fields(manifest: Manifest) -> dict[str, Any]:
    """The fields of a submission that follow from its manifest."""
    return {
        "manifest": hashlib.sha256(encode_manifest(manifest)).digest(),
        "size_bytes": manifest.size_bytes,
    }


def read_recipe_of(folder: Path) -> Recipe:
    """The recipe of a run folder."""
    return read_recipe(FolderFiles(folder))[1]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; read it, never change it."""
    return record_tiny_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def tiny_submit(tiny_run: Path) -> Submit:
    """The submission of `tiny_run`."""
    return build_submit(tiny_run)[0]


@pytest.fixture
def spoilt(tiny_run: Path, tiny_submit: Submit, tmp_path: Path) -> Spoilt:
    """A copy of `tiny_run` that the test may change."""
    folder = tmp_path / tiny_run.name
    shutil.copytree(tiny_run, folder)
    return Spoilt(folder, tiny_submit)
