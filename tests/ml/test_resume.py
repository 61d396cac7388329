"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from milepost_ml.admission import build_submit
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.files import BEGUN, GRADIENTS, JOURNAL, MODEL, RUN, get_snapshot_name
from milepost_ml.recipe import get_rates
from milepost_ml.recorded import read_recorded
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from milepost_ml.snapshots import read_tensors
from tests.support.crashes import assert_same_record, copy_running
from tests.support.models import make_model, make_task
from tests.support.registering import Network

pytestmark = pytest.mark.slow  # trains

STEPS, EVERY = 13, 4

Step = Callable[[int, Run], None]


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def make_adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def train(
    parent: Path,
    *,
    task: str = "mlp",
    make: Callable[[nn.Module], torch.optim.Optimizer] = make_sgd,
    weights: int = 0,
    scale: float = 1.0,
    step_size: int = 3,
    batch_size: int = 8,
    steps: int = STEPS,
    after: Step = lambda number, run: None,
    quiet: bool = True,
    **options: Any,
) -> Path:
    """The same script every time, as a person would start it again."""
    chosen = make_task(task)
    model = make_model(chosen, seed=weights)
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size, 0.7)
    settings: dict[str, Any] = {"every": EVERY, "profile": "class", "schedule": scheduler} | options
    run = Run(
        "test",
        model,
        optimizer,
        loss=chosen.loss,
        folder=parent,
        selfcheck=False,
        quiet=quiet,
        **settings,
    )
    batches = run.batches(chosen.inputs * scale, chosen.targets, batch_size=batch_size, steps=steps)
    for number, (x, y) in enumerate(batches, run.first_step):
        loss = chosen.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        run.log(loss)
        after(number, run)
    return run.finish()


def photograph(parent: Path) -> Step:
    """Copies the folder after every step: what a crash there would leave behind."""

    def copy(number: int, run: Run) -> None:
        assert run.folder is not None
        copy_running(run.folder, parent / str(number))

    return copy


@pytest.mark.parametrize("intervals", range(4))
def test_an_unfinished_folder_tells_which_intervals_are_whole(
    intervals: int, tmp_path: Path
) -> None:
    begun: list[bytes] = []

    def keep(number: int, run: Run) -> None:
        assert run.folder is not None
        begun[:] = [(run.folder / BEGUN).read_bytes()]

    folder = train(tmp_path, after=keep)
    final = read_recorded(folder)
    assert (final.steps, final.intervals) == (STEPS, 4)
    (folder / BEGUN).write_bytes(begun[0])
    about = json.loads((folder / RUN).read_bytes())
    (folder / RUN).write_text(json.dumps(about | {"complete": False}))
    for index in range(intervals + 1, 5):  # the journal is ahead of the snapshots
        (folder / get_snapshot_name(index)).unlink()
    if not intervals:
        with pytest.raises(InvalidRecord, match="no whole interval yet; its first ends with"):
            read_recorded(folder)
        return
    recipe = read_recorded(folder)
    assert (recipe.steps, recipe.intervals) == (intervals * EVERY, intervals)
    assert get_rates(recipe, range(recipe.steps)) == get_rates(final, range(recipe.steps))
    assert all(retrace_recorded(folder, each).agrees for each in range(intervals))
    (folder / BEGUN).write_bytes(b"{}")
    with pytest.raises(InvalidRecord, match="was not finished"):
        read_recorded(folder)


CASES: dict[str, dict[str, Any]] = {
    "momentum": {},
    "batch norm, dropout and AdamW": {"task": "convnet", "make": make_adam},
    "stride": {"stride": 3},
    "float64": {"task": "convnet", "make": make_adam, "profile": "rounded"},
    "derived weights": {"initial": {}},
    "exact": {"make": make_adam, "profile": "exact"},
}


@pytest.mark.parametrize("case", CASES)
def test_wherever_it_stops_it_ends_alike(case: str, tmp_path: Path) -> None:
    options = CASES[case]
    whole = train(tmp_path / "whole", seed=1, after=photograph(tmp_path), **options)
    for number in (1, 6, 11):
        resumed = train(tmp_path / str(number), resume=True, **options)
        assert resumed.name == whole.name
        assert_same_record(whole, resumed)


