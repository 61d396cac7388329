"""A training continued from checked tensors, in memory of PyTorch's own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from milepost_ml.digests import compute_snapshot_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA, FolderFiles, get_snapshot_name
from milepost_ml.record_files import read_recipe, read_state
from milepost_ml.snapshots import TensorSpec, read_tensors, write_tensors
from milepost_ml.stepper import Stepper, copy_tensor
from milepost_ml.steps import StepFailed
from tests.support.models import make_task
from tests.support.training import record


def test_copies_share_no_memory_and_are_aligned() -> None:
    room = np.zeros(65, dtype=np.uint8)
    odd = room[1:].view(np.float32)
    odd[:] = range(16)
    copied = copy_tensor(odd)
    assert copied.dtype == torch.float32
    assert copied.data_ptr() % 64 == 0
    odd[:] = 0
    assert copied.tolist() == list(range(16))
    assert copy_tensor(np.array(3, dtype=np.int64)).shape == ()
    assert copy_tensor(np.array([True])).dtype == torch.bool


def test_steps_lead_from_snapshot_to_snapshot(tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet")
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    stepper = Stepper(recipe, folder / DATA)
    stepper.load(0, read_state(files, recipe, 0))
    for _ in range(recipe.steps):
        stepper.run_step()
        if stepper.step in (5, 10, 12):
            state = read_state(files, recipe, -(-stepper.step // 5))
            assert stepper.get_digest() == compute_snapshot_digest(stepper.step, state)
            assert sorted(stepper.get_state()) == sorted(state)
    # The last state can be loaded, though no step follows it.
    stepper.load(12, read_state(files, recipe, 3))
    assert stepper.get_digest() == compute_snapshot_digest(12, read_state(files, recipe, 3))


@pytest.mark.parametrize("profile", ["exact", "rounded", "class", "tolerance"])
def test_nans_are_one_value_where_profiles_compare_machines(profile: str, tmp_path: Path) -> None:
    folder = record(tmp_path, steps=2, every=1, profile=profile)
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    state = read_state(files, recipe, 1)
    one = {name: array.copy() for name, array in state.items()}
    for name in ("model.first.bias", "optimizer.first.bias.momentum_buffer"):
        state[name].view(np.uint32)[0] = 0xFFC00001
        one[name].view(np.uint32)[0] = 0x7FC00000
    stepper = Stepper(recipe, folder / DATA)
    stepper.load(1, state)
    expected = compute_snapshot_digest(1, state if profile == "class" else one)
    assert stepper.get_digest() == expected
    result = stepper.run_step()
    assert np.isnan(np.frombuffer(result.loss, dtype="<f4"))[0]
    if profile != "class":
        assert result.loss == np.uint32(0x7FC00000).tobytes()
        again = Stepper(recipe, folder / DATA)
        again.load(1, one)
        assert again.run_step() == result


def test_a_step_that_exact_arithmetic_refuses_fails_for_everybody(tmp_path: Path) -> None:
    """Silence would let a submitter keep all verifiers from judging a record nobody could make."""
    task = make_task("mlp")
    odd = task._replace(make=lambda: nn.Sequential(nn.Linear(12, 4), nn.Softplus()))
    folder = record(tmp_path, task=odd, profile="class")
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    exact = msgspec.structs.replace(recipe, profile="exact", device_class="exact/1")
    stepper = Stepper(exact, folder / DATA)
    stepper.load(0, read_state(files, recipe, 0))
    with pytest.raises(StepFailed, match="softplus"):
        stepper.run_step()


def test_data_must_be_those_of_the_recipe(tmp_path: Path) -> None:
    folder = record(tmp_path)
    _, recipe = read_recipe(FolderFiles(folder))
    data = read_tensors(folder / DATA)
    write_tensors(folder / DATA, {**data, "data.0": data["data.0"][1:]})
    with pytest.raises(InvalidRecord, match=DATA) as caught:
        Stepper(recipe, folder / DATA)
    assert caught.value.slug == "wrong-tensors"


def test_truth_values_other_than_0_and_1_are_never_fed(tmp_path: Path) -> None:
    folder = record(tmp_path)
    _, recipe = read_recipe(FolderFiles(folder))
    flags = np.ones(40, dtype=np.uint8)
    flags[7] = 2
    specs = (TensorSpec("data.0", "F32", (40, 12)), TensorSpec("data.1", "BOOL", (40,)))
    data = read_tensors(folder / DATA)
    write_tensors(folder / DATA, {**data, "data.1": flags.view(np.bool_)})
    stepper = Stepper(msgspec.structs.replace(recipe, data=specs), folder / DATA)
    refused = 0
    for step in range(5):  # one epoch holds record 7 once
        try:
            stepper.get_batch(step)
        except InvalidRecord:
            refused += 1
    assert refused == 1


def test_snapshots_hold_what_the_stepper_needs(tmp_path: Path) -> None:
    folder = record(tmp_path)
    _, recipe = read_recipe(FolderFiles(folder))
    stepper = Stepper(recipe, folder / DATA)
    with pytest.raises(KeyError):
        stepper.load(5, {})
    assert (folder / get_snapshot_name(1)).is_file()
