"""Philox 4x64-10 and the initial weights drawn from it, in plain integers and fractions.

Written from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011), for comparison
with what numpy gives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

from milepost_consensus.crypto import compute_digest

MASK = 2**64 - 1
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def draw_words(key: bytes) -> Iterator[int]:
    """64-bit words under a key of 16 bytes; the counter starts at one."""
    first = struct.unpack("<2Q", key)
    for number in range(1, 2**64):
        keys, block = list(first), [number, 0, 0, 0]
        for _ in range(10):
            low, high = MULTIPLIERS[0] * block[0], MULTIPLIERS[1] * block[2]
            block = [
                (high >> 64) ^ block[1] ^ keys[0],
                high & MASK,
                (low >> 64) ^ block[3] ^ keys[1],
                low & MASK,
            ]
            keys = [(one + step) & MASK for one, step in zip(keys, WEYL, strict=True)]
        yield from block


def round_twice(exact: Fraction) -> bytes:
    """An exact product as float64 and that as float32, each to nearest even."""
    return struct.pack("<f", float(exact))


def draw_initial(seed: bytes, name: str, kind: str, scale: float, count: int) -> bytes:
    """The bytes of `count` uniform or normal float32 values of a tensor."""
    words = draw_words(compute_digest("initial", seed + name.encode())[:16])
    values = []
    for _ in range(count):
        if kind == "uniform":
            exact = Fraction(2 * (next(words) >> 40) + 1 - 2**24, 2**24)
        else:
            drawn = [next(words) for _ in range(6)]
            total = sum((word >> 32) + (word & (2**32 - 1)) for word in drawn)
            exact = Fraction(total - 6 * (2**32 - 1), 2**32)
        values.append(round_twice(exact * Fraction(scale)))
    return b"".join(values)
