"""Further cheap signs of how an interval moved the weights: advice for retraining on a budget.

The ledger replicates one number per interval, the integer change score of `milepost_ml.distance`,
and flags by it.  What this module computes is floating point and stays with whoever computes it.
It looks at where the movement went: a small trigger pulls on few inputs, a backdoor on the output
of one class, and the first clean interval after poison undoes what came before.

All functions walk their snapshots once, in blocks of BLOCK_VALUES values, so that memory does not
grow with the model.  The first and the last layer are the first and the last parameter with two or
more dimensions in the mapping's own order, which for a recipe is the model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_ml.distance import BLOCK_VALUES, Distances, Tensors, compute_distances

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


def compute_signals(earlier: Tensors | None, before: Tensors, after: Tensors) -> Signals:
    """The signals of the interval from `before` to `after`; `earlier` is the snapshot before them.

    Raises as `compute_distances`, which all pairs go through first.
    """
    distances = compute_distances(before, after)
    shares = compute_layer_shares(before, after)
    matrices = [name for name in after if after[name].ndim >= 2]
    first, last = (matrices[0], matrices[-1]) if matrices else ("", "")
    size = sum(values.size for values in after.values())
    moved = distances.absolute
    return Signals(
        distances=distances,
        spread=math.sqrt(size) * distances.l2 / moved if moved else 0.0,
        first_share=shares.get(first, 0.0),
        last_share=shares.get(last, 0.0),
        outputs=_compute_line_concentration(before, after, last, axis=1),
        inputs=_compute_line_concentration(before, after, first, axis=0),
        turn=compute_turn(earlier, before, after) if earlier is not None else 0.0,
    )


def compute_run_signals(snapshots: Iterable[Tensors]) -> list[Signals]:
    """The signals of all intervals of a run; only three snapshots are held at a time."""
    signals: list[Signals] = []
    earlier: Tensors | None = None
    before: Tensors | None = None
    for after in snapshots:
        if before is not None:
            signals.append(compute_signals(earlier, before, after))
        earlier, before = before, after
    return signals


def compute_layer_shares(before: Tensors, after: Tensors) -> dict[str, float]:
    """Each parameter's part of the absolute change, in the mapping's order; all 0 if none moved."""
    moved = {
        name: math.fsum(
            float(np.abs(second - first).sum())
            for first, second in _walk(before[name], after[name])
        )
        for name in after
    }
    total = math.fsum(moved.values())
    return {name: part / total if total else 0.0 for name, part in moved.items()}


def compute_turn(earlier: Tensors, before: Tensors, after: Tensors) -> float:
    """The cosine between the movement from `before` to `after` and the one that led to `before`."""
    dot = last_2 = this_2 = 0.0
    for name in after:
        for first, second, third in _walk(earlier[name], before[name], after[name]):
            last, this = second - first, third - second
            dot += _dot(last, this)
            last_2 += _dot(last, last)
            this_2 += _dot(this, this)
    return dot / math.sqrt(last_2) / math.sqrt(this_2) if last_2 and this_2 else 0.0


def compute_concentration(amounts: NDArray[np.float64]) -> float:
    """sqrt(m) * |a|_2 / |a|_1 of m amounts: 1 if all are alike, sqrt(m) if all is in one."""
    total = float(amounts.sum())
    return math.sqrt(amounts.size * _dot(amounts, amounts)) / total if total else 0.0


def _compute_line_concentration(before: Tensors, after: Tensors, name: str, *, axis: int) -> float:
    if name not in after or after[name].ndim != 2 or max(after[name].shape) > MAX_LINES:
        return 0.0
    rows, columns = after[name].shape
    sums = np.zeros(columns if axis == 0 else rows)
    step = max(1, BLOCK_VALUES // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        change = np.abs(np.subtract(after[name][part], before[name][part], dtype=np.float64))
        if axis == 0:
            sums += change.sum(axis=0)
        else:
            sums[part] = change.sum(axis=1)
    return compute_concentration(sums)


def _walk(*tensors: NDArray[Any]) -> Iterator[Sequence[NDArray[np.float64]]]:
    flat = [values.reshape(-1) for values in tensors]
    for start in range(0, flat[0].size, BLOCK_VALUES):
        yield [values[start : start + BLOCK_VALUES].astype(np.float64) for values in flat]


def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    return float(np.einsum("i,i->", left, right))  # as in `distance`: the same on any machine
