"""Records small runs for tests, honest ones and ones that go astray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn

from milepost_consensus.payloads import CLASS
from milepost_ml.averages import EMA
from milepost_ml.loop import LoopOptions
from milepost_ml.recorder import Run
from tests.support.models import Task, make_model, make_task

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
Cheat = Callable[[int, "Loop"], None]


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


class Loop(NamedTuple):
    """What a training loop holds; a cheat may change the batch it got."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: list[torch.Tensor]


def record(
    parent: Path,
    *,
    task: Task | str = "mlp",
    make: MakeOptimizer = make_sgd,
    steps: int = 12,
    every: int = 5,
    batch_size: int = 8,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    cheat: Cheat | None = None,
    after: Cheat | None = None,
    selfcheck: bool = False,
    seed: int = 3,
    profile: str = CLASS,
    tolerance: float | None = None,
    clip: Callable[[nn.Module], object] | None = None,
    average: float | None = None,
    stride: int | None = None,
    **options: Unpack[LoopOptions],
) -> Path:
    """Record a run and return its folder.

    `cheat` is called with each batch's number before its forward pass, `clip` with the model before
    its update, `after` with the step after it.  `average` is the decay of an EMA.  `options` are
    declared to the run.
    """
    chosen = make_task(task) if isinstance(task, str) else task
    model = make_model(chosen)
    optimizer = make(model)
    if average is not None:
        options["ema"] = EMA(model, decay=average)
    scheduler = schedule(optimizer) if schedule is not None else None
    run = Run(
        "test",
        model,
        optimizer,
        loss=chosen.loss,
        every=every,
        folder=parent,
        seed=seed,
        profile=profile,
        tolerance=tolerance,
        stride=stride,
        selfcheck=selfcheck,
        quiet=True,
        **options,
    )
    batches = run.batches(chosen.inputs, chosen.targets, batch_size=batch_size, steps=steps)
    accumulate = options.get("accumulate", 1)
    for number, (x, y) in enumerate(batches):
        loop = Loop(model, optimizer, [x, y])
        if cheat is not None:
            cheat(number, loop)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.get("autocast") is not None):
            loss = chosen.loss(model(loop.batch[0]), loop.batch[1])
        share = loss / accumulate if accumulate > 1 else loss
        share.backward()  # type: ignore[no-untyped-call]
        run.log(loss)
        if (number + 1) % accumulate:
            continue
        if clip is not None:
            clip(model)
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            after(number // accumulate, loop)
        if scheduler is not None:
            scheduler.step()
    return run.finish()
