"""Operations on each element by itself: rules E14 and E15.

One kernel applies any function of three numbers and two constants to tensors of one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu.lanes import maximum as larger
from milepost_ml.arithmetic.gpu.lanes import minimum as smaller
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous, round_float

_BLOCK: Final = 1024


@jit
def _map(
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    s: tl.tensor,
    t: tl.tensor,
    function: tl.constexpr,
    block: tl.constexpr,
) -> None:
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < count
    x = tl.load(a + i, mask=inside, other=0.0)
    y = tl.load(b + i, mask=inside, other=0.0)
    z = tl.load(c + i, mask=inside, other=0.0)
    tl.store(out + i, function(x, y, z, s, t), mask=inside)


def map_elements(
    function: Callable[..., Any], *tensors: Tensor, s: float = 0.0, t: float = 0.0
) -> Tensor:
    """A device function of (x, y, z, s, t) of up to three tensors of one shape."""
    a, b, c = (tuple(make_contiguous(tensor) for tensor in tensors) * 3)[:3]
    out = torch.empty_like(a)
    count = out.numel()
    numbers = round_float(s), round_float(t)
    programs = divide_up(count, _BLOCK)
    launch(_map, programs, (a, b, c, out, count, *numbers), function=function, block=_BLOCK)
    return out


def _broadcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    sizes = (tensor.shape for tensor in tensors)
    shape = torch.broadcast_shapes(*sizes)  # type: ignore[no-untyped-call]
    return tuple(tensor.expand(shape) for tensor in tensors)


@jit
def _add_scaled(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return x + (s * y)


def add_scaled(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """[E14] a + alpha * b."""
    return map_elements(_add_scaled, *_broadcast(a, b), s=alpha)


@jit
def _add_product(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return x + (s * (y * z))


def addcmul(a: Tensor, b: Tensor, c: Tensor, value: float) -> Tensor:
    """[E14] a + value * (b * c); a product with 1 changes no bit."""
    return map_elements(_add_product, *_broadcast(a, b, c), s=value)


@jit
def _add_quotient(
    x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor
) -> tl.tensor:
    return x + (s * tl.div_rn(y, z))


def addcdiv(a: Tensor, b: Tensor, c: Tensor, value: float) -> Tensor:
    """[E14] a + value * (b / c)."""
    return map_elements(_add_quotient, *_broadcast(a, b, c), s=value)


@jit
def _lerp(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return x + (s * (y - x))


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """[E14] start + weight * (end - start)."""
    return map_elements(_lerp, *_broadcast(start, end), s=weight)


@jit
def _sqrt(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tl.sqrt_rn(x)


def sqrt(x: Tensor) -> Tensor:
    """[E14]"""
    return map_elements(_sqrt, x)


@jit
def _rsqrt(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tl.div_rn(1.0, tl.sqrt_rn(x))


def rsqrt(x: Tensor) -> Tensor:
    """[E14] 1 / sqrt(x)."""
    return map_elements(_rsqrt, x)


@jit
def _relu(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tl.where((x > 0.0) | (x != x), x, 0.0)


def relu(x: Tensor) -> Tensor:
    """[E15]"""
    return map_elements(_relu, x)


@jit
def _threshold(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tl.where(y <= s, 0.0, x)


def threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    """[E15]"""
    return map_elements(_threshold, *_broadcast(gradient, x), s=threshold)


@jit
def _maximum(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return larger(x, y)


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """[E15]"""
    return map_elements(_maximum, *_broadcast(a, b))


@jit
def _minimum(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return smaller(x, y)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """[E15]"""
    return map_elements(_minimum, *_broadcast(a, b))


@jit
def _leaky(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tl.where(y > 0.0, x, s * x)


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """[E15]"""
    return map_elements(_leaky, x, x, s=slope)


def leaky_relu_backward(gradient: Tensor, x: Tensor, slope: float) -> Tensor:
    """[E15]"""
    return map_elements(_leaky, *_broadcast(gradient, x), s=slope)


@jit
def _hardtanh(x: tl.tensor, y: tl.tensor, z: tl.tensor, s: tl.tensor, t: tl.tensor) -> tl.tensor:
    return tl.where((s < y) & (y < t), x, 0.0)


def hardtanh_backward(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """[E15]"""
    return map_elements(_hardtanh, *_broadcast(gradient, x), s=low, t=high)
