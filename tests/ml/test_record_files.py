"""Files of a record are read whole, strictly and under their own names."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from milepost_consensus.payloads import Submit
from milepost_consensus.step_digests import compute_step_digest
from milepost_ml import record_files
from milepost_ml.digests import compute_record_digests, compute_snapshot_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA, FolderFiles
from milepost_ml.record_files import (
    compute_step_digests,
    compute_stride_bytes,
    get_parameters,
    read_recipe,
    read_record_digests,
    read_state,
    read_steps,
)
from milepost_ml.snapshots import read_tensors
from tests.support.records import EVERY, INTERVALS, RECORDS, STEPS, Spoilt

STEP_BYTES = compute_stride_bytes(1)


def test_states_are_those_that_were_submitted(tiny_run: Path, tiny_submit: Submit) -> None:
    files = FolderFiles(tiny_run)
    _, recipe = read_recipe(files)
    for k in range(INTERVALS + 1):
        state = read_state(files, recipe, k)
        step = min(k * EVERY, STEPS)
        assert compute_snapshot_digest(step, state) == tiny_submit.snapshots[k]
    # The optimizer of snapshot 0 has no momentum yet.
    assert not any(name.startswith("optimizer.") for name in read_state(files, recipe, 0))


def test_what_is_not_trained_is_stored_once(spoilt: Spoilt) -> None:
    first = read_tensors(spoilt.folder / "mileposts/00000.safetensors")
    later = read_tensors(spoilt.folder / "mileposts/00003.safetensors")
    assert {*first} - {*later} == {"model.second.bias"}
    _, recipe = read_recipe(spoilt.files)
    bias = read_state(spoilt.files, recipe, 3)["model.second.bias"]
    assert np.array_equal(bias, first["model.second.bias"])

    def repeat(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["model.second.bias"] = bias

    spoilt.edit_tensors("mileposts/00003.safetensors", repeat)
    with pytest.raises(InvalidRecord, match=r"second\.bias") as caught:
        read_state(spoilt.files, recipe, 3)
    assert caught.value.slug == "wrong-tensors"


def test_parameters_leave_out_buffers_and_optimizer(tiny_run: Path) -> None:
    files = FolderFiles(tiny_run)
    _, recipe = read_recipe(files)
    assert sorted(get_parameters(recipe, read_state(files, recipe, 2))) == [
        "first.bias",
        "first.weight",
        "norm.bias",
        "norm.weight",
        "second.bias",
        "second.weight",
    ]


def test_steps_are_read_field_by_field(tiny_run: Path) -> None:
    files = FolderFiles(tiny_run)
    _, recipe = read_recipe(files)
    raw = (tiny_run / "steps" / "00004.bin").read_bytes()
    rows = read_steps(files, recipe, INTERVALS - 1)
    assert len(rows) == STEPS % EVERY == len(raw) // STEP_BYTES
    assert b"".join(b"".join(row) for row in rows) == raw
    assert 0 < struct.unpack("<f", rows[0].loss)[0] < 5


def test_step_digests_chain_from_state_to_state(tiny_run: Path) -> None:
    files = FolderFiles(tiny_run)
    rows = read_steps(files, read_recipe(files)[1], 0)
    pre = bytes(range(32))
    first, second, *_ = compute_step_digests(pre, rows)
    assert first == compute_step_digest(
        pre=pre,
        batch=rows[0].batch,
        gradient=rows[0].gradient,
        loss=rows[0].loss,
        post=rows[0].post,
    )
    assert second == compute_step_digest(
        pre=rows[0].post,
        batch=rows[1].batch,
        gradient=rows[1].gradient,
        loss=rows[1].loss,
        post=rows[1].post,
    )


@pytest.mark.parametrize("block_bytes", [1, 32, 100, 10**9])
def test_record_digests_do_not_depend_on_the_block(
    tiny_run: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "_BLOCK_BYTES", block_bytes)
    files = FolderFiles(tiny_run)
    digests = read_record_digests(files, read_recipe(files)[1])
    assert digests == compute_record_digests(read_tensors(tiny_run / DATA))
    assert len(digests) == RECORDS


def test_the_first_record_that_is_not_finite_is_named_in_any_block(
    spoilt: Spoilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["data.0"][13, 3] = np.inf
        tensors["data.0"][20, 0] = np.nan

    spoilt.edit_tensors(DATA, edit)
    monkeypatch.setattr(record_files, "_BLOCK_BYTES", 32 * 5)
    with pytest.raises(InvalidRecord, match=r"data\.0 \(first: record 13\)"):
        read_record_digests(spoilt.files, read_recipe(spoilt.files)[1])


def test_a_data_file_that_ends_early_is_refused(spoilt: Spoilt) -> None:
    path = spoilt.folder / DATA
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InvalidRecord) as caught:
        read_record_digests(spoilt.files, read_recipe(spoilt.files)[1])
    assert caught.value.slug == "snapshot-broken"
    assert str(caught.value).startswith("data.safetensors: the header says")


def test_a_folder_in_place_of_a_file_is_refused(spoilt: Spoilt) -> None:
    (spoilt.folder / DATA).unlink()
    (spoilt.folder / DATA).mkdir()
    with pytest.raises(InvalidRecord) as caught:
        read_record_digests(spoilt.files, read_recipe(spoilt.files)[1])
    assert caught.value.slug == "incomplete"
