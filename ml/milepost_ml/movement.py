"""What moved from one snapshot to the next, tensor by tensor, in one walk over both.

The sums come from `arithmetic.cpu.pair_sums`.  An array is walked in windows of WINDOW_VALUES from
its first value on, by as many threads as are wanted; each window's sums are added in order.  So
neither the number of threads nor the size of the machine changes a bit, and memory does not grow
with the model: of mapped files, only the windows in work are resident.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_ml import mapped
from milepost_ml.errors import InvalidRecord

Tensors = Mapping[str, NDArray[Any]]

WINDOW_VALUES: Final = 1 << 24
"""A multiple of the block that sums are made of; eight milliseconds of work."""
_PIECE_VALUES: Final = 1 << 18
"""Values that are mapped or widened at a time, for each side and thread; a multiple likewise."""
MAX_THREADS: Final = 2
"""Each holds up to 8 MiB of mapped pages, beside the compiler's 175 MB: the process stays below
200 MB."""
_MIN_SHARE: Final = 1 << 23
"""Values that are worth a thread."""

UNIT_BITS: Final = 24
"""Change scores count in units of 2^-24."""
_MAX_UNITS: Final = 2**61
"""Weights beyond +-2^37 count as +-2^37, so that no difference leaves int64."""
_HALF: Final = 2**32
_SINGLE: Final = {np.dtype(np.float16), np.dtype(np.float32)}
"""Types that float32 holds."""
_EXACT_MOVED: Final = 2.0**28
"""Sums of multiples of 2^-24 below twice this are exact in float64 (one value adds 2^-24 at most,
a window 1)."""
_EXACT_SQUARES: Final = 2.0**52
"""No number is beyond 2^26 then, and all are rounded to multiples of 2^-24 by the kernel's rule."""


class Movement(NamedTuple):
    """Sums over a tensor or a model; a is before, b is after."""

    size: int = 0
    """How many values."""
    absolute: float = 0.0
    """Of |b - a|."""
    weight: float = 0.0
    """Of |a|."""
    moved_2: float = 0.0
    """Of (b - a)^2."""
    before_2: float = 0.0
    """Of a^2."""
    after_2: float = 0.0
    """Of b^2."""
    dot: float = 0.0
    """Of a b."""
    along: float = 0.0
    """Of (b - a) a."""
    units: int | None = 0
    """Of |round(b * 2^24) - round(a * 2^24)|, exact; None where a value is NaN or infinite."""

    def plus(self, other: Movement) -> Movement:
        """The sums over both."""
        return Movement(
            size=self.size + other.size,
            absolute=self.absolute + other.absolute,
            weight=self.weight + other.weight,
            moved_2=self.moved_2 + other.moved_2,
            before_2=self.before_2 + other.before_2,
            after_2=self.after_2 + other.after_2,
            dot=self.dot + other.dot,
            along=self.along + other.along,
            units=None if self.units is None or other.units is None else self.units + other.units,
        )


class _Window(NamedTuple):
    before: NDArray[Any]
    after: NDArray[Any]
    is_mapped: bool


