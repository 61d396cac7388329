"""Sixteen lines of numbers turned into lanes, and back.

A line is a run of consecutive numbers: the row of a matrix, the plane of an image.  Turned, the
sixteen numbers at one position of sixteen lines lie side by side, as one `Lanes`.  Nothing is
computed here.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from milepost_ml.arithmetic.cpu.lanes import LANES, load_index, load_one, store_one

_VECTOR: Final = ir.VectorType(ir.FloatType(), LANES)
_WORD: Final = ir.IntType(64)


def _turn(builder: Any, vectors: list[Any]) -> list[Any]:
    """Rows to columns: the halves of the list are dealt together like cards, four times."""
    kind = ir.VectorType(ir.IntType(32), LANES)
    half = LANES // 2
    low = ir.Constant(kind, [i // 2 + LANES * (i % 2) for i in range(LANES)])
    high = ir.Constant(kind, [half + i // 2 + LANES * (i % 2) for i in range(LANES)])
    for _ in range(4):
        vectors = [
            builder.shuffle_vector(vectors[i], vectors[i + half], order)
            for i in range(half)
            for order in (low, high)
        ]
    return vectors


def _find_lines(builder: Any, base: Any, line: Any, lines: Any, spare: Any) -> list[Any]:
    """Pointers to sixteen lines, those from `lines` on to `spare`."""
    size = builder.mul(line, ir.Constant(_WORD, 4))
    places = []
    for i in range(LANES):
        number = ir.Constant(_WORD, i)
        there = builder.icmp_signed("<", number, lines)
        place = builder.select(there, builder.add(base, builder.mul(size, number)), spare)
        places.append(builder.inttoptr(place, _VECTOR.as_pointer()))
    return places


@intrinsic
def _turn_in(typing: Any, base: Any, line: Any, lines: Any, spare: Any, out: Any, to: Any) -> Any:
    """Sixteen numbers of sixteen lines; number j goes to `out` + the j-th int64 at `to`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, line, lines, spare, out, to = args
        places = _find_lines(builder, base, line, lines, spare)
        vectors = _turn(builder, [builder.load(place, align=4) for place in places])
        for j, vector in enumerate(vectors):
            entry = builder.add(to, ir.Constant(_WORD, 8 * j))
            offset = builder.load(builder.inttoptr(entry, _WORD.as_pointer()), align=8)
            place = builder.add(out, builder.mul(offset, ir.Constant(_WORD, 4)))
            builder.store(vector, builder.inttoptr(place, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@intrinsic
def _turn_out(typing: Any, lanes: Any, base: Any, line: Any, lines: Any, spare: Any) -> Any:
    """Sixteen consecutive `Lanes` to sixteen numbers of each of sixteen lines."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes, base, line, lines, spare = args
        vectors = []
        for j in range(LANES):
            place = builder.add(lanes, ir.Constant(_WORD, 4 * LANES * j))
            vectors.append(builder.load(builder.inttoptr(place, _VECTOR.as_pointer()), align=4))
        places = _find_lines(builder, base, line, lines, spare)
        for place, vector in zip(places, _turn(builder, vectors), strict=True):
            builder.store(vector, place, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@njit(error_model="numpy")
def turn_in(
    base: Any, line: Any, lines: Any, count: Any, zeros: Any, out: Any, to: Any, stride: Any
) -> None:
    """`count` numbers of each of `lines` <= 16 lines that lie `line` numbers apart, to lanes.

    Number q goes to `out` + the q-th int64 at `to` (counted in float32) where `stride` is 0.  Where
    it is not, `to` holds 0, stride, ... 15 * stride, and number q goes to `out` + q * stride.
    Absent lines become zeros, read at `zeros`.
    """
    for block in range(0, count, LANES):
        q = block
        if q + LANES > count:
            q = count - LANES  # some are written twice
        if q >= 0:
            entry = to if stride else to + 8 * q
            _turn_in(base + 4 * q, line, lines, zeros, out + 4 * stride * q, entry)
        else:
            for k in range(count):
                offset = load_index(to, k)
                for i in range(LANES):
                    value = load_one(base, i * line + k) if i < lines else load_one(zeros, 0)
                    store_one(out, offset + i, value)


@njit(error_model="numpy")
def turn_out(lanes: Any, base: Any, line: Any, lines: Any, count: Any, spare: Any) -> None:
    """The inverse: `count` consecutive `Lanes` to lines; absent lines go to 16 numbers, `spare`."""
    for block in range(0, count, LANES):
        q = block
        if q + LANES > count:
            q = count - LANES
        if q >= 0:
            _turn_out(lanes + 4 * LANES * q, base + 4 * q, line, lines, spare)
        else:
            for k in range(count):
                for i in range(lines):
                    store_one(base, i * line + k, load_one(lanes, k * LANES + i))
