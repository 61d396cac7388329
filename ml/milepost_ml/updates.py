"""How gradients become new weights, as a declaration: parameter groups, their rates, clipping.

A group is what PyTorch's optimizers call one: parameters that share settings and a learning rate.
All groups of a recipe have the same kind of optimizer.  Clipping happens once a step, between
backward and the optimizer, over all trained parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from milepost_ml.errors import InvalidRecord
from milepost_ml.keras_optimizers import KerasOptimizer

MAX_GROUPS: Final = 1_024
"""One for every tensor of a model of a few hundred layers."""
MAX_RATE: Final = 1e6
MAX_CLIP: Final = 1e6
AVERAGE: Final = "average"
"""The name of a parameter's running average, beside the names of `get_slots`."""

Rates = tuple[tuple[int, float], ...]
"""Run lengths: (steps, learning rate of each of them)."""


class SGD(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sgd"):
    """torch.optim.SGD."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool


class Adam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="adam"):
    """torch.optim.Adam: weight decay is added to the gradient."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    amsgrad: bool


class AdamW(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="adamw"):
    """torch.optim.AdamW: weight decay shrinks the weights."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    amsgrad: bool


Settings = SGD | Adam | AdamW
"""Of an optimizer of PyTorch, which is what they are called by."""


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters with the same settings, named in the order in which the optimizer holds them."""

    parameters: tuple[str, ...]
    """Those that are trained; a group may have none."""
    optimizer: Settings | KerasOptimizer
    rates: Rates


class ClipNorm(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="norm"
):
    """torch.nn.utils.clip_grad_norm_ with the 2-norm.

    `over` is the order in which it gets the trained parameters: "model" that of the model, "groups"
    that of the optimizer's groups.
    """

    max_norm: float
    over: Literal["model", "groups"] = "model"


class ClipValue(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="value"
):
    """torch.nn.utils.clip_grad_value_."""

    max_value: float


Clip = ClipNorm | ClipValue


def get_slots(optimizer: Settings | KerasOptimizer) -> tuple[str, ...]:
    """The names of what an optimizer keeps for every parameter, all of the parameter's shape."""
    if isinstance(optimizer, KerasOptimizer):
        return optimizer.get_slots()
    if isinstance(optimizer, SGD):
        return ("momentum_buffer",) if optimizer.momentum else ()
    return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if optimizer.amsgrad else ()))


def has_counter(optimizer: Settings | KerasOptimizer) -> bool:
    """Whether an optimizer counts the steps of every parameter, in a tensor `step`."""
    return isinstance(optimizer, Adam | AdamW)


def expand_rates(rates: Rates, steps: range) -> tuple[float, ...]:
    """The learning rates of consecutive steps out of run lengths."""
    expanded: list[float] = []
    start = 0
    for count, rate in rates:
        low, high = max(start, steps.start), min(start + count, steps.stop)
        expanded.extend([rate] * max(0, high - low))
        start += count
    return tuple(expanded)


def append_rate(runs: list[tuple[int, float]], count: int, rate: float) -> None:
    """Add steps of one learning rate to run lengths."""
    if runs and runs[-1][1] == rate:
        count += runs.pop()[0]
    runs.append((count, rate))


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


def validate_groups(groups: Sequence[Group], trained: Sequence[str], steps: int) -> None:
    """Raises InvalidRecord (bad-recipe) unless groups share out the trained parameters."""
    _require(
        1 <= len(groups) <= MAX_GROUPS, f"{len(groups)} parameter groups, 1 to {MAX_GROUPS} allowed"
    )
    held = [name for group in groups for name in group.parameters]
    _require(
        sorted(held) == sorted(trained),
        "its parameter groups do not hold every trained parameter exactly once, and nothing else",
    )
    _require(
        len({type(group.optimizer) for group in groups}) == 1,
        "its parameter groups have optimizers of different kinds",
    )
    for group in groups:
        _validate_optimizer(group.optimizer)
        for length, rate in group.rates:
            _require(length >= 1, "a run of learning rates has no steps")
            _require(math.isfinite(rate) and 0 <= rate <= MAX_RATE, f"a learning rate of {rate}")
        declared = sum(length for length, _ in group.rates)
        _require(declared == steps, f"{declared} learning rates for {steps} steps")


def _validate_optimizer(optimizer: Settings | KerasOptimizer) -> None:
    if isinstance(optimizer, KerasOptimizer):
        optimizer.validate()
        return
    if isinstance(optimizer, SGD):
        shares = {"momentum": optimizer.momentum, "dampening": optimizer.dampening}
        positive = {"weight_decay": optimizer.weight_decay}
        _require(
            not optimizer.nesterov or (optimizer.momentum > 0 and optimizer.dampening == 0),
            "nesterov needs momentum and no dampening",
        )
    else:
        shares = {"beta1": optimizer.beta1, "beta2": optimizer.beta2}
        positive = {"eps": optimizer.eps, "weight_decay": optimizer.weight_decay}
        _require(max(shares.values()) < 1, "a beta is not below 1")
    for name, value in (shares | positive).items():
        _require(math.isfinite(value) and 0 <= value <= 1e6, f"{name} = {value}")


def validate_decay(decay: float | None) -> None:
    """Raises InvalidRecord (bad-recipe) for a running average that cannot be."""
    _require(decay is None or (math.isfinite(decay) and 0 <= decay < 1), f"ema_decay = {decay}")


def validate_clip(clip: Clip | None) -> None:
    """Raises InvalidRecord (bad-recipe) for a bound that cannot be."""
    if clip is not None:
        bound = clip.max_norm if isinstance(clip, ClipNorm) else clip.max_value
        _require(math.isfinite(bound) and 0 < bound <= MAX_CLIP, f"gradients clipped to {bound}")