def make_crashed(tmp_path: Path, at: int = 10, **options: Any) -> tuple[Path, Path]:
    """A finished run, and the folder as it was after one of its steps."""
    whole = train(tmp_path / "whole", seed=1, after=photograph(tmp_path), **options)
    crashed = tmp_path / str(at) / whole.name
    # Its snapshots are the finished run's, whatever the thread had written by then.
    for index in range(at // EVERY + 1):
        shutil.copy(whole / get_snapshot_name(index), crashed / get_snapshot_name(index))
    for index in range(at // EVERY):
        name = f"steps/{index:05d}.bin"
        shutil.copy(whole / name, crashed / name)
    gradients = (whole / GRADIENTS).read_bytes()
    (crashed / GRADIENTS).write_bytes(gradients[: 32 * EVERY * (at // EVERY)])
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    (crashed / JOURNAL).write_bytes(b"".join(lines[: at // EVERY]))
    return whole, crashed


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 9)


def flip(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-5] ^= 1
        (folder / name).write_bytes(data)

    return change


def add(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as stream:
            stream.write(b'{"half')

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


TORN: dict[str, tuple[Callable[[Path], None], int]] = {
    "nothing": (lambda _: None, 8),
    "snapshot cut": (cut(get_snapshot_name(2)), 4),
    "snapshot changed": (flip(get_snapshot_name(2)), 4),
    "steps cut": (cut("steps/00001.bin"), 4),
    "steps gone": (remove("steps/00001.bin"), 4),
    "state after changed": (flip("steps/00001.bin"), 4),
    "journal cut": (cut(JOURNAL), 4),
    "journal begun": (add(JOURNAL), 8),
    "gradients cut": (cut(GRADIENTS), 4),
    "gradients begun": (add(GRADIENTS), 8),
    "no journal": (lambda folder: os.truncate(folder / JOURNAL, 0), 0),
}


@pytest.mark.parametrize("kind", TORN)
def test_torn_files_are_written_again(kind: str, tmp_path: Path) -> None:
    whole, crashed = make_crashed(tmp_path)
    spoil, expected = TORN[kind]
    spoil(crashed)
    (crashed / "mileposts" / "00003.safetensors.part").write_bytes(b"half")
    starts: list[int] = []
    resumed = train(crashed.parent, resume=True, after=lambda number, _: starts.append(number))
    assert starts[0] == expected
    assert_same_record(whole, resumed)
    assert not list(resumed.rglob("*.part"))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"scale": 2.0}, "the data"),
    "every": ({"every": 5}, "every is 5, and was 4"),
    "batch size": ({"batch_size": 4}, "batch_size is 4, and was 8"),
    "stride": ({"stride": 2}, "stride is 2, and was 1"),
    "seed": ({"seed": 2}, "seed is"),
    "optimizer": ({"make": make_adam}, "optimizer is"),
    "profile": ({"profile": "rounded"}, "rounded"),
    "initial": ({"initial": {}}, "initial is"),
    "schedule": ({"step_size": 2}, "learning rate"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_run_is_refused_by_what_differs(kind: str, tmp_path: Path) -> None:
    _, crashed = make_crashed(tmp_path)
    before = {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file()}
    options, told = OTHERS[kind]
    with pytest.raises(RecordingError) as caught:
        train(crashed.parent, resume=True, **options)
    assert caught.value.slug == "cannot-resume"
    assert told in str(caught.value)
    if kind != "schedule":
        assert {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    first = train(tmp_path, resume=True)
    assert train(tmp_path, resume=True) != first


def test_a_run_without_a_whole_snapshot_cannot_go_on(tmp_path: Path) -> None:
    _, crashed = make_crashed(tmp_path)
    for path in (crashed / "mileposts").iterdir():
        os.truncate(path, 20)
    with pytest.raises(RecordingError, match="no whole snapshot"):
        train(crashed.parent, resume=True)
    (crashed / BEGUN).write_text("{")
    with pytest.raises(RecordingError, match="cannot be resumed"):
        train(crashed.parent, resume=True)


def test_a_run_that_never_began_is_recorded_anew(tmp_path: Path) -> None:
    (tmp_path / "test-0001").mkdir()
    assert train(tmp_path, resume=True).name == "test-0002"


def test_a_run_that_is_being_recorded_is_left_alone(tmp_path: Path) -> None:
    _, crashed = make_crashed(tmp_path)
    descriptor = os.open(crashed, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another process would
        with pytest.raises(RecordingError, match="another process"):
            train(crashed.parent, resume=True)
    finally:
        os.close(descriptor)
    train(crashed.parent, resume=True)


def test_a_resumed_run_may_end_where_it_stands(tmp_path: Path) -> None:
    """It was killed between its last step and the end."""
    whole, crashed = make_crashed(tmp_path, steps=12)
    ended = tmp_path / "ended" / whole.name
    shutil.copytree(whole, ended)
    for name in (BEGUN, RUN):
        shutil.copy(crashed / name, ended / name)
    (ended / MODEL).unlink()
    assert_same_record(whole, train(ended.parent, resume=True, steps=12))


def test_a_registered_run_keeps_its_registration(tmp_path: Path) -> None:
    network = Network()
    whole = train(tmp_path / "whole", register=network, after=photograph(tmp_path))
    resumed = train(tmp_path / "9", register=network, resume=True)
    assert len(network.requests) == 1
    assert_same_record(whole, resumed)
    assert build_submit(resumed)[0].registration == b"r" * 32
    with pytest.raises(RecordingError, match="registration is none"):
        train(tmp_path / "7", resume=True)
    with pytest.raises(RecordingError, match="registered"):
        train(tmp_path / "5", register=network, resume=True, steps=STEPS + 1)


SCRIPT = """
    import sys, time
    import torch
    import torch.nn.functional as F
    from milepost_ml import recorder as milepost

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Dropout(), torch.nn.Linear(16, 4))
    opt = torch.optim.AdamW(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(64, 12, generator=generator)
    labels = torch.randint(4, (64,), generator=generator)
    run = milepost.Run(
        "plain", model, opt, loss=F.cross_entropy, every=5, stride=2, seed=4, profile="class",
        resume=True, selfcheck=False, folder=sys.argv[1],
    )
    for x, y in run.batches(images, labels, batch_size=8, steps=60):
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad(); loss.backward(); opt.step()
        run.log(loss)
        time.sleep(float(sys.argv[2]))
    run.finish()
"""


def test_a_process_that_is_killed_again_and_again(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def start(parent: Path, pause: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(parent), str(pause)])

    assert start(tmp_path / "whole", 0.0).wait() == 0
    folder = tmp_path / "killed" / "plain-0001"
    rng = np.random.default_rng(0)
    for wanted in (1, 4, 8):
        process = start(tmp_path / "killed", 0.02)
        while not (folder / get_snapshot_name(wanted)).exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert json.loads((folder / RUN).read_text())["complete"] is False
    assert start(tmp_path / "killed", 0.0).wait() == 0
    assert_same_record(tmp_path / "whole" / "plain-0001", folder)
    assert all(retrace_recorded(folder, k).agrees for k in (0, 11))
    assert read_tensors(folder / MODEL)
