"""Steps of SGD, Adam and AdamW in place: rules E28 and E29."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu.lanes import maximum
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous, round_float

_BLOCK: Final = 1024


@jit
def _sgd(
    parameter: tl.tensor,
    gradient: tl.tensor,
    buffer: tl.tensor,
    count: tl.tensor,
    lr: tl.tensor,
    momentum: tl.tensor,
    fresh: tl.tensor,
    decay: tl.tensor,
    has_momentum: tl.constexpr,
    has_decay: tl.constexpr,
    nesterov: tl.constexpr,
    first: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """`fresh` is 1 - dampening."""
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < count
    p = tl.load(parameter + i, mask=inside, other=0.0)
    g = tl.load(gradient + i, mask=inside, other=0.0)
    if has_decay:
        g = g + (decay * p)
    if has_momentum:
        b = g
        if not first:
            b = (momentum * tl.load(buffer + i, mask=inside, other=0.0)) + (fresh * g)
        tl.store(buffer + i, b, mask=inside)
        if nesterov:
            g = g + (momentum * b)
        else:
            g = b
    tl.store(parameter + i, p - (lr * g), mask=inside)


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    """[E28] in place, on contiguous parameters and momenta."""
    numbers = [round_float(value) for value in (lr, momentum, 1 - dampening, weight_decay)]
    buffers = momenta if momentum != 0 else parameters
    for p, g, b in zip(parameters, gradients, buffers, strict=True):
        launch(
            _sgd,
            divide_up(p.numel(), _BLOCK),
            (p, make_contiguous(g), b, p.numel(), *numbers),
            has_momentum=momentum != 0,
            has_decay=weight_decay != 0,
            nesterov=nesterov,
            first=first,
            block=_BLOCK,
        )


@jit
def _adam(
    parameter: tl.tensor,
    gradient: tl.tensor,
    average: tl.tensor,
    square: tl.tensor,
    largest: tl.tensor,
    count: tl.tensor,
    rate: tl.tensor,
    root: tl.tensor,
    fresh1: tl.tensor,
    beta2: tl.tensor,
    fresh2: tl.tensor,
    decay: tl.tensor,
    eps: tl.tensor,
    has_decay: tl.constexpr,
    decoupled: tl.constexpr,
    has_largest: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """`rate` and `root` are the a and c2 of E29; `decay` is what parameters are multiplied by."""
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < count
    p = tl.load(parameter + i, mask=inside, other=0.0)
    g = tl.load(gradient + i, mask=inside, other=0.0)
    if has_decay:
        if decoupled:
            p = p * decay
        else:
            g = g + (decay * p)
    m = tl.load(average + i, mask=inside, other=0.0)
    m = m + (fresh1 * (g - m))
    v = tl.load(square + i, mask=inside, other=0.0)
    v = (beta2 * v) + (fresh2 * (g * g))
    tl.store(average + i, m, mask=inside)
    tl.store(square + i, v, mask=inside)
    if has_largest:
        v = maximum(tl.load(largest + i, mask=inside, other=0.0), v)
        tl.store(largest + i, v, mask=inside)
    step = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root) + eps)
    tl.store(parameter + i, p - (rate * step), mask=inside)


def _raise_power(base: float, exponent: int) -> float:
    """[E29] by squaring, so that no library's power decides a bit."""
    result = 1.0
    while exponent > 0:
        if exponent % 2:
            result *= base
        base *= base
        exponent //= 2
    return result


def adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    averages: Sequence[Tensor],
    squares: Sequence[Tensor],
    maxima: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    decoupled: bool,
) -> None:
    """[E29] in place, on contiguous parameters and state."""
    decay = 1 - lr * weight_decay if decoupled else weight_decay
    counts = torch.stack(tuple(steps)).tolist() if steps else []
    for number, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        t = int(counts[number])
        rate = lr / (1 - _raise_power(beta1, t))
        root = math.sqrt(1 - _raise_power(beta2, t))
        numbers = (rate, root, 1 - beta1, beta2, 1 - beta2, decay, eps)
        tensors = p, make_contiguous(gradient), averages[number], squares[number]
        largest = maxima[number] if maxima else p
        launch(
            _adam,
            divide_up(p.numel(), _BLOCK),
            (*tensors, largest, p.numel(), *map(round_float, numbers)),
            has_decay=weight_decay != 0,
            decoupled=decoupled,
            has_largest=bool(maxima),
            block=_BLOCK,
        )
