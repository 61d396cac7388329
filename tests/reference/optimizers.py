"""Clipping and steps of SGD, Adam and AdamW, in place [E28, E29, E36]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.composites import norm
from tests.reference.elementwise import clamp, maximum, minimum

Array = npt.NDArray[Any]


def sgd(
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    momenta: Sequence[Array],
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    """[E28]"""
    for number, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        g = gradient
        if weight_decay != 0:
            g = g + np.float32(weight_decay) * p
        if momentum != 0:
            b = momenta[number]
            if first:
                b[...] = g
            else:
                b[...] = np.float32(momentum) * b + np.float32(1 - dampening) * g
            g = g + np.float32(momentum) * b if nesterov else b
        p[...] = p - np.float32(lr) * g


def clip_norm(gradients: Sequence[Array], bound: float) -> None:
    """[E36] by the norm of all gradients together."""
    norms = np.array(
        [norm(g, 2, range(g.ndim)) if g.ndim else norm(g[None], 2, [0]) for g in gradients]
    )
    inverse = np.float32(1) / (norm(norms, 2, [0]) + np.float32(1e-6))
    factor = minimum(inverse * np.float32(bound), np.ones((), np.float32))
    for g in gradients:
        g[...] = g * factor


def clip_value(gradients: Sequence[Array], bound: float) -> None:
    """[E36] every element by itself."""
    for g in gradients:
        g[...] = clamp(g, -bound, bound)


def power(base: float, exponent: int) -> float:
    """[E29] b^t by squaring."""
    result = 1.0
    while exponent > 0:
        if exponent % 2:
            result = result * base
        base = base * base
        exponent //= 2
    return result


def adam(
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    averages: Sequence[Array],
    squares: Sequence[Array],
    maxima: Sequence[Array],
    steps: Sequence[Array],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    decoupled: bool,
) -> None:
    """[E29] `steps` already count this step."""
    f = np.float32
    for number, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        g, m, v, t = gradient, averages[number], squares[number], int(steps[number])
        if weight_decay != 0:
            if decoupled:
                p[...] = p * f(1 - lr * weight_decay)
            else:
                g = g + f(weight_decay) * p
        m[...] = m + f(1 - beta1) * (g - m)
        v[...] = f(beta2) * v + f(1 - beta2) * (g * g)
        if maxima:
            maxima[number][...] = maximum(maxima[number], v)
            v = maxima[number]
        c2 = f(math.sqrt(1 - power(beta2, t)))
        a = f(lr / (1 - power(beta1, t)))
        p[...] = p - a * (m / (np.sqrt(v) / c2 + f(eps)))
