"""Sums, dot products and convolutions [E6-E13]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Geometry = dict[str, Any]

LANES: Final = 16


def fold(partial: Array) -> Array:
    """[E6] the sum of sixteen partial sums along the first axis."""
    for half in (8, 4, 2, 1):
        partial = partial[:half] + partial[half:]
    result: Array = partial[0]
    return result


def add_up(x: Array) -> Array:
    """[E6] S along the first axis."""
    partial = np.zeros((LANES, *x.shape[1:]), np.float32)
    for start in range(0, len(x), LANES):
        chunk = x[start : start + LANES]
        partial[: len(chunk)] += chunk
    return fold(partial)


def compute_sum(x: Array, dims: Sequence[int]) -> Array:
    """[E7] over dimensions in ascending order; they go."""
    groups: list[list[int]] = []
    for dim in dims:
        if groups and groups[-1][-1] == dim - 1:
            groups[-1].append(dim)
        else:
            groups.append([dim])
    for group in reversed(groups):
        first, after = group[0], group[-1] + 1
        before, inner, behind = x.shape[:first], x.shape[first:after], x.shape[after:]
        x = add_up(np.moveaxis(x.reshape(*before, prod(inner), *behind), first, 0))
    return x


def compute_mean(x: Array, dims: Sequence[int]) -> Array:
    """[E8]"""
    count = prod(x.shape[dim] for dim in dims)
    result: Array = compute_sum(x, dims) / np.float32(count)
    return result


def matmul(a: Array, b: Array, bias: Array | None = None) -> Array:
    """[E9, E10] (..., M, K) x (..., K, N), then + bias."""
    result = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for k in range(a.shape[-1]):
        result += a[..., :, k, None] * b[..., None, k, :]
    return result if bias is None else result + bias


def addmm(bias: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
    """[E10] with factors."""
    result = matmul(a, b)
    if alpha != 1:
        result = np.float32(alpha) * result
    if beta == 0:
        return result
    scaled = bias if beta == 1 else np.float32(beta) * bias
    total: Array = result + scaled
    return total


def _iterate_groups(weight: Array, channels: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """Channels of the output and of the input that belong together."""
    outputs, inputs = weight.shape[0] // groups, channels // groups
    for g in range(groups):
        yield slice(g * outputs, (g + 1) * outputs), slice(g * inputs, (g + 1) * inputs)


def _pad(x: Array, padding: Sequence[int]) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))


def _get_size(size: Sequence[int], kernel: Sequence[int], shape: Geometry) -> list[int]:
    """Height and width of a convolution's result."""
    return [
        (size[i] + 2 * shape["padding"][i] - shape["dilation"][i] * (kernel[i] - 1) - 1)
        // shape["stride"][i]
        + 1
        for i in (0, 1)
    ]


def _look(padded: Array, tap: Sequence[int], size: Sequence[int], shape: Geometry) -> Array:
    """The pixels that one tap of the kernel meets, for all outputs."""
    rows, columns = (
        slice(
            tap[i] * shape["dilation"][i],
            tap[i] * shape["dilation"][i] + (size[i] - 1) * shape["stride"][i] + 1,
            shape["stride"][i],
        )
        for i in (0, 1)
    )
    result: Array = padded[..., rows, columns]
    return result


def convolution(x: Array, weight: Array, bias: Array | None, shape: Geometry) -> Array:
    """[E11]"""
    size = _get_size(x.shape[2:], weight.shape[2:], shape)
    padded = _pad(x, shape["padding"])
    y = np.zeros((len(x), len(weight), *size), np.float32)
    for outputs, inputs in _iterate_groups(weight, x.shape[1], shape["groups"]):
        for c, ky, kx in product(*map(range, weight.shape[1:])):
            seen = _look(padded[:, inputs][:, c], (ky, kx), size, shape)
            y[:, outputs] += weight[outputs, c, ky, kx, None, None] * seen[:, None]
    return y if bias is None else y + bias[:, None, None]


def _match(length: int, extent: int, tap: int, i: int, shape: Geometry) -> tuple[slice, Array]:
    """Positions of the input that one tap divides, and the outputs they belong to."""
    stride, offset = shape["stride"][i], shape["padding"][i] - tap * shape["dilation"][i]
    first = -offset % stride
    outputs = (np.arange(first, length, stride) + offset) // stride
    # Outputs that do not exist are read from the row of zeros behind the last one.
    return slice(first, length, stride), np.where((outputs >= 0) & (outputs < extent), outputs, -1)


def convolution_input(
    gradient: Array, weight: Array, size: Sequence[int], shape: Geometry
) -> Array:
    """[E12]"""
    height, width = gradient.shape[2:]
    padded = np.pad(gradient, ((0, 0), (0, 0), (0, 1), (0, 1)))
    result = np.zeros(tuple(size), np.float32)
    for outputs, inputs in _iterate_groups(weight, size[1], shape["groups"]):
        for o, ky, kx in product(
            range(outputs.start, outputs.stop), range(weight.shape[2]), range(weight.shape[3])
        ):
            rows, i = _match(size[2], height, ky, 0, shape)
            columns, j = _match(size[3], width, kx, 1, shape)
            taken = padded[:, o][:, i[:, None], j]
            result[:, inputs, rows, columns] += weight[o, :, ky, kx, None, None] * taken[:, None]
    return result


def convolution_weight(gradient: Array, x: Array, size: Sequence[int], shape: Geometry) -> Array:
    """[E13]"""
    height, width = gradient.shape[2:]
    padded = _pad(x, shape["padding"])
    result = np.zeros(tuple(size), np.float32)
    y = np.arange(size[2]) * shape["dilation"][0]
    v = np.arange(size[3]) * shape["dilation"][1]
    for outputs, inputs in _iterate_groups(result, x.shape[1], shape["groups"]):
        partial = np.zeros((LANES, outputs.stop - outputs.start, *size[1:]), np.float32)
        for start in range(0, len(x), LANES):
            images = slice(start, start + LANES)
            lanes = min(LANES, len(x) - start)
            for i, j in product(range(height), range(width)):
                rows, columns = i * shape["stride"][0] + y, j * shape["stride"][1] + v
                seen = padded[images, inputs, rows[:, None], columns]
                factor = gradient[images, outputs, i, j, None, None, None]
                partial[:lanes] += factor * seen[:, None]
        result[outputs] = fold(partial)
    return result
