"""Pooling and tables of rows [E25, E26]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Geometry = dict[str, Any]
Window = tuple[int, int, list[int], list[int], int]
"""Row and column of the output, rows and columns of the input inside, divisor with padding."""


def _get_extent(length: int, i: int, shape: Geometry) -> int:
    """Outputs along one dimension."""
    kernel, stride, padding = (shape[name][i] for name in ("kernel", "stride", "padding"))
    room = length + 2 * padding - shape["dilation"][i] * (kernel - 1) - 1
    extent: int = (room + (stride - 1 if shape["ceil_mode"] else 0)) // stride + 1
    if shape["ceil_mode"] and (extent - 1) * stride >= length + padding:
        extent -= 1
    return extent


def _iterate_windows(size: Sequence[int], shape: Geometry) -> Iterator[Window]:
    """All windows over a plane, row-major."""
    extents = [_get_extent(size[i], i, shape) for i in (0, 1)]
    for place in product(*map(range, extents)):
        inside, divisor = [], 1
        for i in (0, 1):
            start = place[i] * shape["stride"][i] - shape["padding"][i]
            taps = [start + tap * shape["dilation"][i] for tap in range(shape["kernel"][i])]
            inside.append([tap for tap in taps if 0 <= tap < size[i]])
            divisor *= min(start + shape["kernel"][i], size[i] + shape["padding"][i]) - start
        yield place[0], place[1], inside[0], inside[1], divisor


def _make_planes(x: Array, size: Sequence[int], dtype: type[np.generic]) -> Array:
    return np.zeros((*x.shape[:2], *size), dtype)


def max_pool2d(x: Array, shape: Geometry) -> tuple[Array, Array]:
    """[E25] values and indices."""
    size = x.shape[2:]
    extents = [_get_extent(size[i], i, shape) for i in (0, 1)]
    y, indices = _make_planes(x, extents, np.float32), _make_planes(x, extents, np.int64)
    for i, j, rows, columns, _ in _iterate_windows(size, shape):
        held = x[:, :, rows[0], columns[0]]
        index = np.full(held.shape, rows[0] * size[1] + columns[0])
        for row, column in product(rows, columns):
            value = x[:, :, row, column]
            better = (value > held) | np.isnan(value)
            held = np.where(better, value, held)
            index = np.where(better, row * size[1] + column, index)
        y[:, :, i, j], indices[:, :, i, j] = held, index
    return y, indices


def max_pool2d_backward(gradient: Array, indices: Array, size: Sequence[int]) -> Array:
    """[E25]"""
    result = np.zeros(tuple(size), np.float32)
    flat = result.reshape(*size[:2], -1)
    n, c = np.ogrid[: size[0], : size[1]]
    for i, j in product(*map(range, gradient.shape[2:])):
        flat[n, c, indices[:, :, i, j]] += gradient[:, :, i, j]
    return result


def _get_divisor(window: Window, include: bool, divisor: int | None) -> Any:
    _, _, rows, columns, padded = window
    inside = padded if include else len(rows) * len(columns)
    return np.float32(inside if divisor is None else divisor)


def avg_pool2d(x: Array, shape: Geometry, count_include_pad: bool, divisor: int | None) -> Array:
    """[E25]"""
    extents = [_get_extent(x.shape[2 + i], i, shape) for i in (0, 1)]
    y = _make_planes(x, extents, np.float32)
    for window in _iterate_windows(x.shape[2:], shape):
        i, j, rows, columns, _ = window
        for row, column in product(rows, columns):
            y[:, :, i, j] += x[:, :, row, column]
        y[:, :, i, j] /= _get_divisor(window, count_include_pad, divisor)
    return y


def avg_pool2d_backward(
    gradient: Array,
    size: Sequence[int],
    shape: Geometry,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    """[E25]"""
    result = np.zeros(tuple(size), np.float32)
    for window in _iterate_windows(size[2:], shape):
        i, j, rows, columns, _ = window
        share = gradient[:, :, i, j] / _get_divisor(window, count_include_pad, divisor)
        for row, column in product(rows, columns):
            result[:, :, row, column] += share
    return result


def _iterate_adaptive(size: Sequence[int], extents: Sequence[int]) -> Iterator[Window]:
    for place in product(*map(range, extents)):
        rows, columns = (
            list(
                range(
                    place[i] * size[i] // extents[i],
                    -(-(place[i] + 1) * size[i] // extents[i]),
                )
            )
            for i in (0, 1)
        )
        yield place[0], place[1], rows, columns, len(rows) * len(columns)


def adaptive_avg_pool2d(x: Array, size: Sequence[int]) -> Array:
    """[E25]"""
    y = _make_planes(x, size, np.float32)
    for i, j, rows, columns, divisor in _iterate_adaptive(x.shape[2:], size):
        for row, column in product(rows, columns):
            y[:, :, i, j] += x[:, :, row, column]
        y[:, :, i, j] /= np.float32(divisor)
    return y


def adaptive_avg_pool2d_backward(gradient: Array, size: Sequence[int]) -> Array:
    """[E25]"""
    result = np.zeros(tuple(size), np.float32)
    for i, j, rows, columns, divisor in _iterate_adaptive(size[2:], gradient.shape[2:]):
        share = gradient[:, :, i, j] / np.float32(divisor)
        for row, column in product(rows, columns):
            result[:, :, row, column] += share
    return result


def index_add(base: Array, index: Array, rows: Array, skip: int) -> Array:
    """[E26]"""
    result = base.copy()
    for place, row in zip(index, rows, strict=True):
        if place != skip:
            result[place] += row
    return result
