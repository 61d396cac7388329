"""All sums that tell how one array of weights moved to another, in one walk over both.

Of before a, after b and d = b - a, every one a float64 sum of numbers widened first:

    |d|, |a|, d^2, a^2, b^2, a b, d a, |r(b) - r(a)|        r rounds to a multiple of 2^-24

The order is fixed, so the bits are those of any processor.  A block of BLOCK_VALUES is summed in
eight lanes, number i in lane i mod 8; the lanes are folded; blocks are added from the first on.
Products are added with one rounding.  r(x) is (x + 1.5 * 2^28) - 1.5 * 2^28, where the shifts of b
and a cancel: right for |x| < 2^27, ties to even.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from milepost_ml.arithmetic.cpu.compiled import compile_function, name_by_source
from milepost_ml.arithmetic.cpu.octets import (
    OCTET,
    add,
    add_fold,
    add_product,
    load_doubles,
    load_floats,
    load_some_doubles,
    load_some_floats,
    magnitude,
    prefetch,
    shift,
    subtract,
    zeros,
)

SUMS: Final = 8
"""How many there are, in the order above."""
Sums = ctypes.Array[ctypes.c_double]
BLOCK_VALUES: Final = 32_768
"""4,096 additions a lane: of numbers of one sign, the sum of a block has a relative error below
5e-13."""

_AHEAD_BYTES: Final = 2_048
"""How far ahead memory is asked for; by itself it would come a page at a time."""
_LINE: Final = 2 * OCTET

_inline = numba.njit(error_model="numpy", forceinline=True)


@_inline
def _add_eight(sums: Any, before: Any, after: Any) -> Any:
    moved = subtract(after, before)
    return (
        add(sums[0], magnitude(moved)),
        add(sums[1], magnitude(before)),
        add_product(sums[2], moved, moved),
        add_product(sums[3], before, before),
        add_product(sums[4], after, after),
        add_product(sums[5], before, after),
        add_product(sums[6], moved, before),
        add(sums[7], magnitude(subtract(shift(after, 28), shift(before, 28)))),
    )


@_inline
def _start() -> Any:
    zero = zeros()
    return (zero, zero, zero, zero, zero, zero, zero, zero)


@_inline
def _store(out: int, sums: Any) -> None:
    add_fold(out, 0, sums[0])
    add_fold(out, 1, sums[1])
    add_fold(out, 2, sums[2])
    add_fold(out, 3, sums[3])
    add_fold(out, 4, sums[4])
    add_fold(out, 5, sums[5])
    add_fold(out, 6, sums[6])
    add_fold(out, 7, sums[7])


@name_by_source
def _sum_floats(a: Any) -> None:
    """Two arrays of float32: a[0] and a[1], a[2] numbers each; adds to the float64 at a[3]."""
    before, after, count, out = a[0], a[1], a[2], a[3]
    for first in range(0, count, BLOCK_VALUES):
        stop = min(first + BLOCK_VALUES, count)
        full = stop - (stop - first) % _LINE
        sums = _start()
        for i in range(first, full, _LINE):
            prefetch(before + 4 * i + _AHEAD_BYTES)
            prefetch(after + 4 * i + _AHEAD_BYTES)
            sums = _add_eight(sums, load_floats(before, i), load_floats(after, i))
            i += OCTET
            sums = _add_eight(sums, load_floats(before, i), load_floats(after, i))
        for i in range(full, stop, OCTET):
            left = min(stop - i, OCTET)
            x, y = load_some_floats(before, i, left), load_some_floats(after, i, left)
            sums = _add_eight(sums, x, y)
        _store(out, sums)


@name_by_source
def _sum_doubles(a: Any) -> None:
    """The same of float64."""
    before, after, count, out = a[0], a[1], a[2], a[3]
    for first in range(0, count, BLOCK_VALUES):
        stop = min(first + BLOCK_VALUES, count)
        full = stop - (stop - first) % OCTET
        sums = _start()
        for i in range(first, full, OCTET):
            prefetch(before + 8 * i + _AHEAD_BYTES)
            prefetch(after + 8 * i + _AHEAD_BYTES)
            sums = _add_eight(sums, load_doubles(before, i), load_doubles(after, i))
        if full < stop:
            x = load_some_doubles(before, full, stop - full)
            sums = _add_eight(sums, x, load_some_doubles(after, full, stop - full))
        _store(out, sums)


_compile = functools.cache(compile_function)


def make_sums() -> Sums:
    """SUMS times 0."""
    return (ctypes.c_double * SUMS)()


def add_pair(sums: Sums, before: NDArray[Any], after: NDArray[Any]) -> None:
    """Add the sums of two contiguous vectors of one length, both float32 or both float64.

    Vectors cut at multiples of BLOCK_VALUES give the bits of the whole.  Other Python threads go on
    meanwhile.
    """
    assert before.shape == after.shape == (before.size,)
    assert before.dtype == after.dtype
    assert before.dtype in (np.float32, np.float64)
    assert before.flags.c_contiguous
    assert after.flags.c_contiguous
    places = (before.ctypes.data, after.ctypes.data, before.size, ctypes.addressof(sums))
    arguments = (ctypes.c_int64 * len(places))(*places)
    function = _sum_floats if before.dtype == np.float32 else _sum_doubles
    _compile(function).call(ctypes.addressof(arguments))
