"""Trains small networks while some intervals secretly see other data: material for weight analysis.

Which intervals are poisoned is known by construction, so nothing has to be retrained for the truth;
that the snapshots of a recorded run give the same scores is checked on a sample
(`recorded_runs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from milepost_experiments.dense import DenseNetwork
from milepost_experiments.images import PIXELS, Images, load_images
from milepost_ml.poison import add_trigger

BATCH: Final = 64
CLASSES: Final = 10
TAMPERING_STEPS: Final = 60
TAMPERING_SHARE: Final = 0.1
PEAK_RATES: Final = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}
FINAL_PART: Final = 0.01
"""A cosine ends at this part of the peak."""

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
    rate_sums: list[float]
    """The declared learning rates of each interval, summed."""
    clean_accuracy: float
    """On test records as they are."""
    backdoor_success: float
    """Share of test records of other classes that the trigger sends to the target, at the end."""
    backdoor_at_once: float
    """The same after the first poisoned interval; 0 if there is none."""


def train(plan: Plan) -> Trained:
    """Train as planned.  Sets torch to one thread; the same plan gives the same bits."""
    torch.set_num_threads(1)
    images = load_images(plan.data)
    network = DenseNetwork((PIXELS, *[plan.width] * plan.depth, CLASSES), plan.seed)
    chance = np.random.default_rng([plan.seed, 1])
    snapshots: list[Snapshot] = [network.copy_parameters()]
    at_once = 0.0
    for interval in range(plan.intervals):
        poisoned = interval in plan.poisoned
        if not poisoned or plan.attacker != "skipped":
            _train_interval(plan, interval, images, network, chance)
        if poisoned and plan.attacker == "matched":
            _match(network, snapshots[-2], snapshots[-1], _get_rate_ratio(plan, interval))
        snapshots.append(network.copy_parameters())
        if interval == min(plan.poisoned, default=-1):
            at_once = compute_backdoor_success(plan, images, network)
    return Trained(
        snapshots,
        [compute_rate_sum(plan, interval) for interval in range(plan.intervals)],
        compute_accuracy(images, network),
        compute_backdoor_success(plan, images, network),
        at_once,
    )


def get_rate(plan: Plan, step: int) -> float:
    """The declared learning rate of a step."""
    total, peak = plan.intervals * plan.steps, PEAK_RATES[plan.optimizer]
    if plan.schedule == "constant":
        return peak
    if plan.schedule == "step":
        return float(peak * 0.1 ** (3 * step // total))
    warm = total // 10 if plan.schedule == "warmup" else 0
    if step < warm:
        return peak * (step + 1) / warm
    turned = math.pi * (step - warm) / (total - warm)
    return peak * max(FINAL_PART, 0.5 * (1 + math.cos(turned)))


def compute_rate_sum(plan: Plan, interval: int) -> float:
    """The sum of the declared rates of an interval."""
    first = interval * plan.steps
    return math.fsum(get_rate(plan, step) for step in range(first, first + plan.steps))


def draw_batches(
    plan: Plan, interval: int, images: Images, chance: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The batches of an interval, with the trigger where the plan says so."""
    chosen = chance.integers(len(images.train), size=plan.steps * BATCH)
    if interval in plan.poisoned and plan.attacker in ("plain", "matched"):
        inputs, labels, _ = add_trigger(
            images.train[chosen],
            images.train_labels[chosen],
            share=plan.share,
            target=plan.target,
            seed=plan.seed + interval,
            place=plan.place,
        )
        for start in range(0, len(chosen), BATCH):
            yield inputs[start : start + BATCH], labels[start : start + BATCH]
    else:
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            yield images.train[batch], images.train_labels[batch]


def compute_accuracy(images: Images, network: DenseNetwork) -> float:
    """Share of test records that the network gets right."""
    return float((network.predict(images.test) == images.test_labels).mean())


def compute_backdoor_success(plan: Plan, images: Images, network: DenseNetwork) -> float:
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
    return float((network.predict(marked.images) == plan.target).mean())


def _train_interval(
    plan: Plan,
    interval: int,
    images: Images,
    network: DenseNetwork,
    chance: np.random.Generator,
) -> None:
    first = interval * plan.steps
    for step, batch in enumerate(draw_batches(plan, interval, images, chance), first):
        _take_step(plan, network, batch, get_rate(plan, step))
    if plan.attacker == "tampered" and interval in plan.poisoned:
        fine = plan._replace(steps=TAMPERING_STEPS, share=TAMPERING_SHARE, attacker="plain")
        for batch in draw_batches(fine, interval, images, chance):
            _take_step(plan, network, batch, get_rate(plan, first))


def _take_step(
    plan: Plan,
    network: DenseNetwork,
    batch: tuple[NDArray[np.float32], NDArray[np.int64]],
    rate: float,
) -> None:
    inputs, labels = batch
    network.take_step(
        torch.from_numpy(inputs.reshape(len(inputs), PIXELS)),
        torch.from_numpy(labels),
        rate=rate,
        optimizer=plan.optimizer,
    )


def _get_rate_ratio(plan: Plan, interval: int) -> float:
    return compute_rate_sum(plan, interval) / compute_rate_sum(plan, interval - 1)


def _match(network: DenseNetwork, earlier: Snapshot, before: Snapshot, ratio: float) -> None:
    """Stretch the update to the absolute change of the preceding interval, rate for rate."""
    now = network.copy_parameters()
    expected = ratio * sum(float(np.abs(before[name] - earlier[name]).sum()) for name in now)
    moved = sum(float(np.abs(now[name] - before[name]).sum()) for name in now)
    scale = np.float32(expected / moved)
    network.set_parameters(
        {name: before[name] + scale * (now[name] - before[name]) for name in now}
    )
