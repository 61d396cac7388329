"""The self-check says in words whether an interval repeats, and never stops a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from milepost_ml.files import get_snapshot_name
from milepost_ml.recorder import Run
from milepost_ml.selfcheck import check_interval, describe_check, main, start_check, wait_for_check
from tests.support.models import MLP, make_task
from tests.support.training import Loop, make_sgd, record


def flip(number: int, loop: Loop) -> None:
    if number == 2:
        loop.batch[1] = (loop.batch[1] + 1) % 4


def test_an_honest_interval_is_identical(tmp_path: Path) -> None:
    found = check_interval(record(tmp_path), 1)
    assert found.identical is True
    assert found.step is None
    assert "identical" in found.message


def test_a_difference_is_named_with_step_part_and_cause(tmp_path: Path) -> None:
    found = check_interval(record(tmp_path, cheat=flip), 0)
    assert (found.identical, found.step, found.part) == (False, 2, "gradient")
    assert "step 2" in found.message
    assert "not-reproducible" in found.message
    assert "--bisect" in found.message
    assert found.finding in found.message
    assert "Usual cause" not in found.finding
    assert found.distance_ppb > 0


def test_an_unreadable_record_is_no_answer(tmp_path: Path) -> None:
    folder = record(tmp_path)
    (folder / get_snapshot_name(0)).write_bytes(b"")
    found = check_interval(folder, 0)
    assert found.identical is None
    assert "could not be retraced" in found.message
    assert check_interval(tmp_path / "nowhere", 0).identical is None


def test_the_command_answers_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = record(tmp_path), record(tmp_path, cheat=flip)
    assert main([str(good), "0"]) == 0
    assert json.loads((good / "selfcheck.json").read_text())["identical"] is True
    assert main([str(bad), "0"]) == 1
    assert json.loads((bad / "selfcheck.json").read_text())["step"] == 2
    assert main([str(good), "9"]) == 3
    assert main([str(good)]) == main([str(good), "x"]) == 2
    assert "identical" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_another_loss_is_warned_while_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_task("mlp")
    model = MLP()
    optimizer = make_sgd(model)
    run = Run("test", model, optimizer, loss=functional.cross_entropy, every=3, folder=tmp_path)
    done = 0
    for x, y in run.batches(task.inputs, task.targets, batch_size=8, steps=9):
        loss = functional.cross_entropy(model(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
        done += 1
    folder = run.finish()
    told = capsys.readouterr().err
    assert done == 9
    assert "warning: self-check: interval 0 does not repeat" in told
    assert "another loss" in told
    found = json.loads((folder / "selfcheck.json").read_text())
    assert (found["identical"], found["step"], found["part"]) == (False, 0, "gradient")
    assert json.loads((folder / "run.json").read_text())["complete"] is True


@pytest.mark.slow
def test_a_check_that_dies_is_reported(tmp_path: Path) -> None:
    folder = record(tmp_path)
    shutil.rmtree(folder)
    process = start_check(folder)
    wait_for_check(process)
    assert process.returncode != 0
    assert f"found nothing; run it yourself: milepost check {folder}" in describe_check(
        folder, process
    )


def test_torch_is_configured_for_repeatable_arithmetic(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    folder = record(tmp_path)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert check_interval(folder, 0).identical is True
