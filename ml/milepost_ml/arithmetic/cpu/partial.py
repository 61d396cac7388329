"""Vectors that are only partly full, and lane operations of layers and optimizers.

Rows end where they end, not at a multiple of sixteen.  The lanes past the end are read as +0 and
never written; a partial sum of [E6] is never -0, so adding +0 to it changes nothing.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from milepost_ml.arithmetic.cpu.lanes import LANES, lanes, load, store
from milepost_ml.arithmetic.cpu.vectors import (
    INT,
    WORD,
    Address,
    declare,
    load_first,
    locate,
    mask_first,
    store_first,
)

CANONICAL_NAN: Final = 0x7FC00000
"""The one NaN that is stored [E2]."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


@intrinsic
def load_part(typing: Any, base: Any, offset: Any, count: Any) -> Any:
    """The first `count` of sixteen consecutive numbers; the other lanes are +0 and not read."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = locate(builder, args[0], args[1], _VECTOR, 4)
        return load_first(builder, place, mask_first(builder, args[2], LANES), 4, "v16f32")

    return lanes(Address, Address, types.int64), generate


@intrinsic
def store_part(typing: Any, base: Any, offset: Any, value: Any, count: Any) -> Any:
    """Write the first `count` lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = locate(builder, args[0], args[1], _VECTOR, 4)
        store_first(builder, args[2], place, mask_first(builder, args[3], LANES), 4, "v16f32")
        return context.get_dummy_value()

    return types.void(Address, Address, lanes, types.int64), generate


@intrinsic
def keep_part(typing: Any, value: Any, count: Any) -> Any:
    """The first `count` lanes as they are, the others +0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rest = ir.Constant(_VECTOR, [0.0] * LANES)
        return builder.select(mask_first(builder, args[1], LANES), args[0], rest)

    return lanes(lanes, types.int64), generate


@intrinsic
def root(typing: Any, value: Any) -> Any:
    """The square root of one float32, correctly rounded."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(declare(builder, "llvm.sqrt.f32", _FLOAT, [_FLOAT]), args)

    return types.float32(types.float32), generate


@intrinsic
def roots(typing: Any, value: Any) -> Any:
    """Lane by lane the square root, correctly rounded."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(declare(builder, "llvm.sqrt.v16f32", _VECTOR, [_VECTOR]), args)

    return lanes(lanes), generate


def _canonical(builder: Any, value: Any) -> Any:
    words = ir.VectorType(INT, LANES)
    nan = builder.bitcast(ir.Constant(words, [CANONICAL_NAN] * LANES), _VECTOR)
    return builder.select(builder.fcmp_unordered("uno", value, value), nan, value)


@intrinsic
def canonical(typing: Any, value: Any) -> Any:
    """Every NaN as the one that is stored [E2]; other numbers as they are."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _canonical(builder, args[0])

    return lanes(lanes), generate


@intrinsic
def larger(typing: Any, left: Any, right: Any) -> Any:
    """Lane by lane `maximum` of [E15]: NaN if either is, left if left > right, else right."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right = args
        # Unordered comparison: a NaN on the left is taken, too; one on the right is right's turn.
        wins = builder.fcmp_unordered("uno", left, left)
        wins = builder.or_(wins, builder.fcmp_ordered(">", left, right))
        return builder.select(wins, left, right)

    return lanes(lanes, lanes), generate


@intrinsic
def fold_sixteen(typing: Any, base: Any) -> Any:
    """Lane k is the `fold` of the k-th of sixteen consecutive vectors of sixteen numbers.

    Two vectors share each addition, so that this takes a third of the work of sixteen folds.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = [
            builder.load(
                locate(builder, args[0], ir.Constant(WORD, LANES * i), _VECTOR, 4), align=4
            )
            for i in range(LANES)
        ]
        half = LANES // 2
        while half:
            starts = range(0, 2 * LANES, 2 * half)
            kind = ir.VectorType(INT, LANES)
            low = ir.Constant(kind, [s + i for s in starts for i in range(half)])
            high = ir.Constant(kind, [s + half + i for s in starts for i in range(half)])
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
                for a, b in pairs
            ]
            half //= 2
        return vectors[0]

    return lanes(Address), generate


@intrinsic
def fold_across(typing: Any, base: Any) -> Any:
    """Lane by lane the fold of sixteen consecutive vectors: k + (k+8), then k + (k+4), ..."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = [
            builder.load(
                locate(builder, args[0], ir.Constant(WORD, LANES * i), _VECTOR, 4), align=4
            )
            for i in range(LANES)
        ]
        while len(vectors) > 1:
            half = len(vectors) // 2
            pairs = zip(vectors[:half], vectors[half:], strict=True)
            vectors = [builder.fadd(low, high) for low, high in pairs]
        return vectors[0]

    return lanes(Address), generate


@intrinsic
def sixteen_vectors(typing: Any) -> Any:
    """The address of room for sixteen vectors on this thread's stack."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(cgutils.alloca_once(builder, _VECTOR, size=LANES), WORD)

    return types.int64(), generate


@register_jitable
def take(base: Any, offset: Any, end: Any) -> Any:
    """Sixteen numbers of a row that ends at `end`, +0 past it."""
    if offset + LANES <= end:
        return load(base, offset)
    return load_part(base, offset, end - offset)


@register_jitable
def put(base: Any, offset: Any, value: Any, end: Any) -> None:
    """Write sixteen numbers of a row that ends at `end`, none past it."""
    if offset + LANES <= end:
        store(base, offset, value)
    else:
        store_part(base, offset, value, end - offset)


@register_jitable
def keep(value: Any, offset: Any, end: Any) -> Any:
    """What was computed from sixteen numbers of a row that ends at `end`, +0 past it."""
    if offset + LANES <= end:
        return value
    return keep_part(value, end - offset)


def compute_share(count: int) -> int:
    """How many of `count` neighbours make one piece, so that each thread gets one piece.

    Few large pieces: cache lines that another core wrote last cost more than an uneven end.
    """
    return max(1, -(-count // torch.get_num_threads()))
