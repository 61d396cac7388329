"""Elementwise operations and the largest of several numbers [E14, E15]."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ZERO = np.float32(0)
_ONE = np.float32(1)


def add_scaled(a: Array, b: Array, alpha: float) -> Array:
    """[E14] a + alpha * b."""
    result: Array = a + np.float32(alpha) * b
    return result


def sub_scaled(a: Array, b: Array, alpha: float) -> Array:
    """[E14] a - alpha * b."""
    result: Array = a - np.float32(alpha) * b
    return result


def addcmul(a: Array, b: Array, c: Array, value: float) -> Array:
    """[E14]"""
    product = b * c
    result: Array = a + (product if value == 1 else np.float32(value) * product)
    return result


def addcdiv(a: Array, b: Array, c: Array, value: float) -> Array:
    """[E14]"""
    quotient = b / c
    result: Array = a + (quotient if value == 1 else np.float32(value) * quotient)
    return result


def lerp(start: Array, end: Array, weight: float) -> Array:
    """[E14]"""
    result: Array = start + np.float32(weight) * (end - start)
    return result


def rsqrt(x: Array) -> Array:
    """[E14]"""
    result: Array = _ONE / np.sqrt(x)
    return result


def sign(x: Array) -> Array:
    """[E14]"""
    return np.where(np.isnan(x) | (x == 0), _ZERO, np.where(x > 0, _ONE, -_ONE))


def power(x: Array, exponent: float) -> Array:
    """[E14] for the exponents that have a rule."""
    if exponent < 0:
        result: Array = _ONE / power(x, -exponent)
        return result
    if exponent == 0.5:
        return np.sqrt(x)
    if exponent == 0:
        return np.ones_like(x)
    assert exponent == int(exponent)
    result = x
    for _ in range(int(exponent) - 1):
        result = result * x
    return result


def relu(x: Array) -> Array:
    """[E15]"""
    return np.where((x > 0) | np.isnan(x), x, _ZERO)


def threshold_backward(gradient: Array, x: Array, threshold: float) -> Array:
    """[E15]"""
    return np.where(x <= np.float32(threshold), _ZERO, gradient)


def maximum(a: Array, b: Array) -> Array:
    """[E15]"""
    return np.where(np.isnan(a) | np.isnan(b), np.float32(np.nan), np.where(a > b, a, b))


def minimum(a: Array, b: Array) -> Array:
    """[E15]"""
    return np.where(np.isnan(a) | np.isnan(b), np.float32(np.nan), np.where(a < b, a, b))


def clamp(x: Array, low: float, high: float) -> Array:
    """[E15]"""
    return minimum(maximum(x, np.asarray(low, np.float32)), np.asarray(high, np.float32))


def find_largest(x: Array) -> Array:
    """[E15] along the first axis, which is not empty."""
    largest: Array = x[0]
    for row in x[1:]:
        largest = maximum(largest, row)
    return largest + _ZERO


def amax(x: Array, dims: Sequence[int]) -> Array:
    """[E15] over dimensions in ascending order; they go."""
    kept = [dim for dim in range(x.ndim) if dim not in dims]
    rows = x.transpose(*dims, *kept)
    return find_largest(rows.reshape(prod(rows.shape[: len(dims)]), *rows.shape[len(dims) :]))


def leaky_relu(x: Array, slope: float) -> Array:
    """[E15]"""
    return np.where(x > 0, x, np.float32(slope) * x)


def leaky_relu_backward(gradient: Array, x: Array, slope: float) -> Array:
    """[E15]"""
    return np.where(x > 0, gradient, np.float32(slope) * gradient)


def hardtanh_backward(gradient: Array, x: Array, low: float, high: float) -> Array:
    """[E15]"""
    inside = (x > np.float32(low)) & (x < np.float32(high))
    return np.where(inside, gradient, _ZERO)
