"""Pooling over windows of a plane and its gradients [E25]."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from milepost_ml.arithmetic.backends import Pair, Pooling
from milepost_ml.arithmetic.cpu.lanes import (
    LANES,
    load_index,
    load_one,
    store_index,
    store_one,
    take_chunk,
    unpack_float,
    zeros,
)
from milepost_ml.arithmetic.cpu.launch import kernel, pack_float
from milepost_ml.arithmetic.cpu.partial import compute_share, put
from milepost_ml.arithmetic.cpu.quads import max_pool_quads


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


@functools.lru_cache(maxsize=256)
def _compute_windows(
    size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> tuple[array[int], int]:
    """First position and the one past the last of each window along one axis, as pairs.

    Positions outside are left out.  The second result is the number of windows.  Raises
    ValueError if there is no window, or one without a position inside.
    """
    reach = dilation * (kernel_size - 1) + 1
    room = size + 2 * padding - reach + (stride - 1 if ceil_mode else 0)
    count = room // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    windows = array("q")
    for i in range(count):
        start = i * stride - padding
        end = min(start + reach, size)
        while start < 0:
            start += dilation
        if start >= end:
            raise ValueError(f"window {i} of a pooling over {size} positions has none inside")
        windows.extend((start, end))
    if count < 1:
        raise ValueError(f"a pooling window of {reach} does not fit {size} positions")
    return windows, count


@kernel
def _max_pool(a: Any) -> None:
    x, y, indices, planes, piece = a[1], a[2], a[3], a[4], a[5]
    height, width, out_height, out_width = a[6], a[7], a[8], a[9]
    rows, columns, row_step, column_step = a[10], a[11], a[12], a[13]
    while True:
        first = take_chunk(a) * piece
        if first >= planes:
            break
        for plane in range(first, min(first + piece, planes)):
            source, target = x + 4 * plane * height * width, plane * out_height * out_width
            for i in range(out_height):
                top, bottom = load_index(rows, 2 * i), load_index(rows, 2 * i + 1)
                for j in range(out_width):
                    left, right = load_index(columns, 2 * j), load_index(columns, 2 * j + 1)
                    best = top * width + left
                    held = load_one(source, best)
                    for h in range(top, bottom, row_step):
                        for place in range(h * width + left, h * width + right, column_step):
                            value = load_one(source, place)
                            if value > held or value != value:
                                held, best = value, place
                    store_one(y, target, held)
                    store_index(indices, target, best)
                    target += 1


def _are_quads(height: int, width: int, shape: Pooling, out_height: int, out_width: int) -> bool:
    return (
        shape.kernel == shape.stride == (2, 2)
        and shape.padding == (0, 0)
        and shape.dilation == (1, 1)
        and 2 * out_height <= height
        and 2 * out_width <= width
    )


def max_pool2d(x: Tensor, shape: Pooling) -> tuple[Tensor, Tensor]:
    """[E25] values and int64 indices into the plane, of x (N, C, H, W).

    Raises ValueError for a window that lies outside.
    """
    x = _dense(x)
    images, channels, height, width = x.shape
    (rows, out_height), (columns, out_width) = (
        _compute_windows(size, *geometry, shape.ceil_mode)
        for size, *geometry in zip(
            (height, width), shape.kernel, shape.stride, shape.padding, shape.dilation, strict=True
        )
    )
    y = x.new_empty(images, channels, out_height, out_width)
    indices = torch.empty(y.shape, dtype=torch.int64)
    piece = compute_share(images * channels)
    run = _max_pool
    if _are_quads(height, width, shape, out_height, out_width):
        run = max_pool_quads
    run(
        -(-images * channels // piece),
        x.data_ptr(),
        y.data_ptr(),
        indices.data_ptr(),
        images * channels,
        piece,
        height,
        width,
        out_height,
        out_width,
        rows.buffer_info()[0],
        columns.buffer_info()[0],
        shape.dilation[0],
        shape.dilation[1],
    )
    return y, indices


@kernel
def _max_pool_backward(a: Any) -> None:
    gradient, indices, out, failed = a[1], a[2], a[3], a[4]
    planes, piece, pixels, taken = a[5], a[6], a[7], a[8]
    while True:
        first = take_chunk(a) * piece
        if first >= planes:
            break
        for plane in range(first, min(first + piece, planes)):
            target, source = out + 4 * plane * pixels, plane * taken
            for i in range(0, pixels, LANES):
                put(target, i, zeros(), pixels)
            for i in range(source, source + taken):
                place = load_index(indices, i)
                if place < 0 or place >= pixels:
                    store_index(failed, 0, 1)
                else:
                    store_one(target, place, load_one(target, place) + load_one(gradient, i))


def max_pool2d_backward(gradient: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """[E25] the gradient of an input of shape `size` = (N, C, H, W).

    Raises IndexError for an index outside the plane.
    """
    gradient, indices = _dense(gradient), _dense(indices)
    images, channels, height, width = size
    out = gradient.new_empty(images, channels, height, width)
    failed = array("q", [0])
    piece = compute_share(images * channels)
    _max_pool_backward(
        -(-images * channels // piece),
        gradient.data_ptr(),
        indices.data_ptr(),
        out.data_ptr(),
        failed.buffer_info()[0],
        images * channels,
        piece,
        height * width,
        gradient.shape[2] * gradient.shape[3],
    )
    if failed[0]:
        raise IndexError(f"an index of max_pool2d lies outside its plane of {height}x{width}")
    return out


# Averages ----------------------------------------------------------------------------------------


@kernel
def _average(a: Any) -> None:
    """Averages of windows or, backward, their gradients spread over the windows."""
    values, averages, planes, piece, backward = a[1], a[2], a[3], a[4], a[5]
    height, width, out_height, out_width = a[6], a[7], a[8], a[9]
    rows, columns, divisors, zero = a[10], a[11], a[12], unpack_float(a[13])
    while True:
        first = take_chunk(a) * piece
        if first >= planes:
            break
        for plane in range(first, min(first + piece, planes)):
            inside, outside = values + 4 * plane * height * width, plane * out_height * out_width
            if backward != 0:
                for i in range(0, height * width, LANES):
                    put(inside, i, zeros(), height * width)
            for i in range(out_height):
                top, bottom = load_index(rows, 2 * i), load_index(rows, 2 * i + 1)
                for j in range(out_width):
                    left, right = load_index(columns, 2 * j), load_index(columns, 2 * j + 1)
                    divisor = load_one(divisors, i * out_width + j)
                    if backward != 0:
                        part = load_one(averages, outside) / divisor
                        for h in range(top, bottom):
                            for place in range(h * width + left, h * width + right):
                                store_one(inside, place, load_one(inside, place) + part)
                    else:
                        total = zero
                        for h in range(top, bottom):
                            for place in range(h * width + left, h * width + right):
                                total = total + load_one(inside, place)
                        store_one(averages, outside, total / divisor)
                    outside += 1


class _Windows:
    """Windows over both axes, with the divisor of each."""

    def __init__(self, rows: array[int], columns: array[int], divisors: array[float]) -> None:
        self.size = len(rows) // 2, len(columns) // 2
        self._arrays = rows, columns, divisors  # the addresses below point into these
        self.addresses = tuple(table.buffer_info()[0] for table in self._arrays)


@functools.lru_cache(maxsize=256)
def _compute_average_windows(
    height: int, width: int, shape: Pooling, count_include_pad: bool, divisor: int | None
) -> _Windows:
    if divisor == 0:
        raise ValueError("the divisor of avg_pool2d must not be zero")
    tables, lengths = [], []
    for axis, size in enumerate((height, width)):
        length, stride, padding = shape.kernel[axis], shape.stride[axis], shape.padding[axis]
        windows, count = _compute_windows(size, length, stride, padding, 1, shape.ceil_mode)
        tables.append(windows)
        if count_include_pad:
            starts = range(-padding, count * stride - padding, stride)
            lengths.append([min(start + length, size + padding) - start for start in starts])
        else:
            lengths.append([windows[2 * i + 1] - windows[2 * i] for i in range(count)])
    divisors = array("f", [divisor or h * w for h in lengths[0] for w in lengths[1]])
    return _Windows(tables[0], tables[1], divisors)


@functools.lru_cache(maxsize=256)
def _compute_adaptive_windows(height: int, width: int, size: Pair) -> _Windows:
    rows, columns = (
        array("q", [edge for i in range(m) for edge in (i * n // m, -(-(i + 1) * n // m))])
        for n, m in zip((height, width), size, strict=True)
    )
    divisors = array(
        "f",
        [
            (rows[2 * i + 1] - rows[2 * i]) * (columns[2 * j + 1] - columns[2 * j])
            for i in range(size[0])
            for j in range(size[1])
        ],
    )
    return _Windows(rows, columns, divisors)


def _run_average(values: Tensor, averages: Tensor, windows: _Windows, backward: bool) -> None:
    planes, piece = values.shape[0] * values.shape[1], 0
    piece = compute_share(planes)
    _average(
        -(-planes // piece),
        values.data_ptr(),
        averages.data_ptr(),
        planes,
        piece,
        int(backward),
        values.shape[2],
        values.shape[3],
        *windows.size,
        *windows.addresses,
        pack_float(0.0),
    )


def _average_windows(x: Tensor, windows: _Windows) -> Tensor:
    x = _dense(x)
    y = x.new_empty(x.shape[0], x.shape[1], *windows.size)
    _run_average(x, y, windows, backward=False)
    return y


def _spread_averages(gradient: Tensor, size: Sequence[int], windows: _Windows) -> Tensor:
    gradient = _dense(gradient)
    out = gradient.new_empty(tuple(size))
    _run_average(out, gradient, windows, backward=True)
    return out


def avg_pool2d(x: Tensor, shape: Pooling, count_include_pad: bool, divisor: int | None) -> Tensor:
    """[E25] of x (N, C, H, W).  Raises ValueError for a window that lies outside."""
    height, width = x.shape[2:]
    windows = _compute_average_windows(height, width, shape, count_include_pad, divisor)
    return _average_windows(x, windows)


def avg_pool2d_backward(
    gradient: Tensor,
    size: Sequence[int],
    shape: Pooling,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """[E25] the gradient of an input of shape `size` = (N, C, H, W)."""
    height, width = size[2:]
    windows = _compute_average_windows(height, width, shape, count_include_pad, divisor)
    return _spread_averages(gradient, size, windows)


def adaptive_avg_pool2d(x: Tensor, size: Pair) -> Tensor:
    """[E25] of x (N, C, H, W)."""
    return _average_windows(x, _compute_adaptive_windows(x.shape[2], x.shape[3], size))


def adaptive_avg_pool2d_backward(gradient: Tensor, size: Sequence[int]) -> Tensor:
    """[E25] the gradient of an input of shape `size` = (N, C, H, W)."""
    out_size = (gradient.shape[2], gradient.shape[3])
    return _spread_averages(gradient, size, _compute_adaptive_windows(size[2], size[3], out_size))
