"""The walk over a record gives what the recorder did, computed here in the plain way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from milepost_consensus.merkle import compute_root
from milepost_consensus.payloads import Submit
from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.commitments import compute_commitments, join_few
from milepost_ml.digests import (
    compute_batch_digest,
    compute_content_digest,
    compute_record_digests,
)
from milepost_ml.distance import compute_change_score
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA, MODEL, FolderFiles
from milepost_ml.keyed import compute_order
from milepost_ml.record_files import read_recipe, read_steps
from milepost_ml.snapshots import read_tensors
from tests.support.records import BATCH_SIZE, EVERY, INTERVALS, RECORDS, STEPS, Spoilt


def test_commitments_follow_from_the_files(tiny_run: Path, tiny_submit: Submit) -> None:
    files = FolderFiles(tiny_run)
    _, recipe = read_recipe(files)
    found = compute_commitments(files, recipe)
    data = read_tensors(tiny_run / DATA)
    assert found.dataset_root == compute_root(compute_record_digests(data))
    assert found.model_digest == compute_content_digest(read_tensors(tiny_run / MODEL))
    assert found.snapshots[-1] == compute_state_digest(
        STEPS, found.model_digest, found.optimizer_digest
    )
    assert (found.snapshots, found.step_roots) == (tiny_submit.snapshots, tiny_submit.step_roots)


def test_scores_count_parameters_only(tiny_run: Path, tiny_submit: Submit) -> None:
    names = ["first.bias", "first.weight", "norm.bias", "norm.weight", "second.weight"]
    names.append("second.bias")  # frozen, so it adds nothing
    first, *_ = states = [
        read_tensors(tiny_run / f"mileposts/{k:05d}.safetensors") for k in range(INTERVALS + 1)
    ]
    states = [first | state for state in states]
    parameters = [{name: state[f"model.{name}"] for name in names} for state in states]
    for k in range(INTERVALS):
        score = compute_change_score(parameters[k], parameters[k + 1])
        assert score == tiny_submit.change_scores[k]
        trained = [{n: p[n] for n in names if n != "second.bias"} for p in parameters]
        assert score == compute_change_score(trained[k], trained[k + 1])


def test_every_step_saw_the_records_of_its_place_in_the_keyed_order(tiny_run: Path) -> None:
    files = FolderFiles(tiny_run)
    _, recipe = read_recipe(files)
    digests = compute_record_digests(read_tensors(tiny_run / DATA))
    rows = [row for k in range(INTERVALS) for row in read_steps(files, recipe, k)]
    per_epoch = RECORDS // BATCH_SIZE
    for step, row in enumerate(rows):
        epoch, place = divmod(step, per_epoch)
        order = compute_order(recipe.seed_bytes, epoch, RECORDS)
        batch = order[place * BATCH_SIZE : (place + 1) * BATCH_SIZE]
        assert row.batch == compute_batch_digest(digests[index] for index in batch)


def test_changed_records_are_narrowed_down_to_the_batches_that_differ(spoilt: Spoilt) -> None:
    _, recipe = read_recipe(spoilt.files)
    order = compute_order(recipe.seed_bytes, 0, RECORDS)
    changed = int(order[BATCH_SIZE + 1])  # in the second batch of the first epoch

    def edit(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["data.1"][changed] += 1

    spoilt.edit_tensors(DATA, edit)
    with pytest.raises(InvalidRecord) as caught:
        compute_commitments(spoilt.files, recipe)
    suspects = sorted(order[BATCH_SIZE : 2 * BATCH_SIZE].tolist())
    assert caught.value.slug == "data-changed"
    text = str(caught.value)
    assert f"in interval 0, 1 of {EVERY} steps saw other records (first: step 1)" in text
    assert f"among {BATCH_SIZE} records ({', '.join(map(str, suspects[:3]))} ...)" in text


def test_long_lists_are_cut() -> None:
    assert join_few([]) == ""
    assert join_few([1, 2, 3]) == "1, 2, 3"
    assert join_few(range(9)) == "0, 1, 2 ..."
