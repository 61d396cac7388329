"""How far training moved the weights: the four metrics of the Diffusion paper, and exact scores.

`compute_distances` gives equations (1) to (4) for reports and the explorer.  `compute_change_score`
gives equation (1) in fixed point; it is an exact integer, so every holder of a record gets the same
number and the ledger can replicate it.  Both walk a pair of snapshots once, in blocks of
BLOCK_VALUES widened to float64: one float32 accumulator stops growing at 2^24 times its addend and
loses most of the sum of a large model.

All functions take mappings from parameter name to float array and need the same names and shapes on
both sides.  Names are visited in sorted order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_ml.errors import InvalidRecord

Tensors = Mapping[str, NDArray[Any]]

BLOCK_VALUES: Final = 32_768
"""Values widened at a time: the work buffers (256 KiB each) stay in the second-level cache."""

SCORE_BITS: Final = 24
"""A change score counts in units of 2^-24."""
MAX_SCORE: Final = 2**63 - 1
"""A larger change score is stored as this one."""
_MAX_UNITS: Final = 2**61
"""Weights beyond +-2^37 count as +-2^37, so that no difference leaves int64."""
_HALF: Final = 2**32
_MAX_SQUARE: Final = 1e300
"""Sums of squares stay below this, so that nothing computed from them overflows."""

PPM: Final = 10**6
PPB: Final = 10**9


class Distances(NamedTuple):
    """The change between two snapshots by the paper's four metrics."""

    absolute: float
    """Equation (1): sum of |after - before|."""
    l2: float
    """Equation (2): Euclidean norm of after - before."""
    percent: float
    """Equation (3): 100 * absolute / sum of |before|."""
    cosine: float
    """Equation (4): one minus the cosine of the angle between the two, 0 to 2."""


