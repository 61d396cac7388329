"""Pooling over two dimensions: rule E25.

In gradients of averages one lane computes one input and looks for the windows that hold it, in the
order that the rule gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.backends import Pair, Pooling
from milepost_ml.arithmetic.gpu.embedding import index_add
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous
from milepost_ml.arithmetic.gpu.windows import Axis, count_outputs, get_adaptive_axis, get_axis

_BLOCK: Final = 256


@jit
def _average(
    x: tl.tensor,
    row_starts: tl.tensor,
    row_ends: tl.tensor,
    row_sizes: tl.tensor,
    column_starts: tl.tensor,
    column_ends: tl.tensor,
    column_sizes: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    xh: tl.tensor,
    xw: tl.tensor,
    yh: tl.tensor,
    yw: tl.tensor,
    tall: tl.tensor,
    wide: tl.tensor,
    override: tl.tensor,
    block: tl.constexpr,
) -> None:
    """`override` is the divisor, or 0 for the sizes of windows."""
    q = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = q < count
    plane = q // (yh * yw)
    i = q // yw % yh
    j = q % yw
    top = tl.load(row_starts + i, mask=inside, other=0)
    bottom = tl.load(row_ends + i, mask=inside, other=0)
    left = tl.load(column_starts + j, mask=inside, other=0)
    right = tl.load(column_ends + j, mask=inside, other=0)
    y = tl.zeros((block,), tl.float32)
    for down in range(tall):
        for over in range(wide):
            h = top + down
            v = left + over
            place = x + (plane * xh + h) * xw + v
            y = y + tl.load(place, mask=inside & (h < bottom) & (v < right), other=0.0)
    height = tl.load(row_sizes + i, mask=inside, other=1)
    width = tl.load(column_sizes + j, mask=inside, other=1)
    size = tl.where(override != 0, override, height * width)
    tl.store(out + q, tl.div_rn(y, size.to(tl.float32)), mask=inside)


@jit
def _average_backward(
    gradient: tl.tensor,
    row_starts: tl.tensor,
    row_ends: tl.tensor,
    row_sizes: tl.tensor,
    row_first: tl.tensor,
    column_starts: tl.tensor,
    column_ends: tl.tensor,
    column_sizes: tl.tensor,
    column_first: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    xh: tl.tensor,
    xw: tl.tensor,
    yh: tl.tensor,
    yw: tl.tensor,
    tall: tl.tensor,
    wide: tl.tensor,
    override: tl.tensor,
    block: tl.constexpr,
) -> None:
    q = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = q < count
    plane = q // (xh * xw)
    h = q // xw % xh
    v = q % xw
    first_i = tl.load(row_first + h, mask=inside, other=0)
    first_j = tl.load(column_first + v, mask=inside, other=0)
    r = tl.zeros((block,), tl.float32)
    for down in range(tall):
        i = first_i + down
        row = inside & (i < yh)
        above = tl.load(row_starts + i, mask=row, other=0)
        below = tl.load(row_ends + i, mask=row, other=0)
        height = tl.load(row_sizes + i, mask=row, other=1)
        row = row & (above <= h) & (h < below)
        for over in range(wide):
            j = first_j + over
            both = row & (j < yw)
            before = tl.load(column_starts + j, mask=both, other=0)
            after = tl.load(column_ends + j, mask=both, other=0)
            width = tl.load(column_sizes + j, mask=both, other=1)
            both = both & (before <= v) & (v < after)
            g = tl.load(gradient + (plane * yh + i) * yw + j, mask=both, other=0.0)
            size = tl.where(override != 0, override, height * width)
            r = r + tl.where(both, tl.div_rn(g, size.to(tl.float32)), 0.0)
    tl.store(out + q, r, mask=inside)


def _pool(x: Tensor, rows: Axis, columns: Axis, divisor: int | None) -> Tensor:
    x = make_contiguous(x)
    images, channels, xh, xw = x.shape
    out = x.new_empty((images, channels, rows.outputs, columns.outputs))
    windows = *rows.get_windows(), *columns.get_windows()
    sizes = out.numel(), xh, xw, rows.outputs, columns.outputs
    launch(
        _average,
        divide_up(out.numel(), _BLOCK),
        (x, *windows, out, *sizes, rows.longest, columns.longest, divisor or 0),
        block=_BLOCK,
    )
    return out


def _spread(
    gradient: Tensor, size: Sequence[int], rows: Axis, columns: Axis, divisor: int | None
) -> Tensor:
    gradient = make_contiguous(gradient)
    out = gradient.new_empty(tuple(size))
    windows = *rows.get_windows(), rows.first, *columns.get_windows(), columns.first
    sizes = out.numel(), *out.shape[2:], rows.outputs, columns.outputs
    launch(
        _average_backward,
        divide_up(out.numel(), _BLOCK),
        (gradient, *windows, out, *sizes, rows.most, columns.most, divisor or 0),
        block=_BLOCK,
    )
    return out


def avg_pool2d(x: Tensor, shape: Pooling, count_include_pad: bool, divisor: int | None) -> Tensor:
    """[E25]"""
    rows, columns = (
        get_axis(x.shape[2 + axis], shape, axis, count_include_pad, x.device) for axis in (0, 1)
    )
    return _pool(x, rows, columns, divisor)


def avg_pool2d_backward(
    gradient: Tensor,
    size: Sequence[int],
    shape: Pooling,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """[E25]"""
    rows, columns = (
        get_axis(size[2 + axis], shape, axis, count_include_pad, gradient.device) for axis in (0, 1)
    )
    return _spread(gradient, size, rows, columns, divisor)


def adaptive_avg_pool2d(x: Tensor, size: Pair) -> Tensor:
    """[E25]"""
    rows, columns = (get_adaptive_axis(x.shape[2 + axis], size[axis], x.device) for axis in (0, 1))
    return _pool(x, rows, columns, None)


def adaptive_avg_pool2d_backward(gradient: Tensor, size: Sequence[int]) -> Tensor:
    """[E25]"""
    rows, columns = (
        get_adaptive_axis(size[2 + axis], gradient.shape[2 + axis], gradient.device)
        for axis in (0, 1)
    )
    return _spread(gradient, size, rows, columns, None)


@jit
def _largest(
    x: tl.tensor,
    out: tl.tensor,
    indices: tl.tensor,
    count: tl.tensor,
    xh: tl.tensor,
    xw: tl.tensor,
    yh: tl.tensor,
    yw: tl.tensor,
    kh: tl.tensor,
    kw: tl.tensor,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dilation_h: tl.constexpr,
    dilation_w: tl.constexpr,
    block: tl.constexpr,
) -> None:
    q = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    plane = q // (yh * yw)
    i = q // yw % yh
    j = q % yw
    held = tl.full((block,), float("-inf"), tl.float32)
    index = tl.full((block,), -1, tl.int64)
    for ky in range(kh):
        for kx in range(kw):
            h = i * stride_h - pad_h + ky * dilation_h
            v = j * stride_w - pad_w + kx * dilation_w
            inside = (q < count) & (h >= 0) & (h < xh) & (v >= 0) & (v < xw)
            value = tl.load(x + (plane * xh + h) * xw + v, mask=inside, other=0.0)
            taken = inside & ((index < 0) | (value > held) | (value != value))
            held = tl.where(taken, value, held)
            index = tl.where(taken, h * xw + v, index)
    tl.store(out + q, held, mask=q < count)
    tl.store(indices + q, index, mask=q < count)


def max_pool2d(x: Tensor, shape: Pooling) -> tuple[Tensor, Tensor]:
    """[E25]"""
    x = make_contiguous(x)
    images, channels, xh, xw = x.shape
    yh, yw = count_outputs(xh, shape, 0), count_outputs(xw, shape, 1)
    out = x.new_empty((images, channels, yh, yw))
    indices = torch.empty_like(out, dtype=torch.int64)
    sizes = out.numel(), xh, xw, yh, yw, *shape.kernel
    launch(
        _largest,
        divide_up(out.numel(), _BLOCK),
        (x, out, indices, *sizes),
        stride_h=shape.stride[0],
        stride_w=shape.stride[1],
        pad_h=shape.padding[0],
        pad_w=shape.padding[1],
        dilation_h=shape.dilation[0],
        dilation_w=shape.dilation[1],
        block=_BLOCK,
    )
    return out, indices


def max_pool2d_backward(gradient: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """[E25] a sum by index, where the inputs of all planes are the rows."""
    images, channels, xh, xw = size
    planes = torch.arange(images * channels, device=indices.device).view(images, channels, 1, 1)
    index = (indices + planes * (xh * xw)).reshape(-1)
    base = gradient.new_zeros((images * channels * xh * xw, 1))
    result = index_add(base, index, gradient.reshape(-1, 1), -1)
    return result.view(tuple(size))
