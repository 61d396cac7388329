"""All that a loop may declare at once, killed within an interval and resumed: the same bits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.averages import EMA
from milepost_ml.files import FolderFiles, get_snapshot_name
from milepost_ml.record_files import read_recipe, read_state, read_steps
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_interval, retrace_recorded
from tests.support.crashes import assert_same_record
from tests.support.models import MLP, make_model, make_task

STEPS, EVERY, STRIDE, ACCUMULATE = 16, 7, 3, 2
DECAY, MAX_NORM = 0.9, 0.5
KILLED_AFTER = 10
"""Step in the second interval, within a stride."""

After = Callable[[int, Run], None]


def train(
    parent: Path, *, resume: bool = False, after: After = lambda step, run: None
) -> tuple[Path, dict[str, torch.Tensor], list[int]]:
    """The run's folder, its averages as the loop sees them, and the steps that it did."""
    task = make_task("mlp")
    model = make_model(task)
    assert isinstance(model, MLP)
    groups = [
        {"params": list(model.first.parameters()), "lr": 0.05},
        {"params": list(model.second.parameters()), "weight_decay": 1e-2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.7)
    ema = EMA(model, decay=DECAY)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=EVERY, stride=STRIDE, folder=parent,
        seed=5, profile="exact", accumulate=ACCUMULATE, clip_norm=MAX_NORM, ema=ema,
        schedule=scheduler, resume=resume, selfcheck=False, quiet=True,
    )  # fmt: skip
    batches = run.batches(task.inputs, task.targets, batch_size=4, steps=STEPS)
    done = []
    for number, (x, y) in enumerate(batches, ACCUMULATE * run.first_step):
        loss = task.loss(model(x), y)
        (loss / ACCUMULATE).backward()  # type: ignore[no-untyped-call]
        run.log(loss)
        if (number + 1) % ACCUMULATE == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            done.append(number // ACCUMULATE)
            after(done[-1], run)
    return run.finish(), ema.averages, done


def photograph(parent: Path) -> After:
    """Copies the folder as a crash in the second interval leaves it behind."""

    def copy(step: int, run: Run) -> None:
        assert run.folder is not None
        if step != KILLED_AFTER:
            return
        deadline = time.monotonic() + 60
        while not (run.folder / get_snapshot_name(1)).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        ignored = shutil.ignore_patterns("*.part")
        shutil.copytree(run.folder, parent / run.folder.name, ignore=ignored)

    return copy


def test_everything_at_once_is_retraced_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole, averages, _ = train(tmp_path / "whole", after=photograph(tmp_path / "crashed"))
    files = FolderFiles(whole)
    _, recipe = read_recipe(files)
    assert (recipe.accumulate, recipe.steps_per_digest, recipe.ema_decay) == (2, 3, DECAY)
    assert [len(row.losses) for row in read_steps(files, recipe, 0)] == [3, 3, 1]
    last = read_state(files, recipe, recipe.intervals)
    for name, average in averages.items():
        assert np.array_equal(average.numpy(), last[f"optimizer.{name}.average"])

    submit, _ = build_submit(whole)
    validate_record(submit, files)
    for interval in range(recipe.intervals):
        work = min(EVERY * (interval + 1), STEPS) - 1
        found = retrace_interval(submit, files, interval, verifier=bytes(32), work_step=work)
        assert found.agrees
        assert retrace_recorded(whole, interval).distance_ppb == 0

    resumed, again, done = train(tmp_path / "crashed", resume=True)
    assert done == list(range(EVERY, STEPS))
    assert_same_record(whole, resumed)
    assert all(torch.equal(averages[name], again[name]) for name in averages)


def test_a_run_of_several_features_may_end_within_a_stride(tmp_path: Path) -> None:
    """The averages move once a step, also where the run ends and its state is copied late."""
    task = make_task("mlp")
    model = make_model(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=EVERY, stride=STRIDE, folder=tmp_path,
        profile="exact", accumulate=ACCUMULATE, ema=EMA(model, decay=DECAY), selfcheck=False,
        quiet=True,
    )  # fmt: skip
    batches = run.batches(task.inputs, task.targets, batch_size=4, steps=STEPS)
    for number, (x, y) in enumerate(batches):
        if number == ACCUMULATE * 5:
            break
        loss = task.loss(model(x), y)
        (loss / ACCUMULATE).backward()  # type: ignore[no-untyped-call]
        run.log(loss)
        if (number + 1) % ACCUMULATE == 0:
            optimizer.step()
            optimizer.zero_grad()
    folder = run.finish()
    _, recipe = read_recipe(FolderFiles(folder))
    assert recipe.steps == 5
    assert [len(row.losses) for row in read_steps(FolderFiles(folder), recipe, 0)] == [3, 2]
    assert retrace_recorded(folder, 0).agrees
