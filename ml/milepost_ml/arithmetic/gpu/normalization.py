"""Layer and batch normalization: rules E23 and E24.

Sums over rows and over channels are those of `sums`; kernels here take what they sum, and what
becomes of the sums.
"""

from __future__ import annotations

from math import prod
from typing import Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu import sums
from milepost_ml.arithmetic.gpu.elementwise import rsqrt
from milepost_ml.arithmetic.gpu.lanes import fold
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous, round_float

_ROWS: Final = 16
_BLOCK: Final = 1024


@jit
def _layer_norm(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    count: tl.tensor,
    n: tl.tensor,
    size: tl.tensor,
    eps: tl.tensor,
    has_weight: tl.constexpr,
    has_bias: tl.constexpr,
    rows: tl.constexpr,
) -> None:
    """`size` is n as a float32."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    lane = tl.arange(0, 16)
    p = tl.zeros((rows, 16), tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        p = p + tl.load(x + row[:, None] * n + i[None, :], mask=inside, other=0.0)
    m = tl.div_rn(fold(p, rows), size)
    p = tl.zeros((rows, 16), tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        d = tl.load(x + row[:, None] * n + i[None, :], mask=inside, other=0.0) - m[:, None]
        p = p + tl.where(inside, d * d, 0.0)
    v = tl.div_rn(fold(p, rows), size)
    r = tl.div_rn(1.0, tl.sqrt_rn(v + eps))
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        y = (tl.load(x + place, mask=inside, other=0.0) - m[:, None]) * r[:, None]
        if has_weight:
            y = y * tl.load(weight + i, mask=i < n, other=0.0)[None, :]
        if has_bias:
            y = y + tl.load(bias + i, mask=i < n, other=0.0)[None, :]
        tl.store(out + place, y, mask=inside)
    tl.store(mean + row, m, mask=row < count)
    tl.store(rstd + row, r, mask=row < count)


def layer_norm(
    x: Tensor, count: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """[E23] y, m, r; rows of `count` elements; m and r have one element a row, flat."""
    x = make_contiguous(x)
    rows = x.numel() // count
    out, mean, rstd = torch.empty_like(x), x.new_empty(rows), x.new_empty(rows)
    factor = x if weight is None else make_contiguous(weight)
    shift = x if bias is None else make_contiguous(bias)
    numbers = round_float(count), round_float(eps)
    launch(
        _layer_norm,
        divide_up(rows, _ROWS),
        (x, factor, shift, out, mean, rstd, rows, count, *numbers),
        has_weight=weight is not None,
        has_bias=bias is not None,
        rows=_ROWS,
    )
    return out, mean, rstd


@jit
def _layer_norm_backward(
    gradient: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    products: tl.tensor,
    count: tl.tensor,
    n: tl.tensor,
    size: tl.tensor,
    has_weight: tl.constexpr,
    rows: tl.constexpr,
) -> None:
    """Also the products g * h, which are summed over rows for the weight."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    lane = tl.arange(0, 16)
    m = tl.load(mean + row, mask=row < count, other=0.0)[:, None]
    r = tl.load(rstd + row, mask=row < count, other=0.0)[:, None]
    p1 = tl.zeros((rows, 16), tl.float32)
    p2 = tl.zeros((rows, 16), tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        g = tl.load(gradient + place, mask=inside, other=0.0)
        h = (tl.load(x + place, mask=inside, other=0.0) - m) * r
        tl.store(products + place, g * h, mask=inside)
        if has_weight:
            g = g * tl.load(weight + i, mask=i < n, other=0.0)[None, :]
        p1 = p1 + g
        p2 = p2 + tl.where(inside, g * h, 0.0)
    c1 = tl.div_rn(fold(p1, rows), size)[:, None]
    c2 = tl.div_rn(fold(p2, rows), size)[:, None]
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        g = tl.load(gradient + place, mask=inside, other=0.0)
        if has_weight:
            g = g * tl.load(weight + i, mask=i < n, other=0.0)[None, :]
        h = (tl.load(x + place, mask=inside, other=0.0) - m) * r
        tl.store(out + place, ((g - c1) - (h * c2)) * r, mask=inside)


def layer_norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """[E23] gradients of x, weight and bias (the last two flat)."""
    gradient, x = make_contiguous(gradient), make_contiguous(x)
    rows = mean.numel()
    n = x.numel() // rows
    out, products = torch.empty_like(x), torch.empty_like(x)
    mean, rstd = make_contiguous(mean), make_contiguous(rstd)
    factor = x if weight is None else make_contiguous(weight)
    launch(
        _layer_norm_backward,
        divide_up(rows, _ROWS),
        (gradient, x, mean, rstd, factor, out, products, rows, n, round_float(n)),
        has_weight=weight is not None,
        rows=_ROWS,
    )
    of_weight = sums.sum(products.view(rows, n), [0])
    return out, of_weight, sums.sum(gradient.view(rows, n), [0])


@jit
def _channels(
    x: tl.tensor,
    other: tl.tensor,
    mean: tl.tensor,
    scale: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    out: tl.tensor,
    total: tl.tensor,
    channels: tl.tensor,
    inner: tl.tensor,
    kind: tl.constexpr,
    has_weight: tl.constexpr,
    has_bias: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """What batch normalization does to each element with the numbers of its channel."""
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < total
    c = i // inner % channels
    d = tl.load(x + i, mask=inside, other=0.0) - tl.load(mean + c, mask=inside, other=0.0)
    if kind == "squares":
        y = d * d
    else:
        r = tl.load(scale + c, mask=inside, other=0.0)
        y = d * r
        if kind == "result":
            if has_weight:
                y = y * tl.load(weight + c, mask=inside, other=0.0)
            if has_bias:
                y = y + tl.load(bias + c, mask=inside, other=0.0)
        else:
            g = tl.load(other + i, mask=inside, other=0.0)
            if kind == "products":
                y = g * y
            else:
                if kind == "gradient":
                    b_share = tl.load(b + c, mask=inside, other=0.0)
                    a_share = tl.load(a + c, mask=inside, other=0.0)
                    g = (g - b_share) - (y * a_share)
                if has_weight:
                    r = tl.load(weight + c, mask=inside, other=0.0) * r
                y = g * r
    tl.store(out + i, y, mask=inside)


def _map_channels(
    kind: str,
    x: Tensor,
    mean: Tensor,
    scale: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    gradient: Tensor | None = None,
    shares: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    out = torch.empty_like(x)
    numbers = [mean if value is None else value for value in (scale, weight, bias)]
    other = x if gradient is None else gradient
    sizes = x.numel(), x.shape[1], prod(x.shape[2:])
    launch(
        _channels,
        divide_up(x.numel(), _BLOCK),
        (x, other, mean, *numbers, *(shares or (mean, mean)), out, *sizes),
        kind=kind,
        has_weight=weight is not None,
        has_bias=bias is not None,
        block=_BLOCK,
    )
    return out


def _sum_channels(x: Tensor) -> Tensor:
    return sums.sum(x, [dim for dim in range(x.ndim) if dim != 1])


def _fill(x: Tensor, value: float) -> Tensor:
    """A number that PyTorch divides by; it would multiply by the inverse of a Python number."""
    return torch.full((), value, dtype=x.dtype, device=x.device)


def _contiguous_or_none(x: Tensor | None) -> Tensor | None:
    return None if x is None else make_contiguous(x)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """[E24] y, m, r; running values are changed in place in training."""
    x = make_contiguous(x)
    weight, bias = _contiguous_or_none(weight), _contiguous_or_none(bias)
    if training:
        count = prod(x.shape) // x.shape[1]
        mean = _sum_channels(x) / _fill(x, count)
        squares = _sum_channels(_map_channels("squares", x, mean))
        variance = squares / _fill(x, count)
        old, new = _fill(x, 1 - momentum), _fill(x, momentum)
        if running_mean is not None:
            running_mean.copy_((old * running_mean) + (new * mean))
        if running_var is not None:
            running_var.copy_((old * running_var) + (new * (squares / _fill(x, count - 1))))
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, variance = running_mean.clone(), running_var
    rstd = rsqrt(variance + _fill(x, eps))
    return _map_channels("result", x, mean, rstd, weight, bias), mean, rstd


def batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """[E24] gradients of x, weight and bias."""
    gradient, x, weight = make_contiguous(gradient), make_contiguous(x), _contiguous_or_none(weight)
    mean, rstd = make_contiguous(mean), make_contiguous(rstd)
    b = _sum_channels(gradient)
    a = _sum_channels(_map_channels("products", x, mean, rstd, gradient=gradient))
    shares = None
    if training:
        count = _fill(x, prod(x.shape) // x.shape[1])
        shares = a / count, b / count
    kind = "gradient" if training else "scaled"
    out = _map_channels(kind, x, mean, rstd, weight, gradient=gradient, shares=shares)
    return out, a, b
