"""Further cheap signs of how an interval moved the weights: advice for retraining on a budget.

The ledger replicates one number per interval, the integer change score of `milepost_ml.distance`,
and flags by it.  What this module computes is floating point and stays with whoever computes it.
It looks at where the movement went: a small trigger pulls on few inputs, a backdoor on the output
of one class, and the first clean interval after poison undoes what came before.

Snapshots are walked in small pieces, so that memory does not grow with the model, and mapped files
are given back on the way.  The first and the last layer are the first and the last parameter with
two or more dimensions in the mapping's own order, which for a recipe is the model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_ml import mapped
from milepost_ml.distance import Change, Distances, compute_change, compute_length
from milepost_ml.movement import Tensors

BLOCK_VALUES: Final = 32_768
"""Values of a matrix that are widened at a time."""

MAX_LINES: Final = 1 << 20
"""Rows or columns that are told apart (8 MiB of sums); a layer with more has no concentration."""


class Signals(NamedTuple):
    """What one interval's movement d looks like beside its size."""

    distances: Distances
    """The paper's four metrics."""
    spread: float
    """sqrt(n) * |d|_2 / |d|_1: 1 if all n weights moved alike, sqrt(n) if one did; 0 for none."""
    first_share: float
    """The first layer's part of |d|_1."""
    last_share: float
    """The last layer's part of |d|_1."""
    outputs: float
    """Concentration of the last layer's movement on rows (classes), as `compute_concentration`."""
    inputs: float
    """Concentration of the first layer's movement on input columns; 0 unless it is a matrix."""
    turn: float
    """Cosine between this interval's movement and the preceding one's; 0 if either is nought."""


class Interval(NamedTuple):
    """One interval as `walk_intervals` finds it."""

    change: Change
    signals: Signals


def walk_intervals(snapshots: Iterable[Tensors]) -> Iterator[Interval]:
    """All intervals of a run in order; only three snapshots are held at a time.

    Raises as `compute_change`, which all pairs go through first.
    """
    earlier: Tensors | None = None
    before: Tensors | None = None
    length = 0.0
    for after in snapshots:
        if before is not None:
            change = compute_change(before, after)
            both = compute_length(earlier, after) if earlier is not None else 0.0
            turn = compute_turn(length, change.distances.l2, both) if earlier is not None else 0.0
            yield Interval(change, _describe(change, before, after, turn))
            length = change.distances.l2
        earlier, before = before, after


def compute_run_signals(snapshots: Iterable[Tensors]) -> list[Signals]:
    """The signals of all intervals of a run."""
    return [each.signals for each in walk_intervals(snapshots)]


def _describe(change: Change, before: Tensors, after: Tensors, turn: float) -> Signals:
    matrices = [name for name in after if after[name].ndim >= 2]
    first, last = (matrices[0], matrices[-1]) if matrices else ("", "")
    size = sum(values.size for values in after.values())
    moved = change.distances.absolute
    return Signals(
        distances=change.distances,
        spread=math.sqrt(size) * change.distances.l2 / moved if moved else 0.0,
        first_share=change.tensors[first].share if first else 0.0,
        last_share=change.tensors[last].share if last else 0.0,
        outputs=_compute_line_concentration(before, after, last, axis=1),
        inputs=_compute_line_concentration(before, after, first, axis=0),
        turn=turn,
    )


def compute_turn(last: float, this: float, both: float) -> float:
    """The cosine between two movements in a row, from their lengths and that of both together.

    The law of cosines; 0 if either is nought.
    """
    if not last or not this:
        return 0.0
    cosine = (both / last * (both / this) - last / this - this / last) / 2.0
    return min(max(cosine, -1.0), 1.0)


def compute_concentration(amounts: NDArray[np.float64]) -> float:
    """sqrt(m) * |a|_2 / |a|_1 of m amounts: 1 if all are alike, sqrt(m) if all is in one."""
    total = float(amounts.sum())
    return math.sqrt(amounts.size * float((amounts * amounts).sum())) / total if total else 0.0


def _compute_line_concentration(before: Tensors, after: Tensors, name: str, *, axis: int) -> float:
    if name not in after or after[name].ndim != 2 or max(after[name].shape) > MAX_LINES:
        return 0.0
    rows, columns = after[name].shape
    sums = np.zeros(columns if axis == 0 else rows)
    step = max(1, BLOCK_VALUES // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        with mapped.paged(before[name][part], after[name][part]):
            change = np.abs(np.subtract(after[name][part], before[name][part], dtype=np.float64))
        if axis == 0:
            sums += change.sum(axis=0)
        else:
            sums[part] = change.sum(axis=1)
    return compute_concentration(sums)