def compute_movements(
    before: Tensors, after: Tensors, *, threads: int | None = None
) -> dict[str, Movement]:
    """The movement of every tensor, by name in sorted order.

    float32 and float64 are read where they lie; other types are widened window by window.  By
    default as many threads as there are processors for this process, at most MAX_THREADS.  Raises
    InvalidRecord, slug wrong-tensors, for differing names or shapes.
    """
    _validate_pair(before, after)
    counts: dict[str, int] = {}
    windows: list[_Window] = []
    for name in sorted(before):
        parts = list(_cut(before[name], after[name]))
        counts[name] = len(parts)
        windows += parts
    found: list[Movement] = [Movement()] * len(windows)
    size = sum(values.size for values in before.values())
    _share(windows, found, min(_count_threads(threads), size // _MIN_SHARE))
    rest = iter(found)
    result = {}
    for name, count in counts.items():
        total = Movement()
        for _ in range(count):
            total = total.plus(next(rest))
        result[name] = total
    return result


def sum_movements(movements: Mapping[str, Movement]) -> Movement:
    """The movement of the whole model, its tensors added in their order."""
    total = Movement()
    for each in movements.values():
        total = total.plus(each)
    return total


def _count_threads(wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    try:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    except AttributeError:  # not every system tells
        return min(os.cpu_count() or 1, MAX_THREADS)


def _share(windows: list[_Window], found: list[Movement], threads: int) -> None:
    todo = iter(enumerate(windows))

    def work() -> None:
        for place, window in todo:  # threads take turns at the same iterator
            found[place] = _sum_window(window)

    if threads < 2:
        work()
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()


def _validate_pair(before: Tensors, after: Tensors) -> None:
    if before.keys() != after.keys():
        odd = ", ".join(sorted(before.keys() ^ after.keys())[:5])
        raise InvalidRecord(
            f"the two snapshots do not hold the same tensors; only one of them has {odd}",
            slug="wrong-tensors",
        )
    for name in sorted(before):
        if before[name].shape != after[name].shape:
            raise InvalidRecord(
                f"{name} has shape {list(before[name].shape)} in one snapshot and"
                f" {list(after[name].shape)} in the next",
                slug="wrong-tensors",
            )


def _cut(before: NDArray[Any], after: NDArray[Any]) -> Iterator[_Window]:
    is_mapped = mapped.is_mapped(before) or mapped.is_mapped(after)
    left, right = before.reshape(-1), after.reshape(-1)
    for start in range(0, left.size, WINDOW_VALUES):
        part = slice(start, start + WINDOW_VALUES)
        yield _Window(left[part], right[part], is_mapped)


def _sum_window(window: _Window) -> Movement:
    from milepost_ml.arithmetic.cpu.pair_sums import add_pair, make_sums

    is_single = {window.before.dtype, window.after.dtype} <= _SINGLE
    dtype = np.dtype(np.float32 if is_single else np.float64)
    sums = make_sums()
    is_plain = all(side.dtype == dtype and side.flags.c_contiguous for side in window[:2])
    whole = is_plain and not window.is_mapped
    for before, after in [window[:2]] if whole else _cut_pieces(window):
        with mapped.paged(before, after):
            add_pair(
                sums,
                np.ascontiguousarray(before, dtype=dtype),
                np.ascontiguousarray(after, dtype=dtype),
            )
    absolute, weight, moved_2, before_2, after_2, dot, along, rounded = sums
    # Also False of NaN.
    if absolute < _EXACT_MOVED and before_2 < _EXACT_SQUARES and after_2 < _EXACT_SQUARES:
        units: int | None = int(math.ldexp(rounded, UNIT_BITS))
    else:
        units = _count_units(window)
    if window.is_mapped:
        mapped.release_around(window.before, window.after)
    return Movement(
        window.before.size, absolute, weight, moved_2, before_2, after_2, dot, along, units
    )


def _cut_pieces(window: _Window) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for start in range(0, window.before.size, _PIECE_VALUES):
        part = slice(start, start + _PIECE_VALUES)
        yield window.before[part], window.after[part]


def _count_units(window: _Window) -> int | None:
    """The exact units of a window whose numbers are too large for sums in float64."""
    total = 0
    for before, after in _cut_pieces(window):
        with mapped.paged(before, after):
            if not (np.isfinite(before).all() and np.isfinite(after).all()):
                return None
            units = _round_units(after)
            units -= _round_units(before)
        np.abs(units, out=units)
        # Halves, because a piece of the largest differences would overflow one int64 sum.
        total += int((units >> 32).sum()) * _HALF + int((units & (_HALF - 1)).sum())
    return total


def _round_units(values: NDArray[Any]) -> NDArray[np.int64]:
    # Scaling by a power of two is exact (or overflows to infinity, which the clip brings back).
    scaled: NDArray[np.float64] = values.astype(np.float64)
    with np.errstate(over="ignore"):
        scaled *= 2.0**UNIT_BITS
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_MAX_UNITS, _MAX_UNITS, out=scaled)
    return scaled.astype(np.int64)
