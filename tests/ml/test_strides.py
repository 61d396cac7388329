"""Step digests that cover several steps: what is committed, retraced and recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milepost_consensus.merkle import verify_path
from milepost_consensus.step_digests import compute_gradient_commitment, compute_work_digest
from milepost_ml.admission import build_submit, validate_record
from milepost_ml.budget import BUDGET, choose_stride
from milepost_ml.digests import compute_snapshot_digest
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.files import FolderFiles, get_snapshot_name
from milepost_ml.record_files import read_recipe, read_state, read_steps
from milepost_ml.recorder import Run
from milepost_ml.refutation import read_gradient
from milepost_ml.replay import (
    get_step_commitment,
    recompute_step,
    retrace_interval,
    retrace_recorded,
)
from tests.support.models import make_model, make_task
from tests.support.training import Loop, make_sgd, record

VERIFIER = b"\x07" * 32


def test_a_record_with_strides_says_the_same_of_every_step(tmp_path: Path) -> None:
    one = record(tmp_path, steps=25, every=10)
    four = record(tmp_path, steps=25, every=10, stride=4)
    single, several = FolderFiles(one), FolderFiles(four)
    recipe, coarse = read_recipe(single)[1], read_recipe(several)[1]
    assert (recipe.steps_per_digest, coarse.steps_per_digest) == (1, 4)
    for interval, sizes in enumerate([(4, 4, 2), (4, 4, 2), (4, 1)]):
        fine, rows = read_steps(single, recipe, interval), read_steps(several, coarse, interval)
        assert tuple(len(row.losses) for row in rows) == sizes
        ends = np.cumsum(sizes) - 1
        assert [row.post for row in rows] == [fine[end].post for end in ends]
        assert [row.gradient for row in rows] == [fine[end].gradient for end in ends]
        assert b"".join(row.batch for row in rows) == b"".join(row.batch for row in fine)
        assert b"".join(row.loss for row in rows) == b"".join(row.loss for row in fine)


@pytest.mark.parametrize("stop", [25, 17, 20])
def test_strides_are_admitted_and_retraced(stop: int, tmp_path: Path) -> None:
    """A run may end within a stride."""
    folder = train(tmp_path, stop=stop)
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    validate_record(submit, files)
    assert (submit.steps, submit.steps_per_digest) == (stop, 4)
    for interval in range(len(submit.step_roots)):
        work = min(interval * 10 + 7, stop - 1)
        found = retrace_interval(submit, files, interval, verifier=VERIFIER, work_step=work)
        assert found.agrees, found
        gradient = read_gradient(folder, submit, work)
        assert found.work_digest == compute_work_digest(VERIFIER, gradient)
        rows = read_steps(files, read_recipe(files)[1], interval)
        assert compute_gradient_commitment(gradient) == rows[(work - interval * 10) // 4].gradient


def train(parent: Path, *, stop: int, set_to_none: bool = True, zero_last: bool = False) -> Path:
    """A run of 25 steps with a stride of 4 that ends early."""
    task = make_task("mlp")
    model = make_model(task)
    optimizer = make_sgd(model)
    settings: dict[str, Any] = {"every": 10, "stride": 4, "seed": 3, "profile": "class"}
    run = Run(
        "test",
        model,
        optimizer,
        loss=task.loss,
        folder=parent,
        selfcheck=False,
        quiet=True,
        **settings,
    )
    batches = run.batches(task.inputs, task.targets, batch_size=8, steps=25)
    for number, (x, y) in enumerate(batches):
        if number == stop:
            break
        loss = task.loss(model(x), y)
        if not zero_last:
            optimizer.zero_grad(set_to_none=set_to_none)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if zero_last:
            optimizer.zero_grad(set_to_none=set_to_none)
        run.log(loss)
    return run.finish()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("zero_last", [True, False])
def test_the_last_gradient_is_kept_however_gradients_are_zeroed(
    set_to_none: bool, zero_last: bool, tmp_path: Path
) -> None:
    folder = train(tmp_path, stop=18, set_to_none=set_to_none, zero_last=zero_last)
    assert retrace_recorded(folder, 1).agrees


def test_a_gradient_that_is_gone_is_named(tmp_path: Path) -> None:
    """Its first step cannot tell that a loop writes over its gradients."""
    with pytest.raises(RecordingError, match="stride=1") as caught:
        train(tmp_path, stop=1, set_to_none=False, zero_last=True)
    assert caught.value.slug == "undeclared-change"


def poison(step: int, loop: Loop) -> None:
    if step == 16:
        loop.batch[1] = (loop.batch[1] + 1) % 4


def test_a_poisoned_step_convicts_its_stride(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=25, every=10, stride=4, cheat=poison)
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    assert retrace_interval(submit, files, 0, verifier=VERIFIER, work_step=0).agrees
    found = retrace_interval(submit, files, 1, verifier=VERIFIER, work_step=17)
    # Steps 14 to 17 are one stride; the loss of step 16 is part of what it commits to.
    assert (found.agrees, found.step, found.part) == (False, 14, "gradient")
    assert (found.leaf, found.path) == get_step_commitment(submit, files, 1, 14)
    verify_path(submit.step_roots[1], found.leaf, index=1, count=3, path=found.path)
    state = tmp_path / "state"
    state.write_bytes(found.pre_state)
    assert recompute_step(submit, files, 1, 14, pre_state=state) == found.recomputed
    assert recompute_step(submit, files, 1, 14, pre_state=None) == found.recomputed
    honest, _ = get_step_commitment(submit, files, 1, 10)
    assert recompute_step(submit, files, 1, 10, pre_state=None) == honest
    for step in (15, 20):
        with pytest.raises(InvalidRecord, match=f"begins at step {step}"):
            recompute_step(submit, files, 1, step, pre_state=None)


def test_the_state_between_is_in_no_file_and_the_end_is(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=20, every=10, stride=16 // 2)
    files = FolderFiles(folder)
    recipe = read_recipe(files)[1]
    rows = read_steps(files, recipe, 1)
    assert rows[-1].post == compute_snapshot_digest(20, read_state(files, recipe, 2))
    assert (folder / get_snapshot_name(2)).exists()


@pytest.mark.parametrize("stride", [0, 17, 6])
def test_impossible_strides_are_refused(stride: int, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=f"stride={stride}") as caught:
        record(tmp_path, every=5, stride=stride)
    assert caught.value.slug == "bad-plan"
    assert not list(tmp_path.iterdir())


def test_the_shortest_stride_within_the_budget_is_chosen() -> None:
    assert choose_stride(digest_seconds=BUDGET, step_seconds=1.0, most=16) == 1
    assert choose_stride(digest_seconds=1.01 * BUDGET, step_seconds=1.0, most=16) == 2
    assert choose_stride(digest_seconds=7 * BUDGET, step_seconds=1.0, most=16) == 8
    assert choose_stride(digest_seconds=1.0, step_seconds=1e-3, most=16) == 16
    assert choose_stride(digest_seconds=1.0, step_seconds=1e-3, most=5) == 4


def test_a_stride_is_measured_where_digests_are_dear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_ml.budget.MEASURED_BYTES", 1)
    monkeypatch.setattr("milepost_ml.budget.measure_digest", lambda images: 7 * BUDGET)
    monkeypatch.setattr("milepost_ml.budget.measure_batch", lambda *_: 1.0)
    folder = record(tmp_path, steps=10, every=10, stride=None)
    assert read_recipe(FolderFiles(folder))[1].steps_per_digest == 8


@pytest.mark.parametrize("profile", ["class", "rounded"])
def test_measuring_leaves_the_run_as_it_is(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = record(tmp_path, task="convnet", profile=profile, stride=None)
    monkeypatch.setattr("milepost_ml.budget.MEASURED_BYTES", 1)
    monkeypatch.setattr("milepost_ml.budget.BUDGET", 1e9)
    measured = record(tmp_path, task="convnet", profile=profile, stride=None)
    for name in (get_snapshot_name(3), "recipe.json", "steps/00002.bin"):
        assert (plain / name).read_bytes() == (measured / name).read_bytes()
    assert torch.get_default_dtype() is torch.float32
