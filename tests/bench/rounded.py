"""How often profile `rounded` gives another bit on another machine.

A run is recorded here on one thread, with a snapshot after every step.  A process on two threads,
whose libraries are kept from the newer vector instructions, then does every step again from the
recorded state before it.  So each comparison is of one rounding and not of what an earlier
difference grew into.  Losses and gradients enter step digests too: a step counts as different if
any of them, or any number of the state, has another bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from milepost_consensus.payloads import ROUNDED
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.files import DATA, FolderFiles
from milepost_ml.record_files import read_recipe, read_state, read_steps
from milepost_ml.recorder import Run
from milepost_ml.stepper import Stepper
from tests.bench.models import LeNet5, ResNet, make_mlp

BATCH: Final = 64
LOWERED: Final = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OMP_NUM_THREADS": "2",
}
"""What the second process is started with."""


class Counts(NamedTuple):
    """What the second process found in one record."""

    roundings: int
    """Numbers of the state that were rounded and compared."""
    mismatches: int
    gradients: int
    """Numbers of the gradients; they are compared by digest."""
    steps: int
    steps_apart: int


def _record(make: Callable[[], nn.Module], steps: int, folder: Path) -> Path:
    images, labels = (torch.from_numpy(array) for array in load_mnist_5k())
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = Run(
        "rounded",
        model,
        optimizer,
        loss=functional.cross_entropy,
        every=1,
        folder=folder,
        seed=1,
        profile=ROUNDED,
        selfcheck=False,
        quiet=True,
    )
    for x, y in run.batches(images, labels, batch_size=BATCH, steps=steps):
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    return run.finish()


def count(folder: Path) -> Counts:
    """Do every step of a record again on this process's arithmetic."""
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    stepper = Stepper(recipe, folder / DATA)
    trained = sum(
        int(np.prod(item.shape, dtype=np.int64)) for item in recipe.parameters if item.trained
    )
    roundings = mismatches = apart = 0
    for step in range(recipe.steps):
        stepper.load(step, read_state(files, recipe, step))
        result = stepper.run_step()
        apart += tuple(result) != tuple(read_steps(files, recipe, step)[0])
        expected, found = read_state(files, recipe, step + 1), stepper.get_state()
        for name, array in expected.items():
            if array.dtype == np.float32:
                roundings += array.size
                mismatches += int((array.view(np.int32) != found[name].view(np.int32)).sum())
    return Counts(roundings, mismatches, trained * recipe.steps, recipe.steps, apart)


def bench_rounded() -> None:
    """Print roundings compared, mismatches and the bound that the rule of three gives."""
    print("recorded natively on one thread, repeated without AVX on two; every step by itself")
    for name, make, steps in (
        ("MLP 235k", make_mlp, 200),
        ("LeNet-5", LeNet5, 200),
        ("ResNet 20k", ResNet, 60),
    ):
        with tempfile.TemporaryDirectory() as place:
            folder = _record(make, steps, Path(place))
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.rounded", str(folder)],
                env={**os.environ, **LOWERED},
                check=True,
                capture_output=True,
                text=True,
            )
        found = Counts(*json.loads(done.stdout))
        # With no mismatch in n, the rate is below 3 / n with 95 % confidence.
        bound = (
            f"rate {found.mismatches / found.roundings:.1e}"
            if found.mismatches
            else f"rate below {3 / found.roundings:.1e} (rule of three, 95 %)"
        )
        print(
            f"{name:10} {found.roundings:,} roundings of the state: {found.mismatches} mismatches,"
            f" {bound}; {found.steps_apart} of {found.steps} steps differ anywhere,"
            f" {found.gradients:,} roundings of gradients included"
        )


if __name__ == "__main__":
    print(json.dumps(count(Path(sys.argv[1]))))
