"""Sums in sixteen partial sums [E6, E7]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu import lanes, partial
from milepost_ml.arithmetic.cpu.launch import kernel
from milepost_ml.arithmetic.cpu.reductions import reduce_dims, sum_row
from milepost_ml.arithmetic.cpu.scalars import count_pieces, stack_bytes, take_range

_PIECE: Final = 16384
"""Elements in a piece of work over rows."""

_WIDTH: Final = 64
"""Columns that are summed together: 256 bytes of a row, sixteen partial sums of them in 4 KiB."""

_STRETCH: Final = 4096
"""Elements read before partial sums of narrow columns are put down again."""

_ROOM_BYTES: Final = 4 * (16 * _WIDTH + 16)
"""Sixteen partial sums of all columns, and sixteen numbers that a last load may touch."""


@kernel
def _sum_rows(a: Any) -> None:
    """a[1] rows of a[2] elements, a[5] in a piece."""
    start, stop = take_range(a, a[1], a[5])
    while start < stop:
        for row in range(start, stop):
            lanes.store_one(a[4], row, sum_row(a[3], row * a[2], a[2]))
        start, stop = take_range(a, a[1], a[5])


@kernel
def _sum_wide(a: Any) -> None:
    """(a[1], a[2], a[3]) over the middle; a piece is up to 64 columns of at least 64."""
    outer, count, inner, x, y = a[1], a[2], a[3], a[4], a[5]
    room = stack_bytes(_ROOM_BYTES)
    blocks = (inner + _WIDTH - 1) // _WIDTH
    piece = lanes.take_chunk(a)
    while piece < outer * blocks:
        first = piece // blocks
        # The last columns are computed with those before them, again if need be.
        column = min(piece % blocks * _WIDTH, inner - _WIDTH)
        for r in range(16):
            p0, p1, p2, p3 = lanes.zeros(), lanes.zeros(), lanes.zeros(), lanes.zeros()
            for i in range(r, count, 16):
                place = (first * count + i) * inner + column
                p0 = lanes.add(p0, lanes.load(x, place))
                p1 = lanes.add(p1, lanes.load(x, place + 16))
                p2 = lanes.add(p2, lanes.load(x, place + 32))
                p3 = lanes.add(p3, lanes.load(x, place + 48))
            lanes.store(room, r * _WIDTH, p0)
            lanes.store(room, r * _WIDTH + 16, p1)
            lanes.store(room, r * _WIDTH + 32, p2)
            lanes.store(room, r * _WIDTH + 48, p3)
        half = 8 * _WIDTH
        while half >= _WIDTH:
            for i in range(0, half, 16):
                p0 = lanes.add(lanes.load(room, i), lanes.load(room, half + i))
                lanes.store(room, i, p0)
            half //= 2
        for i in range(0, _WIDTH, 16):
            lanes.store(y, first * inner + column + i, lanes.load(room, i))
        piece = lanes.take_chunk(a)


@kernel
def _sum_narrow(a: Any) -> None:
    """The same for fewer than 64 columns; a piece is a[6] of the outer elements.

    Sixteen rows are one stretch of memory that holds every partial sum's next number.
    """
    count, inner, x, y = a[2], a[3], a[4], a[5]
    room = stack_bytes(_ROOM_BYTES)
    size = 16 * inner
    stride = max(_STRETCH // size, 1)
    start, stop = take_range(a, a[1], a[6])
    while start < stop:
        for first in range(start, stop):
            base = first * count * inner
            for i in range(0, size, 16):
                lanes.store(room, i, lanes.zeros())
            for block in range(0, count // 16, stride):
                end = min(block + stride, count // 16)
                for i in range(0, size, 16):
                    p = lanes.load(room, i)
                    for k in range(block, end):
                        p = lanes.add(p, lanes.load(x, base + k * size + i))
                    lanes.store(room, i, p)
            rest = count % 16 * inner
            place = base + count // 16 * size
            for i in range(0, rest, 16):
                p = partial.load_part(x, place + i, min(rest - i, 16))
                lanes.store(room, i, lanes.add(lanes.load(room, i), p))
            half = 8 * inner
            while half >= inner:
                # A last store may pass `half`, but only over numbers that were already taken.
                for i in range(0, half, 16):
                    p = lanes.add(lanes.load(room, i), lanes.load(room, half + i))
                    lanes.store(room, i, p)
                half //= 2
            for i in range(0, inner, 16):
                p = lanes.load(room, i)
                partial.store_part(y, first * inner + i, p, min(inner - i, 16))
        start, stop = take_range(a, a[1], a[6])


def sum_middle(x: Tensor, outer: int, count: int, inner: int) -> Tensor:
    """[E6] of a contiguous tensor seen as (outer, count, inner), over `count`."""
    result = torch.empty(outer * inner, dtype=torch.float32)
    if not outer * inner:
        return result
    source, target = x.data_ptr(), result.data_ptr()
    if inner == 1:
        size = max(_PIECE // max(count, 1), 1)
        _sum_rows(count_pieces(outer, size), outer, count, source, target, size)
    elif inner >= _WIDTH:
        pieces = outer * count_pieces(inner, _WIDTH)
        _sum_wide(pieces, outer, count, inner, source, target)
    else:
        size = max(_PIECE // max(count * inner, 1), 1)
        _sum_narrow(count_pieces(outer, size), outer, count, inner, source, target, size)
    return result


def sum(x: Tensor, dims: Sequence[int]) -> Tensor:  # noqa: A001  (the interface's name)
    """[E7] over the given dimensions (not negative, ascending, at least one), which go."""
    return reduce_dims(x, dims, sum_middle)
