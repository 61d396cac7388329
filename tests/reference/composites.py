"""Operators that other rules are put together for: spread, norms and two losses [E33, E34]."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.elementwise import amax, relu
from tests.reference.functions import exp, log, sigmoid
from tests.reference.products import add_up, compute_mean, compute_sum

Array = npt.NDArray[Any]

_MEAN, _SUM = 1, 2


def var(x: Array, dims: Sequence[int], correction: int) -> Array:
    """[E33]"""
    count = prod(x.shape[dim] for dim in dims)
    d = x - np.expand_dims(compute_mean(x, dims), tuple(dims))
    result: Array = compute_sum(d * d, dims) / np.float32(max(count - correction, 0))
    return result


def std(x: Array, dims: Sequence[int], correction: int) -> Array:
    """[E33]"""
    result: Array = np.sqrt(var(x, dims, correction))
    return result


def norm(x: Array, order: float | str, dims: Sequence[int]) -> Array:
    """[E33] of order 1, 2 or "inf"."""
    if order == "inf":
        return amax(np.abs(x), dims)
    if order == 1:
        return compute_sum(np.abs(x), dims)
    result: Array = np.sqrt(compute_sum(x * x, dims))
    return result


def _reduce(values: Array, reduction: int) -> Array:
    if reduction not in (_MEAN, _SUM):
        return values
    total = add_up(values.reshape(-1))
    return np.asarray(total / np.float32(values.size) if reduction == _MEAN else total)


def mse_loss(x: Array, target: Array, reduction: int) -> Array:
    """[E34] reduction 0 none, 1 mean, 2 sum."""
    d = x - target
    return _reduce(d * d, reduction)


def mse_loss_backward(gradient: Array, x: Array, target: Array, reduction: int) -> Array:
    """[E34]"""
    factor = np.float32(2.0 / x.size if reduction == _MEAN else 2.0)
    result: Array = ((x - target) * factor) * gradient
    return result


def bce_with_logits(x: Array, target: Array, reduction: int) -> Array:
    """[E34]"""
    softplus = log(exp(-np.abs(x)) + np.float32(1))
    return _reduce((relu(x) - x * target) + softplus, reduction)


def bce_with_logits_backward(gradient: Array, x: Array, target: Array, reduction: int) -> Array:
    """[E34]"""
    result: Array = (sigmoid(x) - target) * gradient
    return result / np.float32(x.size) if reduction == _MEAN else result
