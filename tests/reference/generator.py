"""Numbers from labels [E32] and the generator of a step [E30]."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MASK: Final = 2**64 - 1
_MULTIPLIERS: Final = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL: Final = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS: Final = 10


def make_words(label: str, count: int) -> Array:
    """[E32] 32-bit words of a label."""
    return np.frombuffer(hashlib.shake_256(label.encode()).digest(4 * count), "<u4")


def make_values(label: str, shape: Sequence[int], exponent: int = 0) -> Array:
    """[E32] float32 numbers in [-2^exponent, 2^exponent), multiples of 2^(exponent - 23)."""
    words = make_words(label, prod(shape))
    integers = (words >> 8).astype(np.int64) - 2**23
    return np.ldexp(integers.astype(np.float32), exponent - 23).reshape(shape)


def make_integers(label: str, shape: Sequence[int], limit: int) -> Array:
    """[E32] int64 numbers below `limit`."""
    return (make_words(label, prod(shape)).astype(np.int64) % limit).reshape(shape)


def make_block(seed: int, draw: int, counter: int) -> tuple[int, int, int, int]:
    """Philox4x64-10: four words for key (seed, draw) and counter (counter, 0, 0, 0)."""
    a, b, c, d = counter, 0, 0, 0
    key, other = seed, draw
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 64) ^ b ^ key,
            right & _MASK,
            (left >> 64) ^ d ^ other,
            left & _MASK,
        )
        key, other = (key + _WEYL[0]) & _MASK, (other + _WEYL[1]) & _MASK
    return a, b, c, d


class Generator:
    """[E30] the numbers that the operators of one step draw."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draw = 0

    def draw(self, count: int) -> Array:
        """uint64 words of the next operator."""
        blocks = [
            make_block(self._seed, self._draw, 1 + block) for block in range((count + 3) // 4)
        ]
        self._draw += 1
        return np.array(blocks, np.uint64).reshape(-1)[:count]

    def rand(self, shape: Sequence[int]) -> Array:
        """Uniform in [0, 1)."""
        words = self.draw(prod(shape)) >> np.uint64(40)
        return (words.astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> Array:
        """Uniform between two numbers."""
        width = np.float32(high - low)
        result: Array = np.float32(low) + self.rand(shape) * width
        return result

    def bernoulli(self, shape: Sequence[int], p: float) -> Array:
        """1 with probability p, else 0."""
        words = (self.draw(prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (words < p).astype(np.float32).reshape(shape)

    def dropout(self, x: Array, p: float) -> Array:
        """What is left of x, made larger."""
        result: Array = x * (self.bernoulli(x.shape, 1 - p) / np.float32(1 - p))
        return result
