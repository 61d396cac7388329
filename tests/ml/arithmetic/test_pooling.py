"""Pooling against the rule in NumPy, and against PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from milepost_ml.arithmetic.backends import Pooling
from milepost_ml.arithmetic.cpu.pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from tests.support.float_bits import Floats, assert_bits, make_numbers, make_strided
from tests.support.threads import with_threads

ATEN = torch.ops.aten
Indices = NDArray[np.int64]

GEOMETRIES = [
    Pooling((2, 2), (2, 2), (0, 0), (1, 1), False),
    Pooling((2, 2), (2, 2), (0, 0), (1, 1), True),
    Pooling((3, 2), (2, 1), (1, 1), (1, 1), False),
    Pooling((3, 3), (2, 3), (1, 1), (1, 1), True),
    Pooling((1, 1), (3, 2), (0, 0), (1, 1), False),
]
DILATED = [
    Pooling((2, 3), (1, 2), (1, 1), (2, 2), False),
    Pooling((2, 2), (2, 2), (0, 0), (3, 1), True),
]
SHAPES = [(1, 1, 7, 7), (2, 3, 5, 8), (3, 1, 28, 28), (1, 2, 6, 67), (2, 2, 4, 33)]


def list_positions(size: int, shape: Pooling, axis: int) -> list[list[int]]:
    """The positions inside of each window along an axis; as many windows as PyTorch has."""
    count = torch.nn.functional.max_pool1d(
        torch.zeros(1, size),
        shape.kernel[axis],
        shape.stride[axis],
        shape.padding[axis],
        shape.dilation[axis],
        shape.ceil_mode,
    ).shape[1]
    windows = []
    for i in range(count):
        start = i * shape.stride[axis] - shape.padding[axis]
        taps = [start + k * shape.dilation[axis] for k in range(shape.kernel[axis])]
        windows.append([tap for tap in taps if 0 <= tap < size])
    return windows


def list_adaptive_positions(size: int, count: int) -> list[list[int]]:
    return [list(range(i * size // count, -(-(i + 1) * size // count))) for i in range(count)]


def each_plane(x: Floats) -> Iterator[tuple[int, int]]:
    return ((n, c) for n in range(x.shape[0]) for c in range(x.shape[1]))


def compute_max_pool(x: Floats, shape: Pooling) -> tuple[Floats, Indices]:
    rows, columns = (list_positions(x.shape[2 + i], shape, i) for i in range(2))
    y = np.zeros((*x.shape[:2], len(rows), len(columns)), np.float32)
    indices = np.zeros(y.shape, np.int64)
    for n, c in each_plane(x):
        for i, hs in enumerate(rows):
            for j, vs in enumerate(columns):
                places = [(h, v) for h in hs for v in vs]
                held = places[0]
                for place in places:
                    value = x[n, c][place]
                    if value > x[n, c][held] or np.isnan(value):
                        held = place
                y[n, c, i, j] = x[n, c][held]
                indices[n, c, i, j] = held[0] * x.shape[3] + held[1]
    return y, indices


def compute_max_pool_backward(g: Floats, indices: Indices, size: tuple[int, ...]) -> Floats:
    out = np.zeros((*size[:2], size[2] * size[3]), np.float32)
    with np.errstate(all="ignore"):
        for n, c in each_plane(out):
            for place, value in zip(indices[n, c].flatten(), g[n, c].flatten(), strict=True):
                out[n, c, place] = out[n, c, place] + value
    return out.reshape(size)


def compute_average(
    x: Floats, rows: list[list[int]], columns: list[list[int]], divisors: Floats
) -> Floats:
    y = np.zeros((*x.shape[:2], len(rows), len(columns)), np.float32)
    with np.errstate(all="ignore"):
        for i, hs in enumerate(rows):
            for j, vs in enumerate(columns):
                for h in hs:
                    for v in vs:
                        y[:, :, i, j] = y[:, :, i, j] + x[:, :, h, v]
        return np.asarray(y / divisors, np.float32)


def compute_average_backward(
    g: Floats,
    size: tuple[int, ...],
    rows: list[list[int]],
    columns: list[list[int]],
    divisors: Floats,
) -> Floats:
    out = np.zeros(size, np.float32)
    with np.errstate(all="ignore"):
        parts = g / divisors
        for i, hs in enumerate(rows):
            for j, vs in enumerate(columns):
                for h in hs:
                    for v in vs:
                        out[:, :, h, v] = out[:, :, h, v] + parts[:, :, i, j]
    return out


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("shape", [*GEOMETRIES, *DILATED])
@pytest.mark.parametrize("size", SHAPES)
def test_max_pool_exact_vector(
    size: tuple[int, ...], shape: Pooling, special: bool, threads: int
) -> None:
    x = make_numbers(1, *size, special=special)
    y, indices = compute_max_pool(x.numpy(), shape)
    g = make_numbers(2, *y.shape, special=special)
    with with_threads(threads):
        found = max_pool2d(x, shape)
        assert_bits(found[0], y)
        assert found[1].dtype == torch.int64
        assert (found[1].numpy() == indices).all()
        expected = compute_max_pool_backward(g.numpy(), indices, size)
        assert_bits(max_pool2d_backward(g, found[1], size), expected)
    theirs = ATEN.max_pool2d_with_indices(x, *shape)
    torch.testing.assert_close(found[0], theirs[0], equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(found[1], theirs[1])


def test_max_pool_takes_the_first_of_equals_and_the_last_nan_exact_vector() -> None:
    nan = float("nan")
    x = torch.tensor([[[[0.0, -0.0, 1.0, nan], [2.0, 2.0, nan, 3.0]]]])
    y, indices = max_pool2d(x, GEOMETRIES[0])
    assert_bits(y, np.array([[[[2.0, nan]]]], np.float32))
    assert indices.tolist() == [[[[4, 6]]]]
    y, indices = max_pool2d(-x[..., :1, :2].abs(), Pooling((1, 2), (1, 2), (0, 0), (1, 1), False))
    assert indices.tolist() == [[[[0]]]]


def test_max_pool_of_strided_tensors_exact_vector() -> None:
    x = make_strided(1, 3, 2, 6, 40)
    y, indices = compute_max_pool(x.numpy(), GEOMETRIES[0])
    found = max_pool2d(x, GEOMETRIES[0])
    assert_bits(found[0], y)
    assert (found[1].numpy() == indices).all()
    g = make_strided(2, *y.shape)
    strided = torch.stack([found[1], found[1]], -1)[..., 0]
    expected = compute_max_pool_backward(g.numpy(), indices, (3, 2, 6, 40))
    assert_bits(max_pool2d_backward(g, strided, x.shape), expected)


@pytest.mark.parametrize("index", [-1, 16, 2**40])
def test_max_pool_backward_refuses_an_index_outside(index: int) -> None:
    indices = torch.tensor([[[[3, index]]]])
    with pytest.raises(IndexError, match="outside its plane of 4x4"):
        max_pool2d_backward(torch.ones(1, 1, 1, 2), indices, (1, 1, 4, 4))


@pytest.mark.parametrize(
    "shape",
    [
        Pooling((5, 1), (1, 1), (0, 0), (1, 1), False),  # too large
        Pooling((1, 2), (1, 1), (0, 2), (1, 3), False),  # both taps of a window outside
    ],
)
def test_max_pool_refuses_windows_outside(shape: Pooling) -> None:
    with pytest.raises(ValueError, match="pooling"):
        max_pool2d(torch.ones(1, 1, 4, 1), shape)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 3)])
@pytest.mark.parametrize("shape", GEOMETRIES)
@pytest.mark.parametrize("size", SHAPES)
def test_avg_pool_exact_vector(
    size: tuple[int, ...], shape: Pooling, include: bool, divisor: int | None, threads: int
) -> None:
    x = make_numbers(1, *size, special=threads == 2)
    rows, columns = (list_positions(size[2 + i], shape, i) for i in range(2))
    # A window of ones has as many as it divides by: so PyTorch tells the divisor.
    options = (*shape[:3], shape.ceil_mode, include, divisor)
    ones = ATEN.avg_pool2d(torch.ones(1, 1, *size[2:], dtype=torch.float64), *options)
    inside = np.array([[len(h) * len(v) for v in columns] for h in rows])
    divisors = np.rint(inside / ones[0, 0].numpy()).astype(np.float32)
    with with_threads(threads):
        y = avg_pool2d(x, shape, include, divisor)
        assert_bits(y, compute_average(x.numpy(), rows, columns, divisors))
        g = make_numbers(2, *y.shape, special=threads == 2)
        expected = compute_average_backward(g.numpy(), size, rows, columns, divisors)
        assert_bits(avg_pool2d_backward(g, size, shape, include, divisor), expected)
    if threads == 1:
        torch.testing.assert_close(y, ATEN.avg_pool2d(x, *options), rtol=1e-4, atol=1e-5)
        theirs = ATEN.avg_pool2d_backward(g, x, *options)
        ours = avg_pool2d_backward(g, size, shape, include, divisor)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_avg_pool_refuses_to_divide_by_zero() -> None:
    with pytest.raises(ValueError, match="divisor"):
        avg_pool2d(torch.ones(1, 1, 2, 2), GEOMETRIES[0], True, 0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("out", [(1, 1), (3, 2), (7, 5)])
@pytest.mark.parametrize("size", [(2, 3, 7, 7), (1, 2, 10, 6), (3, 1, 3, 2), (0, 2, 4, 4)])
def test_adaptive_avg_pool_exact_vector(
    size: tuple[int, ...], out: tuple[int, int], threads: int
) -> None:
    x = make_numbers(1, *size, special=threads == 2)
    rows, columns = (list_adaptive_positions(size[2 + i], out[i]) for i in range(2))
    divisors = np.array([[len(h) * len(v) for v in columns] for h in rows], np.float32)
    with with_threads(threads):
        y = adaptive_avg_pool2d(x, out)
        assert_bits(y, compute_average(x.numpy(), rows, columns, divisors))
        g = make_numbers(2, *y.shape, special=threads == 2)
        expected = compute_average_backward(g.numpy(), size, rows, columns, divisors)
        assert_bits(adaptive_avg_pool2d_backward(g, size), expected)
    if threads == 1 and size[0]:
        torch.testing.assert_close(y, ATEN._adaptive_avg_pool2d(x, out), rtol=1e-4, atol=1e-5)
        theirs = ATEN._adaptive_avg_pool2d_backward(g, x)
        ours = adaptive_avg_pool2d_backward(g, size)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_averages_of_strided_tensors_exact_vector() -> None:
    x, g = make_strided(1, 2, 3, 6, 8), make_strided(2, 2, 3, 2, 4)
    rows, columns = list_adaptive_positions(6, 2), list_adaptive_positions(8, 4)
    divisors = np.full((2, 4), 6, np.float32)
    assert_bits(adaptive_avg_pool2d(x, (2, 4)), compute_average(x.numpy(), rows, columns, divisors))
    expected = compute_average_backward(g.numpy(), (2, 3, 6, 8), rows, columns, divisors)
    assert_bits(adaptive_avg_pool2d_backward(g, x.shape), expected)
