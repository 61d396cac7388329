"""Arithmetic, choices and the largest of several numbers [E14, E15]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from numba import float32
from torch import Tensor

from milepost_ml.arithmetic.cpu import lanes
from milepost_ml.arithmetic.cpu.launch import kernel, pack_float
from milepost_ml.arithmetic.cpu.partial import root
from milepost_ml.arithmetic.cpu.reductions import find_largest, reduce_dims
from milepost_ml.arithmetic.cpu.scalars import (
    choose,
    count_pieces,
    floats,
    take_range,
)

_PIECE: Final = 16384
"""Elements in a piece of work."""

# What the kernels are asked to compute.
_RELU, _LEAKY_RELU, _SQRT, _RSQRT = range(4)
_ADD_SCALED, _LERP, _MAXIMUM, _MINIMUM, _THRESHOLD, _LEAKY_BACKWARD, _HARDTANH_BACKWARD = range(7)
_ADDCMUL, _ADDCDIV = 0, 1


@kernel
def _unary(a: Any) -> None:
    """Operation a[4] of x with the number a[5]."""
    value = lanes.unpack_float(a[5])
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        if a[4] == _RELU:
            for i in range(start, stop):
                y[i] = choose(x[i] <= float32(0), float32(0), x[i])
        elif a[4] == _LEAKY_RELU:
            for i in range(start, stop):
                y[i] = choose(x[i] > float32(0), x[i], value * x[i])
        elif a[4] == _SQRT:
            for i in range(start, stop):
                y[i] = root(x[i])
        else:
            for i in range(start, stop):
                y[i] = float32(1) / root(x[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _binary(a: Any) -> None:
    """Operation a[5] of x and y with the numbers a[6] and a[7]."""
    low, high = lanes.unpack_float(a[6]), lanes.unpack_float(a[7])
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y, z = floats(a[2]), floats(a[3]), floats(a[4])
        if a[5] == _ADD_SCALED:
            for i in range(start, stop):
                z[i] = x[i] + low * y[i]
        elif a[5] == _LERP:
            for i in range(start, stop):
                z[i] = x[i] + low * (y[i] - x[i])
        elif a[5] == _MAXIMUM:
            for i in range(start, stop):
                z[i] = choose((x[i] > y[i]) | (x[i] != x[i]), x[i], y[i])
        elif a[5] == _MINIMUM:
            for i in range(start, stop):
                z[i] = choose((x[i] < y[i]) | (x[i] != x[i]), x[i], y[i])
        elif a[5] == _THRESHOLD:
            for i in range(start, stop):
                z[i] = choose(y[i] <= low, float32(0), x[i])
        elif a[5] == _LEAKY_BACKWARD:
            for i in range(start, stop):
                z[i] = choose(y[i] > float32(0), x[i], low * x[i])
        else:
            for i in range(start, stop):
                z[i] = choose((y[i] > low) & (y[i] < high), x[i], float32(0))
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _ternary(a: Any) -> None:
    """Operation a[6] of x, y and z with the number a[7]."""
    value = lanes.unpack_float(a[7])
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y, z, result = floats(a[2]), floats(a[3]), floats(a[4]), floats(a[5])
        if a[6] == _ADDCMUL:
            for i in range(start, stop):
                result[i] = x[i] + value * (y[i] * z[i])
        else:
            for i in range(start, stop):
                result[i] = x[i] + value * (y[i] / z[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _largest(a: Any) -> None:
    """(a[1], a[2], a[3]) over the middle, from a[4] to a[5]; a[6] outer elements in a piece."""
    count, inner = a[2], a[3]
    start, stop = take_range(a, a[1], a[6])
    while start < stop:
        for first in range(start, stop):
            if inner == 1:
                lanes.store_one(a[5], first, find_largest(a[4], first * count, count))
            else:
                x, y = floats(a[4] + 4 * first * count * inner), floats(a[5] + 4 * first * inner)
                for j in range(inner):
                    y[j] = x[j]
                for i in range(1, count):
                    for j in range(inner):
                        new = x[i * inner + j]
                        y[j] = choose((y[j] > new) | (y[j] != y[j]), y[j], new)
                for j in range(inner):
                    y[j] += float32(0)
        start, stop = take_range(a, a[1], a[6])


def _apply_unary(operation: int, x: Tensor, value: float) -> Tensor:
    x = x if x.is_contiguous() else x.contiguous()
    result = torch.empty_like(x)
    count = x.numel()
    if count:
        _unary(
            count_pieces(count, _PIECE),
            *(count, x.data_ptr(), result.data_ptr(), operation, pack_float(value)),
        )
    return result


def _apply_binary(
    operation: int, x: Tensor, y: Tensor, low: float = 0.0, high: float = 0.0
) -> Tensor:
    if x.shape != y.shape:
        shape = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
        x, y = x.expand(shape), y.expand(shape)
    x = x if x.is_contiguous() else x.contiguous()
    y = y if y.is_contiguous() else y.contiguous()
    result = torch.empty_like(x)
    count = x.numel()
    if count:
        _binary(
            count_pieces(count, _PIECE),
            *(count, x.data_ptr(), y.data_ptr(), result.data_ptr(), operation),
            *(pack_float(low), pack_float(high)),
        )
    return result


def _apply_ternary(operation: int, x: Tensor, y: Tensor, z: Tensor, value: float) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, y.shape, z.shape)  # type: ignore[no-untyped-call]
    x, y, z = (tensor.expand(shape).contiguous() for tensor in (x, y, z))
    result = torch.empty_like(x)
    count = x.numel()
    if count:
        _ternary(
            count_pieces(count, _PIECE),
            *(count, x.data_ptr(), y.data_ptr(), z.data_ptr(), result.data_ptr(), operation),
            pack_float(value),
        )
    return result


def add_scaled(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """[E14] a + alpha * b."""
    return _apply_binary(_ADD_SCALED, a, b, alpha)


def addcmul(a: Tensor, b: Tensor, c: Tensor, value: float) -> Tensor:
    """[E14] (A product with 1 is the number itself.)"""
    return _apply_ternary(_ADDCMUL, a, b, c, value)


def addcdiv(a: Tensor, b: Tensor, c: Tensor, value: float) -> Tensor:
    """[E14]"""
    return _apply_ternary(_ADDCDIV, a, b, c, value)


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """[E14]"""
    return _apply_binary(_LERP, start, end, weight)


def sqrt(x: Tensor) -> Tensor:
    """[E14] PyTorch's own is Intel's library on some machines, and not always the nearest."""
    return _apply_unary(_SQRT, x, 0.0)


def rsqrt(x: Tensor) -> Tensor:
    """[E14] 1 / sqrt(x)."""
    return _apply_unary(_RSQRT, x, 0.0)


def relu(x: Tensor) -> Tensor:
    """[E15]"""
    return _apply_unary(_RELU, x, 0.0)


def threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    """[E15]"""
    return _apply_binary(_THRESHOLD, gradient, x, threshold)


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """[E15]"""
    return _apply_binary(_MAXIMUM, a, b)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """[E15]"""
    return _apply_binary(_MINIMUM, a, b)


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """[E15]"""
    return _apply_unary(_LEAKY_RELU, x, slope)


def leaky_relu_backward(gradient: Tensor, x: Tensor, slope: float) -> Tensor:
    """[E15]"""
    return _apply_binary(_LEAKY_BACKWARD, gradient, x, slope)


def hardtanh_backward(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """[E15]"""
    return _apply_binary(_HARDTANH_BACKWARD, gradient, x, low, high)


def _largest_middle(x: Tensor, outer: int, count: int, inner: int) -> Tensor:
    result = torch.empty(outer * inner, dtype=torch.float32)
    if outer * inner:
        if not count:
            raise IndexError("there is no largest of no numbers")
        size = max(_PIECE // (count * inner), 1)
        _largest(
            count_pieces(outer, size),
            *(outer, count, inner, x.data_ptr(), result.data_ptr(), size),
        )
    return result


def amax(x: Tensor, dims: Sequence[int]) -> Tensor:
    """[E15] over the given dimensions, as in `sum`.  Raises IndexError if they are empty."""
    return reduce_dims(x, dims, _largest_middle)
