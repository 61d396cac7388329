"""Rows folded to one number, and reductions over any dimensions made of that [E6, E7, E15]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numba
from llvmlite import ir
from numba import float32, types
from numba.extending import intrinsic
from torch import Tensor

from milepost_ml.arithmetic.cpu import lanes, partial
from milepost_ml.arithmetic.cpu.lanes import LANES

_INT: Final = ir.IntType(32)

_inline = numba.njit(error_model="numpy", forceinline=True)

Reduction = Callable[[Tensor, int, int, int], Tensor]
"""Reduces a contiguous tensor, seen as (outer, count, inner), over `count` to (outer * inner,)."""


@_inline
def sum_row(base: int, offset: int, count: int) -> float:
    """[E6] S of consecutive numbers."""
    total = lanes.zeros()
    full = count - count % LANES
    for i in range(0, full, LANES):
        total = lanes.add(total, lanes.load(base, offset + i))
    if full < count:
        total = lanes.add(total, partial.load_part(base, offset + full, count - full))
    return lanes.fold(total)


@intrinsic
def _pad_lowest(typing: Any, value: Any, count: Any) -> Any:
    """The first `count` lanes as they are, the others -infinity."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(_INT, LANES)
        first = builder.insert_element(
            ir.Constant(words, ir.Undefined), builder.trunc(args[1], _INT), ir.Constant(_INT, 0)
        )
        counts = builder.shuffle_vector(first, first, ir.Constant(words, [0] * LANES))
        mask = builder.icmp_signed("<", ir.Constant(words, list(range(LANES))), counts)
        lowest = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [-math.inf] * LANES)
        return builder.select(mask, args[0], lowest)

    return lanes.lanes(lanes.lanes, types.int64), generate


@intrinsic
def _fold_largest(typing: Any, value: Any) -> Any:
    """The largest of the lanes; NaN if one is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (vector,) = args
        half = LANES // 2
        while half:
            kind = ir.VectorType(_INT, half)
            low = builder.shuffle_vector(vector, vector, ir.Constant(kind, list(range(half))))
            rest = ir.Constant(kind, list(range(half, 2 * half)))
            high = builder.shuffle_vector(vector, vector, rest)
            wins = builder.or_(
                builder.fcmp_unordered("uno", low, low), builder.fcmp_ordered(">", low, high)
            )
            vector = builder.select(wins, low, high)
            half //= 2
        return builder.extract_element(vector, ir.Constant(_INT, 0))

    return types.float32(lanes.lanes), generate


@_inline
def find_largest(base: int, offset: int, count: int) -> float:
    """[E15] the largest of consecutive numbers, at least one; a zero is +0."""
    if count >= LANES:
        best = lanes.load(base, offset)
        for i in range(LANES, count - LANES + 1, LANES):
            best = partial.larger(best, lanes.load(base, offset + i))
        # The last sixteen again: an element that is seen twice does not change the largest.
        best = partial.larger(best, lanes.load(base, offset + count - LANES))
    else:
        best = _pad_lowest(partial.load_part(base, offset, count), count)
    return _fold_largest(best) + float32(0)


def reduce_dims(x: Tensor, dims: Sequence[int], reduction: Reduction) -> Tensor:
    """[E7] Adjacent dimensions are reduced as one, the innermost such group first."""
    x = x if x.is_contiguous() else x.contiguous()
    shape = tuple(x.shape)
    last = len(dims)
    while last:
        first = last - 1
        while first and dims[first - 1] == dims[first] - 1:
            first -= 1
        start, stop = dims[first], dims[last - 1] + 1
        outer, inner = shape[:start], shape[stop:]
        x = reduction(x, math.prod(outer), math.prod(shape[start:stop]), math.prod(inner))
        shape = outer + inner
        last = first
    return x.view(shape)
