"""How far training moved the weights: the four metrics of the Diffusion paper, and exact scores.

All of it follows from one walk over a pair of snapshots (`milepost_ml.movement`).  `Distances` are
equations (1) to (4) for reports and the explorer; the change score is equation (1) in fixed point,
an exact integer, so every holder of a record gets the same number and the ledger can replicate it.

All functions take mappings from parameter name to float array and need the same names and shapes on
both sides.  Names are visited in sorted order.  `threads` changes no bit; by default as many as
there are processors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_ml.errors import InvalidRecord
from milepost_ml.movement import Movement, Tensors, compute_movements, sum_movements

MAX_SCORE: Final = 2**63 - 1
"""A larger change score is stored as this one."""
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


class TensorChange(NamedTuple):
    """What one tensor did while the model changed."""

    size: int
    """How many values it holds."""
    distances: Distances
    share: float
    """Its part of the model's absolute change; 0 if nothing changed."""
    score: int
    """As `Change.score`, of this tensor alone."""


class Change(NamedTuple):
    """Everything that one walk over a pair of snapshots tells."""

    distances: Distances
    score: int
    """Absolute change in units of 2^-24: sum of |round(b * 2^24) - round(a * 2^24)|."""
    tensors: Mapping[str, TensorChange]
    """By name, in sorted order."""


def compute_change(before: Tensors, after: Tensors, *, threads: int | None = None) -> Change:
    """Metrics and score of the step from `before` to `after`, and of every tensor by itself.

    Raises as `compute_distances`.
    """
    movements = compute_movements(before, after, threads=threads)
    _validate_finite(movements)
    total = sum_movements(movements)
    distances = _measure(total)
    moved = distances.absolute
    tensors = {
        name: TensorChange(
            size=each.size,
            distances=_measure(each),
            share=each.absolute / moved if moved else 0.0,
            score=_get_score(each),
        )
        for name, each in movements.items()
    }
    return Change(distances, _get_score(total), tensors)


def compute_distances(before: Tensors, after: Tensors, *, threads: int | None = None) -> Distances:
    """The four metrics of the step from `before` to `after`.

    Where a formula has no value we define it.  Percent change from all-zero weights is 0 if nothing
    changed and 100 otherwise (all there is, is change).  Cosine distance is 0 between two zero
    vectors and 1 if one of them is zero (their dot product is that of a right angle).

    Between vectors that are close, equation (4) subtracts two numbers close to 1.  There it is
    evaluated as (|d|^2 - (|b| - |a|)^2) / (2 |a| |b|) with d = b - a and
    |b| - |a| = (2 <d, a> + |d|^2) / (|a| + |b|): algebraically the same, and equal vectors give
    exactly 0.

    Up to 10^9 weights the relative error of the first three is below 2 * 10^-12, and the error of
    the fourth below 10^-11 * min(1, |d|^2 / (|a| |b|)).

    Raises InvalidRecord, slug not-finite, for NaN, infinity or norms beyond 10^150, and
    wrong-tensors for differing names or shapes.
    """
    movements = compute_movements(before, after, threads=threads)
    _validate_finite(movements)
    return _measure(sum_movements(movements))


def compute_change_score(before: Tensors, after: Tensors, *, threads: int | None = None) -> int:
    """The absolute change in units of 2^-24: sum of |round(b * 2^24) - round(a * 2^24)|.

    Rounding is to the nearest integer, ties to even; weights beyond +-2^37 count as +-2^37; the sum
    is exact and saturates at 2^63 - 1.  Raises InvalidRecord, slug not-finite, for NaN and
    infinity, and wrong-tensors as `compute_distances`.
    """
    movements = compute_movements(before, after, threads=threads)
    for name, each in movements.items():
        if each.units is None:
            raise _not_finite(name)
    return _get_score(sum_movements(movements))


def compute_distance_ppb(
    retrained: Tensors, submitted_end: Tensors, submitted_start: Tensors, *, least: float = 0.0
) -> int:
    """How far retrained tensors end from the submitted ones, in 10^-9 of the movement, rounded up.

    10^9 * |retrained - end| / |end - start| with Euclidean norms over all tensors, at most
    MAX_DISTANCE_PPB; 0 only if the values are equal.  Values that are not finite, or any distance
    from tensors that did not move, are MAX_DISTANCE_PPB.  A movement of less than the share `least`
    of the norm of the end counts as that.
    """
    gap = compute_length(submitted_end, retrained)
    if gap == 0:
        return 0
    movement = sum_movements(compute_movements(submitted_start, submitted_end))
    moved = math.sqrt(movement.moved_2)
    if not moved or not math.isfinite(gap) or not math.isfinite(moved):
        return MAX_DISTANCE_PPB
    moved = max(moved, least * math.sqrt(movement.after_2))
    return math.ceil(min(PPB * (gap / moved), float(MAX_DISTANCE_PPB)))


def compute_length(before: Tensors, after: Tensors) -> float:
    """Equation (2) alone; NaN or infinite where a value is, or where it overflows."""
    return math.sqrt(sum_movements(compute_movements(before, after)).moved_2)


def _measure(movement: Movement) -> Distances:
    absolute, weight = movement.absolute, movement.weight
    return Distances(
        absolute=absolute,
        l2=math.sqrt(movement.moved_2),
        percent=100.0 * absolute / weight if weight else 100.0 * (absolute > 0),
        cosine=_compute_cosine(movement),
    )


def _compute_cosine(movement: Movement) -> float:
    if movement.before_2 == 0 or movement.after_2 == 0:
        return float(movement.before_2 != movement.after_2)
    before, after = math.sqrt(movement.before_2), math.sqrt(movement.after_2)
    if movement.moved_2 > before * after:
        cosine = 1.0 - movement.dot / before / after
    else:
        longer = (2.0 * movement.along + movement.moved_2) / (before + after)
        cosine = (movement.moved_2 - longer * longer) / before / after / 2.0
    return min(max(cosine, 0.0), 2.0)


def _get_score(movement: Movement) -> int:
    assert movement.units is not None, "checked to be finite"
    return min(movement.units, MAX_SCORE)


def _validate_finite(movements: Mapping[str, Movement]) -> None:
    squares = 0.0
    for name, each in movements.items():
        squares += each.moved_2 + each.before_2 + each.after_2
        if not squares < _MAX_SQUARE:  # also true of NaN
            raise _not_finite(name)


def _not_finite(name: str) -> InvalidRecord:
    return InvalidRecord(
        f"{name} holds NaN, infinity or a value too large to square: training diverged at or before"
        " this snapshot",
        slug="not-finite",
    )
