"""What recording costs: the same training loop with and without the recorder, side by side.

Both loops do the same steps of the same model on the same data under the same arithmetic profile
and take turns, so that a machine whose speed drifts, or which others use, shows the same ratio.
The plain loop of profile `class` is PyTorch on one thread; that of profile `exact` computes with
the exact kernels and records nothing.  The recorder's pass includes step digests, at the stride
that the recorder chooses, and snapshots; the self-check, which runs in another process, is left
out.

Beside the time on the clock stands the processor time of all threads: what recording costs where no
core is idle, and the steadier number on a machine that others use.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from milepost_consensus.payloads import CLASS, EXACT
from milepost_ml.arithmetic.profiles import make_profile
from milepost_ml.arithmetic.session import Session
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.recorder import Run
from tests.bench.models import LeNet5, ResNet, make_mlp
from tests.support.larger_models import ResNet18


class Case(NamedTuple):
    """A model with a batch size; enough steps for a few seconds a pair."""

    name: str
    make: Callable[[], nn.Module]
    batch_size: int
    profile: str
    steps: int
    every: int
    pairs: int
    goal: float
    """The largest overhead that users are promised."""
    channels: int = 1
    """Of the images; the digits have one."""


CASES: Final = (
    Case("LeNet-5, batch 128", LeNet5, 128, CLASS, 200, 25, 9, 0.05),
    Case("LeNet-5, batch 128", LeNet5, 128, EXACT, 200, 25, 7, 0.05),
    Case("MLP 235k, batch 64", make_mlp, 64, CLASS, 800, 100, 9, 0.10),
    Case("MLP 235k, batch 64", make_mlp, 64, EXACT, 400, 100, 7, 0.10),
    Case("ResNet 20k, batch 64", ResNet, 64, CLASS, 100, 25, 7, 0.02),
    Case("ResNet 20k, batch 64", ResNet, 64, EXACT, 100, 25, 5, 0.02),
    Case("ResNet-18, batch 32", ResNet18, 32, CLASS, 25, 25, 3, 0.02, 3),
)


def _make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class Spent(NamedTuple):
    """Seconds of one pass."""

    clock: float
    processor: float


class Stopwatch:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def stop(self) -> Spent:
        """What has passed since."""
        return Spent(time.perf_counter() - self._clock, time.process_time() - self._processor)


def _train_plain(case: Case, images: torch.Tensor, labels: torch.Tensor) -> Spent:
    model = case.make()
    optimizer = _make_optimizer(model)
    profile = make_profile(case.profile)
    profile.configure()
    session = Session(profile, model, optimizer)
    size = case.batch_size
    watch = Stopwatch()
    for step in range(case.steps):
        if step % (len(images) // size) == 0:
            order = torch.randperm(len(images))
        first = step % (len(images) // size) * size
        chosen = order[first : first + size]
        x, y = images[chosen], labels[chosen]
        session.enter(step)
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        session.leave()
    spent = watch.stop()
    session.release()
    return spent


def _train_recorded(
    case: Case, images: torch.Tensor, labels: torch.Tensor, folder: Path
) -> tuple[Spent, int]:
    """What it took, and the stride that was chosen."""
    model = case.make()
    optimizer = _make_optimizer(model)
    run = Run(
        "bench",
        model,
        optimizer,
        loss=functional.cross_entropy,
        every=case.every,
        folder=folder,
        profile=case.profile,
        selfcheck=False,
        quiet=True,
    )
    # What precedes the first batch (hashing the data, capturing the graph) is paid once per run.
    batches = run.batches(images, labels, batch_size=case.batch_size, steps=case.steps)
    watch = Stopwatch()
    for x, y in batches:
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    spent = watch.stop()
    done = run.finish()
    return spent, json.loads((done / "run.json").read_text())["stride"]


def bench_recorder() -> None:
    """Print the median ratio of recorded to plain training per model and profile."""
    raw_images, raw_labels = load_mnist_5k()
    grey, labels = torch.from_numpy(raw_images), torch.from_numpy(raw_labels)
    print(f"SGD with momentum; load {os.getloadavg()[0]:.1f} of")
    print(f"{os.cpu_count()} processors; ratios of neighbouring passes: median (lowest to highest)")
    for case in CASES:
        clock, processor, plain_ms, strides = [], [], [], set()
        images = grey.expand(-1, case.channels, -1, -1).contiguous()
        for turn in range(case.pairs + 1):
            with tempfile.TemporaryDirectory() as folder:
                plain = _train_plain(case, images, labels)
                recorded, stride = _train_recorded(case, images, labels, Path(folder))
            if turn:  # the first pair warms up
                clock.append(recorded.clock / plain.clock)
                processor.append(recorded.processor / plain.processor)
                plain_ms.append(1_000 * plain.clock / case.steps)
                strides.add(stride)
        print(
            f"{case.name:20} {case.profile:6} snapshot every {case.every:3}, digest every"
            f" {'/'.join(map(str, sorted(strides)))}; plain {statistics.median(plain_ms):6.2f} ms a"
            f" step; recorded / plain: clock"
            f" {statistics.median(clock):.3f} ({min(clock):.3f} to {max(clock):.3f}), processor"
            f" {statistics.median(processor):.3f}; goal {1 + case.goal:.2f}",
            flush=True,
        )
