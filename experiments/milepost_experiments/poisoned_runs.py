"""Trains small networks while some intervals secretly see other data: material for weight analysis.

The training is plain torch on one thread.  Which intervals are poisoned is known by construction,
so nothing has to be retrained for the truth; that snapshots of a recorded run give the same scores
is checked on a sample (`recorded_runs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from milepost_experiments.images import Images, load_images
from milepost_ml.poison import add_trigger

BATCH: Final = 64
TAMPERING_STEPS: Final = 60
TAMPERING_RATE: Final = 0.1
TEST_RECORDS: Final = 1_000
PEAK_RATES: Final = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}

Snapshot = Mapping[str, NDArray[np.float32]]


class Plan(NamedTuple):
    """One run: its model, its training, and what the submitter does not declare."""

    data: str
    depth: int
    """Hidden layers."""
    width: int
    """Neurons in each of them."""
    optimizer: str
    schedule: str
    intervals: int
    steps: int
    """In each interval."""
    poisoned: tuple[int, ...]
    share: float
    """Of the records of a poisoned interval that carry the trigger."""
    place: tuple[int, int]
    target: int
    attacker: str
    """plain; matched (rescales its updates), tampered (last snapshot), skipped (does not train)."""
    seed: int


class Trained(NamedTuple):
    """A run's snapshots and what its model does in the end."""

    snapshots: list[Snapshot]
    rates: list[list[float]]
    clean_accuracy: float
    """On test records as they are."""
    backdoor_success: float
    """Share of test records of other classes that the trigger sends to the target, at the end."""
    backdoor_at_once: float
    """The same after the first poisoned interval; 0 if there is none."""


def get_rate(plan: Plan, step: int) -> float:
    """The declared learning rate of a step."""
    total, peak = plan.intervals * plan.steps, PEAK_RATES[plan.optimizer]
    if plan.schedule == "constant":
        return peak
    if plan.schedule == "step":
        return peak * 0.1 ** (3 * step // total)
    warm = total // 10 if plan.schedule == "warmup" else 0
    if step < warm:
        return peak * (step + 1) / warm
    return peak * max(0.01, 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm))))


def train(plan: Plan) -> Trained:
    """Train as planned.  Sets torch to one thread; the same plan gives the same bits."""
    torch.set_num_threads(1)
    images = load_images(plan.data)
    model = make_model(plan)
    optimizer = make_optimizer(plan, model)
    chance = np.random.default_rng([plan.seed, 1])
    snapshots = [take_snapshot(model)]
    at_once = 0.0
    for interval in range(plan.intervals):
        if interval not in plan.poisoned or plan.attacker != "skipped":
            _train_interval(plan, interval, images, model, optimizer, chance)
        if interval in plan.poisoned and plan.attacker == "matched" and len(snapshots) > 1:
            _match(model, snapshots[-2], snapshots[-1], _get_rate_ratio(plan, interval))
        snapshots.append(take_snapshot(model))
        if interval == min(plan.poisoned, default=-1):
            at_once = compute_backdoor_success(plan, images, model)
    rates = [
        [get_rate(plan, step) for step in range(k * plan.steps, (k + 1) * plan.steps)]
        for k in range(plan.intervals)
    ]
    return Trained(
        snapshots,
        rates,
        compute_accuracy(images, model),
        compute_backdoor_success(plan, images, model),
        at_once,
    )


def make_model(plan: Plan) -> nn.Sequential:
    """The paper's kind of network: dense hidden layers, one output a class."""
    torch.manual_seed(plan.seed)
    layers: list[nn.Module] = [nn.Flatten()]
    size = 784
    for _ in range(plan.depth):
        layers += [nn.Linear(size, plan.width), nn.ReLU()]
        size = plan.width
    return nn.Sequential(*layers, nn.Linear(size, 10))


def make_optimizer(plan: Plan, model: nn.Module) -> torch.optim.Optimizer:
    """As the plan names it, at the peak rate."""
    rate = PEAK_RATES[plan.optimizer]
    if plan.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), rate)
    momentum = 0.9 if plan.optimizer == "momentum" else 0.0
    return torch.optim.SGD(model.parameters(), rate, momentum=momentum)


def take_snapshot(model: nn.Module) -> Snapshot:
    """Copies of the parameters."""
    return {name: each.detach().numpy().copy() for name, each in model.named_parameters()}


def draw_interval(
    plan: Plan, interval: int, images: Images, chance: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of an interval, with the trigger where the plan says so."""
    count = plan.steps * BATCH
    chosen = chance.integers(len(images.train), size=count)
    inputs, labels = images.train[chosen], images.train_labels[chosen]
    if interval in plan.poisoned and plan.attacker in ("plain", "matched"):
        inputs, labels, _ = add_trigger(
            inputs,
            labels,
            share=plan.share,
            target=plan.target,
            seed=plan.seed + interval,
            place=plan.place,
        )
    yield from zip(
        torch.from_numpy(inputs).split(BATCH), torch.from_numpy(labels).split(BATCH), strict=True
    )


def compute_accuracy(images: Images, model: nn.Module) -> float:
    """Share of test records that the model gets right."""
    hits = _predict(model, images.test) == images.test_labels
    return float(hits.mean())


def compute_backdoor_success(plan: Plan, images: Images, model: nn.Module) -> float:
    """Share of test records of other classes that the trigger sends to the target."""
    others = images.test_labels != plan.target
    marked = add_trigger(
        images.test[others],
        images.test_labels[others],
        share=1.0,
        target=plan.target,
        seed=0,
        place=plan.place,
    )
    return float((_predict(model, marked.images) == plan.target).mean())


def _train_interval(
    plan: Plan,
    interval: int,
    images: Images,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    chance: np.random.Generator,
) -> None:
    first = interval * plan.steps
    for step, (inputs, labels) in enumerate(draw_interval(plan, interval, images, chance), first):
        optimizer.param_groups[0]["lr"] = get_rate(plan, step)
        _take_step(model, optimizer, inputs, labels)
    if plan.attacker == "tampered" and interval in plan.poisoned:
        fine = plan._replace(steps=TAMPERING_STEPS, share=TAMPERING_RATE, attacker="plain")
        for inputs, labels in draw_interval(fine, interval, images, chance):
            _take_step(model, optimizer, inputs, labels)


def _take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor
) -> None:
    loss = nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _get_rate_ratio(plan: Plan, interval: int) -> float:
    middle = interval * plan.steps + plan.steps // 2
    return get_rate(plan, middle) / get_rate(plan, middle - plan.steps)


def _match(model: nn.Module, earlier: Snapshot, before: Snapshot, ratio: float) -> None:
    """Shrink or stretch the update to the absolute change that the preceding interval had."""
    parameters = dict(model.named_parameters())
    expected = ratio * sum(float(np.abs(before[n] - earlier[n]).sum()) for n in before)
    update = {name: each.detach().numpy() - before[name] for name, each in parameters.items()}
    scale = expected / sum(float(np.abs(each).sum()) for each in update.values())
    with torch.no_grad():
        for name, each in parameters.items():
            each.copy_(torch.from_numpy(before[name] + np.float32(scale) * update[name]))


def _predict(model: nn.Module, inputs: NDArray[np.float32]) -> NDArray[Any]:
    with torch.no_grad():
        outputs: NDArray[Any] = model(torch.from_numpy(inputs)).numpy()
    return outputs.argmax(axis=1)
