"""How far honest and poisoned intervals end from each other under profile `tolerance`.

A run is recorded here on two threads.  Processes on one thread, and with narrower vector
instructions, retrace every interval of it as a verifier does.  Poison is one example of one batch,
with a white corner and another label, in the first or in the last step of an interval; its residual
is what a verifier would measure if the record had it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from milepost_consensus.tolerance import TOLERANCE
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.distance import PPB
from milepost_ml.files import DATA, FolderFiles
from milepost_ml.recipe import get_steps
from milepost_ml.record_files import read_recipe, read_state
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from milepost_ml.residual import compute_residual
from milepost_ml.stepper import Stepper
from tests.bench.models import LeNet5, ResNet

if TYPE_CHECKING:
    from milepost_ml.digests import Array

BATCH: Final = 64
STEPS: Final = {1: 200, 10: 600}
SKIPPED: Final = 2
"""The first share of a run (one in so many) is not measured: it moves far and hides everything."""
OTHERS: Final = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "1 thread, avx2": {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2"},
    "1 thread, sse4.1": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}


class _Case(NamedTuple):
    name: str
    make: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]


def _sgd(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


CASES: Final = (
    _Case("LeNet-5 SGD .05", LeNet5, _sgd(0.05)),
    _Case("LeNet-5 Adam .001", LeNet5, _adam),
    _Case("ResNet 20k SGD .05", ResNet, _sgd(0.05)),
    _Case("ResNet 20k Adam .001", ResNet, _adam),
)


class _Poisoned(Stepper):
    """Trains the declared run but for one example of one step."""

    poisoned_step = -1

    def get_batch(self, step: int) -> dict[str, Array]:
        rows = super().get_batch(step)
        if step == self.poisoned_step:
            rows["data.0"][0, :, -4:, -4:] = rows["data.0"].max()
            rows["data.1"][0] = (rows["data.1"][0] + 1) % 10
        return rows


def _record(case: _Case, every: int, folder: Path) -> Path:
    images, labels = (torch.from_numpy(array) for array in load_mnist_5k())
    torch.set_num_threads(2)
    torch.manual_seed(1)
    model = case.make()
    optimizer = case.optimizer(model)
    run = Run(
        "tolerance",
        model,
        optimizer,
        loss=functional.cross_entropy,
        every=every,
        folder=folder,
        seed=1,
        profile=TOLERANCE,
        selfcheck=False,
        quiet=True,
    )
    for x, y in run.batches(images, labels, batch_size=BATCH, steps=STEPS[every]):
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    return run.finish()


def _get_measured(folder: Path) -> range:
    intervals = read_recipe(FolderFiles(folder))[1].intervals
    return range(intervals // SKIPPED, intervals)


def measure_honest(folder: Path) -> list[int]:
    """The residual of each interval of a record, on this process's arithmetic."""
    return [retrace_recorded(folder, each).distance_ppb for each in _get_measured(folder)]


def measure_poisoned(folder: Path, place: int) -> list[int]:
    """What poison at a place of each interval would make of its residual."""
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    stepper = _Poisoned(recipe, folder / DATA)
    residuals = []
    for interval in _get_measured(folder):
        start, end = (read_state(files, recipe, each) for each in (interval, interval + 1))
        steps = get_steps(recipe, interval)
        stepper.load(steps.start, start)
        stepper.poisoned_step = steps[place]
        for _ in steps:
            stepper.run_step()
        found = compute_residual(recipe, stepper.get_state(), end=end, start=start)
        residuals.append(found.ppb)
    return residuals


def _print(what: str, residuals: Sequence[int]) -> None:
    low, middle, high = (
        value / PPB for value in (min(residuals), statistics.median(residuals), max(residuals))
    )
    print(f"    {what:<32} {low:9.1e} {middle:9.1e} {high:9.1e}", flush=True)


def bench_tolerance() -> None:
    """Print the residuals of honest and of poisoned intervals, for intervals of 1 and 10 steps."""
    print("residuals as shares of an interval's movement: least, median, greatest")
    for case in CASES:
        for every in STEPS:
            with tempfile.TemporaryDirectory() as folder:
                run = _record(case, every, Path(folder))
                count = len(_get_measured(run))
                print(f"  {case.name}, every={every}, {count} intervals after as many others")
                for name, environment in OTHERS.items():
                    done = subprocess.run(
                        [sys.executable, "-m", "tests.bench.tolerance", str(run)],
                        env={**os.environ, **environment},
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    _print(f"honest, {name}", json.loads(done.stdout))
                for what, place in (("first", 0), ("last", -1)):
                    residuals = measure_poisoned(run, place)
                    _print(f"one example poisoned, {what} step", residuals)


if __name__ == "__main__":
    print(json.dumps(measure_honest(Path(sys.argv[1]))))
