"""Float32 numbers to the bit: awkward inputs, sums in their order, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

SPECIAL = (0.0, -0.0, 1e-40, -1e-45, 3e38, -3e38, float("inf"), float("-inf"), float("nan"))


def make_numbers(seed: int, *shape: int, special: bool = False) -> Tensor:
    """Numbers of very different sizes; with `special`, one in eight is of `SPECIAL`."""
    chance = np.random.default_rng(seed)
    numbers = chance.standard_normal(shape) * 2.0 ** chance.integers(-6, 6, shape)
    if special:
        numbers = np.where(chance.random(shape) < 0.125, chance.choice(SPECIAL, shape), numbers)
    return torch.from_numpy(np.asarray(numbers, np.float32).reshape(shape))


def make_strided(seed: int, *shape: int, special: bool = False) -> Tensor:
    """The same of every second element of a tensor whose dimensions are turned round."""
    flat = make_numbers(seed, *shape, special=special)
    wide = torch.full((*reversed(shape), 2), 7.0)
    wide[..., 0] = flat.permute(*reversed(range(len(shape))))
    return wide[..., 0].permute(*reversed(range(len(shape))))


def sum_in_lanes(x: Floats, axis: int = -1) -> Floats:
    """S of [E6] along an axis, in plain loops."""
    x = np.moveaxis(x, axis, -1)
    partial = np.zeros((*x.shape[:-1], 16), np.float32)
    with np.errstate(all="ignore"):
        for i in range(x.shape[-1]):
            partial[..., i % 16] = partial[..., i % 16] + x[..., i]
        for half in (8, 4, 2, 1):
            partial = partial[..., :half] + partial[..., half : 2 * half]
    result: Floats = partial[..., 0]
    return result


def assert_bits(found: Tensor | Sequence[Tensor], expected: Any) -> None:
    """Same shapes and the same bits, all NaNs being one value [E2]."""
    if not isinstance(found, Tensor):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_bits(one, other)
        return
    wanted = np.asarray(expected)
    assert wanted.dtype == np.float32
    assert tuple(found.shape) == wanted.shape
    left, right = found.detach().contiguous().numpy(), np.ascontiguousarray(wanted)
    both_nan = np.isnan(left) & np.isnan(right)
    same = both_nan | (left.view(np.int32) == right.view(np.int32))
    assert same.all(), f"{(~same).sum()} of {same.size} differ, first at {np.argwhere(~same)[0]}"
