"""`milepost check` on runs that were really recorded: words, streams, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from milepost_ml.recorder import Run
from tests.support.cli import get_command, run_cli
from tests.support.models import make_model, make_task
from tests.support.records import tiny_run
from tests.support.training import Loop, make_sgd, record

pytestmark = pytest.mark.slow  # starts processes

__all__ = ["tiny_run"]


def poison(number: int, loop: Loop) -> None:
    if number == 6:
        loop.batch[1] = (loop.batch[1] + 1) % 4


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three intervals, of which the second does not repeat."""
    return record(tmp_path_factory.mktemp("runs"), cheat=poison)


def test_the_first_interval_is_checked_unless_told_otherwise(broken: Path) -> None:
    done = run_cli("check", broken)
    assert done.code == 0
    assert done.out.startswith("  ✓ interval 0  retraced in ")
    assert json.loads((broken / "selfcheck.json").read_text())["identical"] is True


def test_all_intervals_have_a_line_each_and_a_total(broken: Path) -> None:
    done = run_cli("check", broken, "--all")
    assert done.code == 1
    marks = [line.split()[0] for line in done.out.splitlines() if "interval " in line]
    assert marks == ["✓", "✗", "✓"]
    assert done.out.splitlines()[-1] == "2 of 3 intervals repeat"
    assert f"milepost check {broken} --interval 1 --bisect" in done.err


def test_bisect_says_what_differs_first_and_why(broken: Path) -> None:
    done = run_cli("check", broken, "--interval", "1", "--bisect")
    assert done.code == 1
    assert re.search("first difference +step 6, in the gradient, loss and state", done.out)
    assert re.search("usual cause +the logged loss is another one too", done.out)
    assert "trying" in done.err


def test_the_same_as_one_json_object(broken: Path) -> None:
    view = run_cli("check", broken, "--all", "--bisect", "--json").json
    assert (view["repeats"], view["exit"]) == (False, 1)
    assert [each["identical"] for each in view["intervals"]] == [True, False, True]
    assert (view["diagnosis"]["interval"], view["diagnosis"]["step"]) == (1, 6)
    assert view["diagnosis"]["cause"]["confirmed"] is False


def test_a_run_that_is_not_finished_has_the_intervals_that_are_whole(tmp_path: Path) -> None:
    task = make_task("mlp")
    model = make_model(task)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    run = Run(
        "test", model, optimizer, loss=task.loss, every=5, folder=tmp_path, seed=1,
        profile="class", selfcheck=False, quiet=True,
    )  # fmt: skip
    for number, (x, y) in enumerate(run.batches(*task[2:], batch_size=8, steps=20)):
        loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        run.log(loss)
        assert run.folder is not None
        if number == 3:
            early = run_cli("check", run.folder)
        if number == 16:
            while not (run.folder / "mileposts" / "00003.safetensors").exists():
                time.sleep(0.01)
            shutil.copytree(run.folder, tmp_path / "killed")
    run.finish()
    assert early.code == 3
    assert "no whole interval yet" in early.err
    done = run_cli("check", tmp_path / "killed", "--all")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "3 of 3 intervals repeat"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interval", "5"], "has the intervals 0 to 4; there is no interval 5"),
        (["--interval", "-1"], "there is no interval -1"),
        (["--interval", "1", "--all"], "leave --interval out"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_loaded(
    arguments: list[str], words: str, tiny_run: Path
) -> None:
    done = run_cli("check", tiny_run, *arguments, modules=True)
    assert done.code == 2
    assert words in done.err
    assert not done.modules & {"torch", "keras", "tensorflow"}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = run_cli("check", tmp_path)
    assert done.code == 2
    assert "is not a run folder" in done.err


def test_what_cannot_be_looked_at_is_no_answer(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    (folder / "mileposts" / "00001.safetensors").write_bytes(b"")
    done = run_cli("check", folder, "--all")
    assert done.code == 3
    assert [line.split()[0] for line in done.out.splitlines()[:5]] == ["?", "?", "✓", "✓", "✓"]
    assert "could not be retraced" in done.out


def test_an_interruption_ends_it_without_a_traceback(tmp_path: Path) -> None:
    folder = record(tmp_path, task="lenet", steps=40, every=4, make=make_sgd)
    command = [sys.executable, "-u", *get_command(["check", folder, "--all"])[1:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "interval 0" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. " in told
    assert "Traceback" not in told
