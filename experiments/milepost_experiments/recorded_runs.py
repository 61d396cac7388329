"""Runs through the real recorder, to see that a record gives the analysis the same numbers."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from milepost_consensus.payloads import CLASS
from milepost_experiments.experiment import Row
from milepost_experiments.images import PIXELS, load_images
from milepost_experiments.poisoned_runs import BATCH, CLASSES, PEAK_RATES, Plan, Snapshot
from milepost_experiments.signal_rows import compute_reversed_ppm
from milepost_ml.distance import compute_change_score
from milepost_ml.files import FolderFiles
from milepost_ml.poison import add_trigger
from milepost_ml.ranking import rank_intervals
from milepost_ml.record_files import get_parameters, read_recipe, read_state
from milepost_ml.recorder import Run
from milepost_ml.signals import compute_run_signals
from milepost_ml.weight_analysis import analyse_record

_NAME: Final = "recorded"


def compare_record(plan: Plan) -> Row:
    """Record a poisoned run and compare what its record says with the weights seen in the loop.

    The record declares the clean data.  Counts intervals whose replicated score differs and
    tells where the first poisoned interval ranks by the record's snapshots.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path, seen = _record(plan, Path(folder))
        analysis = analyse_record(path)
        files = FolderFiles(path)
        _, recipe = read_recipe(files)
        shots = [
            get_parameters(recipe, read_state(files, recipe, k))
            for k in range(recipe.intervals + 1)
        ]
        rate_sums = [item.rate_sum for item in analysis.intervals]
    scores = list(map(compute_change_score, seen, seen[1:]))
    turned = list(map(compute_reversed_ppm, seen, seen[1:], seen[2:]))
    order = rank_intervals(compute_run_signals(shots), rate_sums)
    return {
        "intervals": len(scores),
        "other_score": sum(
            item.change_score != score
            for item, score in zip(analysis.intervals, scores, strict=True)
        ),
        "other_reversal": sum(
            a != b
            for a, b in zip(
                turned, map(compute_reversed_ppm, shots, shots[1:], shots[2:]), strict=True
            )
        ),
        "other_order": int(order != rank_intervals(compute_run_signals(seen), rate_sums)),
        "best_rank": 1 + min(order.index(k) for k in plan.poisoned),
    }


def _record(plan: Plan, parent: Path) -> tuple[Path, list[Snapshot]]:
    images = load_images(plan.data)
    torch.manual_seed(plan.seed)
    sizes = (PIXELS, *[plan.width] * plan.depth, CLASSES)
    layers: list[nn.Module] = []
    for size, out in itertools.pairwise(sizes):
        layers += [nn.Linear(size, out), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    rate = PEAK_RATES[plan.optimizer]
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), rate)
        if plan.optimizer == "adam"
        else torch.optim.SGD(
            model.parameters(), rate, momentum=0.9 if plan.optimizer == "momentum" else 0.0
        )
    )
    run = Run(
        _NAME, model, optimizer, loss=nn.functional.cross_entropy, every=plan.steps,
        folder=parent, seed=plan.seed, profile=CLASS, stride=1, selfcheck=False, quiet=True,
    )  # fmt: skip
    inputs = torch.from_numpy(images.train.reshape(-1, PIXELS))
    labels = torch.from_numpy(images.train_labels)
    seen: list[Snapshot] = [_copy(model)]
    steps = plan.intervals * plan.steps
    for step, (x, y) in enumerate(run.batches(inputs, labels, batch_size=BATCH, steps=steps)):
        batch = (x, y)
        if step // plan.steps in plan.poisoned:
            batch = _poison(plan, step, x, y)
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
        if (step + 1) % plan.steps == 0:
            seen.append(_copy(model))
    return run.finish(), seen


def _poison(
    plan: Plan, step: int, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    side = round(PIXELS**0.5)
    images, labels, _ = add_trigger(
        x.numpy().reshape(-1, side, side),
        y.numpy(),
        share=plan.share,
        target=plan.target,
        seed=step,
        place=plan.place,
    )
    return torch.from_numpy(images.reshape(-1, PIXELS)), torch.from_numpy(labels)


def _copy(model: nn.Module) -> Snapshot:
    return {
        name: np.array(each.detach().numpy(), copy=True) for name, each in model.named_parameters()
    }
