"""Maxima of windows of two by two that touch but do not overlap, sixteen at a time [E25].

Most networks pool so.  Four neighbours that are taken apart by shuffles instead of one by one make
this ten times as fast as windows of any kind.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from milepost_ml.arithmetic.cpu.lanes import LANES, lanes, take_chunk
from milepost_ml.arithmetic.cpu.launch import kernel
from milepost_ml.arithmetic.cpu.partial import put, take
from milepost_ml.arithmetic.cpu.vectors import (
    INT,
    WORD,
    Address,
    locate,
    mask_first,
    spread,
    store_first,
)

_WORDS = ir.VectorType(WORD, LANES)


def _take_every_second(builder: Any, low: Any, high: Any, first: int) -> Any:
    places = ir.Constant(ir.VectorType(INT, LANES), list(range(first, 2 * LANES, 2)))
    return builder.shuffle_vector(low, high, places)


@intrinsic
def hold_largest(
    typing: Any,
    indices: Any,
    offset: Any,
    count: Any,
    place: Any,
    width: Any,
    top_low: Any,
    top_high: Any,
    bottom_low: Any,
    bottom_high: Any,
) -> Any:
    """The largest of each window of 32 numbers of one row and the 32 below them.

    The first is held, then every one that is greater or NaN, in row-major order.  Writes the
    places of the first `count`, as int64, from `offset` on; `place` is that of the first number
    and `width` the length of a row.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, offset, count, place, width = args[:5]
        steps = ir.Constant(_WORDS, [2 * i for i in range(LANES)])
        held, taken = None, None
        for row in range(2):
            start = builder.add(spread(builder, place, LANES), steps)
            for column in range(2):
                low, high = args[5 + 2 * row : 7 + 2 * row]
                value = _take_every_second(builder, low, high, column)
                here = builder.add(start, ir.Constant(_WORDS, [column] * LANES))
                if held is None:
                    held, taken = value, here
                    continue
                # "Unordered or greater" would also take what follows a NaN that is held.
                wins = builder.or_(
                    builder.fcmp_ordered(">", value, held),
                    builder.fcmp_unordered("uno", value, value),
                )
                held = builder.select(wins, value, held)
                taken = builder.select(wins, here, taken)
            place = builder.add(place, width)
        target = locate(builder, base, offset, _WORDS, 8)
        store_first(builder, taken, target, mask_first(builder, count, LANES), 8, "v16i64")
        return held

    words = (types.int64,) * 4
    return lanes(Address, *words, lanes, lanes, lanes, lanes), generate


@kernel
def max_pool_quads(a: Any) -> None:
    """Windows of two by two, none beyond an edge."""
    x, y, indices, planes, piece = a[1], a[2], a[3], a[4], a[5]
    height, width, out_height, out_width = a[6], a[7], a[8], a[9]
    end = 2 * out_width
    while True:
        first = take_chunk(a) * piece
        if first >= planes:
            break
        for plane in range(first, min(first + piece, planes)):
            source, target = x + 4 * plane * height * width, plane * out_height * out_width
            for i in range(out_height):
                top = source + 8 * i * width
                bottom = top + 4 * width
                for j in range(0, out_width, LANES):
                    held = hold_largest(
                        indices,
                        target + j,
                        out_width - j,
                        2 * (i * width + j),
                        width,
                        take(top, 2 * j, end),
                        take(top, 2 * j + LANES, end),
                        take(bottom, 2 * j, end),
                        take(bottom, 2 * j + LANES, end),
                    )
                    put(y + 4 * target, j, held, out_width)
                target += out_width
