"""What recording costs: the same training loop with and without the recorder, side by side.

Both loops use one thread, the same model, data and number of steps, and take turns, so that a
machine whose speed drifts shows the same ratio.  The profile is `class`, which computes as the
plain loop does; what exact arithmetic costs is a benchmark of its own.  The recorder's pass
includes step digests and snapshots; the self-check, which runs in another process, is left out of
the ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from milepost_ml.datasets import load_mnist_5k
from milepost_ml.recorder import Run
from tests.bench.models import LeNet5, make_mlp

STEPS: Final = 200
EVERY: Final = 25
PAIRS: Final = 7


def _train_plain(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, size: int) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    begin = time.perf_counter()
    for step in range(STEPS):
        if step % (len(images) // size) == 0:
            order = torch.randperm(len(images))
        first = step % (len(images) // size) * size
        chosen = order[first : first + size]
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - begin


def _train_recorded(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, size: int, folder: Path
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = Run(
        "bench",
        model,
        optimizer,
        loss=functional.cross_entropy,
        every=EVERY,
        folder=folder,
        profile="class",
        selfcheck=False,
        quiet=True,
    )
    batches = iter(run.batches(images, labels, batch_size=size, steps=STEPS))
    # The first batch pays for hashing the data and capturing the graph, once per run.
    x, y = next(batches)
    begin = time.perf_counter()
    for _ in range(STEPS):
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
        x, y = next(batches, (x, y))
    seconds = time.perf_counter() - begin
    run.finish()
    return seconds


def bench_recorder() -> None:
    """Print the median ratio of recorded to plain training per model and batch size."""
    raw_images, raw_labels = load_mnist_5k()
    images, labels = torch.from_numpy(raw_images), torch.from_numpy(raw_labels)
    print(f"{STEPS} steps, snapshot every {EVERY}, digest every step, {PAIRS} pairs, one thread")
    for name, make, size in (
        ("LeNet-5, batch 64", LeNet5, 64),
        ("LeNet-5, batch 128", LeNet5, 128),
        ("MLP 235k, batch 64", make_mlp, 64),
    ):
        ratios, plain_ms = [], []
        for turn in range(PAIRS + 1):
            with tempfile.TemporaryDirectory() as folder:
                plain = _train_plain(make(), images, labels, size)
                recorded = _train_recorded(make(), images, labels, size, Path(folder))
            if turn:  # the first pair warms up
                ratios.append(recorded / plain)
                plain_ms.append(1_000 * plain / STEPS)
        print(
            f"{name:20} plain {statistics.median(plain_ms):6.2f} ms a step; recorded / plain:"
            f" median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
        )