def compute_distances(before: Tensors, after: Tensors) -> Distances:
    """The four metrics of the step from `before` to `after`.

    Where a formula has no value we define it.  Percent change from all-zero weights is 0 if nothing
    changed and 100 otherwise (all there is, is change).  Cosine distance is 0 between two zero
    vectors and 1 if one of them is zero (their dot product is that of a right angle).

    Between vectors that are close, equation (4) subtracts two numbers close to 1.  There it is
    evaluated as (|d|^2 - (|b| - |a|)^2) / (2 |a| |b|) with d = b - a and
    |b| - |a| = <d, a + b> / (|a| + |b|): algebraically the same, and equal vectors give exactly 0.

    Raises InvalidRecord, slug not-finite, for NaN, infinity or norms beyond 10^150, and
    wrong-tensors for differing names or shapes.
    """
    absolute = weight = 0.0
    moved_2 = before_2 = after_2 = dot = growth = 0.0
    work = np.empty(BLOCK_VALUES, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for name, first, second in _pairs(before, after):
            change = work[: first.size]
            np.subtract(second, first, out=change)
            moved_2 += _dot(change, change)
            before_2 += _dot(first, first)
            after_2 += _dot(second, second)
            if not moved_2 + before_2 + after_2 < _MAX_SQUARE:  # also true of NaN
                raise _not_finite(name)
            dot += _dot(first, second)
            growth += _dot(change, first) + _dot(change, second)
            absolute += float(np.abs(change, out=change).sum())
            weight += float(np.abs(first, out=first).sum())
    return Distances(
        absolute=absolute,
        l2=math.sqrt(moved_2),
        percent=100.0 * absolute / weight if weight else 100.0 * (absolute > 0),
        cosine=_compute_cosine(before_2, after_2, dot, moved_2=moved_2, growth=growth),
    )


def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    # Not `@`: a BLAS would spread so short a product over threads, whose number then would decide
    # the last bit, and which wait for each other on a busy machine.
    return float(np.einsum("i,i->", left, right))


def _compute_cosine(
    before_2: float, after_2: float, dot: float, *, moved_2: float, growth: float
) -> float:
    if before_2 == 0 or after_2 == 0:
        return float(before_2 != after_2)
    norm_before, norm_after = math.sqrt(before_2), math.sqrt(after_2)
    if moved_2 > norm_before * norm_after:
        cosine = 1.0 - dot / norm_before / norm_after
    else:
        longer = growth / (norm_before + norm_after)
        cosine = (moved_2 - longer * longer) / norm_before / norm_after / 2.0
    return min(max(cosine, 0.0), 2.0)


def compute_change_score(before: Tensors, after: Tensors) -> int:
    """The absolute change in units of 2^-24: sum of |round(b * 2^24) - round(a * 2^24)|.

    Rounding is to the nearest integer, ties to even; weights beyond +-2^37 count as +-2^37; the sum
    is exact and saturates at 2^63 - 1.  Raises as `compute_distances`.
    """
    total = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for name, first, second in _pairs(before, after):
            if not (np.isfinite(first).all() and np.isfinite(second).all()):
                raise _not_finite(name)
            units = _round_units(second)
            units -= _round_units(first)
            np.abs(units, out=units)
            # Halves, because a block of the largest differences would overflow one int64 sum.
            total += int((units >> 32).sum()) * _HALF + int((units & (_HALF - 1)).sum())
    return min(total, MAX_SCORE)


def _round_units(values: NDArray[np.float64]) -> NDArray[np.int64]:
    # Scaling by a power of two is exact (or overflows to infinity, which the clip brings back).
    np.multiply(values, float(2**SCORE_BITS), out=values)
    np.rint(values, out=values)
    np.clip(values, -_MAX_UNITS, _MAX_UNITS, out=values)
    return values.astype(np.int64)


def compute_distance_ppb(
    retrained: Tensors, submitted_end: Tensors, submitted_start: Tensors, *, least: float = 0.0
) -> int:
    """How far retrained tensors end from the submitted ones, in 10^-9 of the movement, rounded up.

    10^9 * |retrained - end| / |end - start| with Euclidean norms over all tensors, at most
    MAX_DISTANCE_PPB; 0 only if the values are equal.  Values that are not finite, or any distance
    from tensors that did not move, are MAX_DISTANCE_PPB.  A movement of less than the share `least`
    of the norm of the end counts as that.
    """
    gap, moved = (
        _compute_norm(submitted_end, retrained),
        _compute_norm(submitted_start, submitted_end),
    )
    if gap == 0:
        return 0
    if not moved or not math.isfinite(gap) or not math.isfinite(moved):
        return MAX_DISTANCE_PPB
    if least:
        origin = {name: np.zeros_like(array) for name, array in submitted_end.items()}
        moved = max(moved, least * _compute_norm(origin, submitted_end))
    return math.ceil(min(PPB * (gap / moved), float(MAX_DISTANCE_PPB)))


def _compute_norm(before: Tensors, after: Tensors) -> float:
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for _, first, second in _pairs(before, after):
            second -= first
            total += _dot(second, second)
    return math.sqrt(total)


def _pairs(
    before: Tensors, after: Tensors
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Blocks of both sides as fresh-to-use float64 vectors, overwritten by the next block."""
    if before.keys() != after.keys():
        odd = ", ".join(sorted(before.keys() ^ after.keys())[:5])
        raise InvalidRecord(
            f"the two snapshots do not hold the same tensors; only one of them has {odd}",
            slug="wrong-tensors",
        )
    first = np.empty(BLOCK_VALUES, dtype=np.float64)
    second = np.empty(BLOCK_VALUES, dtype=np.float64)
    for name in sorted(before):
        if before[name].shape != after[name].shape:
            raise InvalidRecord(
                f"{name} has shape {list(before[name].shape)} in one snapshot and"
                f" {list(after[name].shape)} in the next",
                slug="wrong-tensors",
            )
        left, right = before[name].reshape(-1), after[name].reshape(-1)
        for start in range(0, left.size, BLOCK_VALUES):
            size = min(BLOCK_VALUES, left.size - start)
            first[:size] = left[start : start + size]
            second[:size] = right[start : start + size]
            yield name, first[:size], second[:size]


def _not_finite(name: str) -> InvalidRecord:
    return InvalidRecord(
        f"{name} holds NaN, infinity or a value too large to square: training diverged at or before"
        " this snapshot",
        slug="not-finite",
    )
