"""Exponentials, logarithms and activations, element by element [E16-E20].

Numbers are widened to float64, computed there and rounded once.  The gradients of sigmoid and tanh
are plain float32 arithmetic of their results.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from numba import float32, float64
from torch import Tensor

from milepost_ml.arithmetic.cpu.doubles import erf64, exp64, log64, sigmoid64, tanh64
from milepost_ml.arithmetic.cpu.launch import Kernel, kernel
from milepost_ml.arithmetic.cpu.scalars import count_pieces, floats, take_range

_PIECE: Final = 4096
"""Elements in a piece of work: some microseconds, many times what handing it out takes."""


@kernel
def _exp(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            y[i] = exp64(x[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _log(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            y[i] = log64(x[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _sigmoid(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            y[i] = sigmoid64(x[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _tanh(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            y[i] = tanh64(x[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _silu(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            w = float64(x[i])
            y[i] = w / (1.0 + exp64(-w))
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _erf(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            y[i] = erf64(x[i])
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _gelu(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            w = float64(x[i])
            y[i] = (0.5 * w) * (1.0 + erf64(w * 0.7071067811865476))
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _gelu_tanh(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        x, y = floats(a[2]), floats(a[3])
        for i in range(start, stop):
            w = float64(x[i])
            u = 0.7978845608028654 * (w + 0.044715 * ((w * w) * w))
            y[i] = (0.5 * w) * (1.0 + tanh64(u))
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _silu_backward(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        g, x, y = floats(a[2]), floats(a[3]), floats(a[4])
        for i in range(start, stop):
            w = float64(x[i])
            s = sigmoid64(w)
            y[i] = float64(g[i]) * (s * (1.0 + w * (1.0 - s)))
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _gelu_backward(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        g, x, y = floats(a[2]), floats(a[3]), floats(a[4])
        for i in range(start, stop):
            w = float64(x[i])
            area = 0.5 * (1.0 + erf64(w * 0.7071067811865476))
            density = 0.3989422804014327 * exp64(-0.5 * (w * w))
            y[i] = float64(g[i]) * (area + w * density)
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _gelu_tanh_backward(a: Any) -> None:
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        g, x, y = floats(a[2]), floats(a[3]), floats(a[4])
        for i in range(start, stop):
            w = float64(x[i])
            t = tanh64(0.7978845608028654 * (w + 0.044715 * ((w * w) * w)))
            slope = 0.7978845608028654 * (1.0 + 0.134145 * (w * w))
            y[i] = float64(g[i]) * (0.5 * (1.0 + t) + (0.5 * w) * ((1.0 - t * t) * slope))
        start, stop = take_range(a, a[1], _PIECE)


@kernel
def _result_backward(a: Any) -> None:
    """Gradients from the result, of tanh if a[5] is not 0, else of sigmoid."""
    start, stop = take_range(a, a[1], _PIECE)
    while start < stop:
        g, y, result = floats(a[2]), floats(a[3]), floats(a[4])
        if a[5] != 0:
            for i in range(start, stop):
                result[i] = g[i] * (float32(1) - (y[i] * y[i]))
        else:
            for i in range(start, stop):
                result[i] = g[i] * ((float32(1) - y[i]) * y[i])
        start, stop = take_range(a, a[1], _PIECE)


def _apply(function: Kernel, x: Tensor) -> Tensor:
    x = x if x.is_contiguous() else x.contiguous()
    result = torch.empty_like(x)
    count = x.numel()
    if count:
        function(count_pieces(count, _PIECE), count, x.data_ptr(), result.data_ptr())
    return result


def _apply_backward(function: Kernel, gradient: Tensor, x: Tensor, flag: int = 0) -> Tensor:
    gradient = gradient if gradient.is_contiguous() else gradient.contiguous()
    x = x if x.is_contiguous() else x.contiguous()
    result = torch.empty_like(x)
    count = x.numel()
    if count:
        function(
            count_pieces(count, _PIECE),
            *(count, gradient.data_ptr(), x.data_ptr(), result.data_ptr(), flag),
        )
    return result


def exp(x: Tensor) -> Tensor:
    """[E16]"""
    return _apply(_exp, x)


def log(x: Tensor) -> Tensor:
    """[E17]"""
    return _apply(_log, x)


def sigmoid(x: Tensor) -> Tensor:
    """[E18]"""
    return _apply(_sigmoid, x)


def sigmoid_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """[E18] in float32."""
    return _apply_backward(_result_backward, gradient, result)


def tanh(x: Tensor) -> Tensor:
    """[E18]"""
    return _apply(_tanh, x)


def tanh_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """[E18] in float32."""
    return _apply_backward(_result_backward, gradient, result, 1)


def silu(x: Tensor) -> Tensor:
    """[E18]"""
    return _apply(_silu, x)


def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """[E18]"""
    return _apply_backward(_silu_backward, gradient, x)


def erf(x: Tensor) -> Tensor:
    """[E19]"""
    return _apply(_erf, x)


def gelu(x: Tensor, approximate: str) -> Tensor:
    """[E20] approximate is "none" or "tanh"."""
    return _apply(_gelu_tanh if approximate == "tanh" else _gelu, x)


def gelu_backward(gradient: Tensor, x: Tensor, approximate: str) -> Tensor:
    """[E20] approximate is "none" or "tanh"."""
    chosen = _gelu_tanh_backward if approximate == "tanh" else _gelu_backward
    return _apply_backward(chosen, gradient, x)
