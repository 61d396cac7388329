"""Exponentials and what is made of them: rules E16 to E20."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu.doubles import erf64, exp32, exp64, log64, tanh64
from milepost_ml.arithmetic.gpu.elementwise import map_elements
from milepost_ml.arithmetic.gpu.launch import jit


@jit
def _exp(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return exp32(x)


def exp(x: Tensor) -> Tensor:
    """[E16]"""
    return map_elements(_exp, x)


@jit
def _log(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return log64(x.to(tl.float64)).to(tl.float32)


def log(x: Tensor) -> Tensor:
    """[E17]"""
    return map_elements(_log, x)


@jit
def _logistic(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + exp64(-1.0 * x))


@jit
def _sigmoid(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return _logistic(x.to(tl.float64)).to(tl.float32)


def sigmoid(x: Tensor) -> Tensor:
    """[E18]"""
    return map_elements(_sigmoid, x)


@jit
def _sigmoid_backward(
    x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor
) -> tl.tensor:
    return x * ((1.0 - y) * y)


def sigmoid_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """[E18]"""
    return map_elements(_sigmoid_backward, gradient, result)


@jit
def _tanh(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tanh64(x.to(tl.float64)).to(tl.float32)


def tanh(x: Tensor) -> Tensor:
    """[E18]"""
    return map_elements(_tanh, x)


@jit
def _tanh_backward(
    x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor
) -> tl.tensor:
    return x * (1.0 - (y * y))


def tanh_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """[E18]"""
    return map_elements(_tanh_backward, gradient, result)


@jit
def _silu(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    wide = x.to(tl.float64)
    return (wide / (1.0 + exp64(-1.0 * wide))).to(tl.float32)


def silu(x: Tensor) -> Tensor:
    """[E18]"""
    return map_elements(_silu, x)


@jit
def _silu_backward(
    x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor
) -> tl.tensor:
    wide = y.to(tl.float64)
    part = _logistic(wide)
    return (x.to(tl.float64) * (part * (1.0 + wide * (1.0 - part)))).to(tl.float32)


def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """[E18]"""
    return map_elements(_silu_backward, gradient, x)


@jit
def _erf(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return erf64(x.to(tl.float64)).to(tl.float32)


def erf(x: Tensor) -> Tensor:
    """[E19]"""
    return map_elements(_erf, x)


@jit
def _gelu(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    wide = x.to(tl.float64)
    return ((0.5 * wide) * (1.0 + erf64(wide * 0.7071067811865476))).to(tl.float32)


@jit
def _curve(x: tl.tensor) -> tl.tensor:
    """tanh64(u) of the tanh approximation."""
    return tanh64(0.7978845608028654 * (x + 0.044715 * ((x * x) * x)))


@jit
def _gelu_tanh(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    wide = x.to(tl.float64)
    return ((0.5 * wide) * (1.0 + _curve(wide))).to(tl.float32)


def gelu(x: Tensor, approximate: str) -> Tensor:
    """[E20]"""
    return map_elements(_gelu_tanh if approximate == "tanh" else _gelu, x)


@jit
def _gelu_backward(
    x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor
) -> tl.tensor:
    wide = y.to(tl.float64)
    below = 0.5 * (1.0 + erf64(wide * 0.7071067811865476))
    slope = wide * (0.3989422804014327 * exp64(-0.5 * (wide * wide)))
    return (x.to(tl.float64) * (below + slope)).to(tl.float32)


@jit
def _gelu_tanh_backward(
    x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor
) -> tl.tensor:
    wide = y.to(tl.float64)
    curve = _curve(wide)
    inner = 0.7978845608028654 * (1.0 + 0.134145 * (wide * wide))
    slope = (0.5 * wide) * ((1.0 - curve * curve) * inner)
    return (x.to(tl.float64) * (0.5 * (1.0 + curve) + slope)).to(tl.float32)


def gelu_backward(gradient: Tensor, x: Tensor, approximate: str) -> Tensor:
    """[E20]"""
    function = _gelu_tanh_backward if approximate == "tanh" else _gelu_backward
    return map_elements(function, gradient, x)
