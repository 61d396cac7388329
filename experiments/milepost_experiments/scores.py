"""Precision, recall and F1 over many runs, with intervals that respect that a run is one draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_experiments.experiment import Row
from milepost_experiments.intervals import compute_clopper_pearson

RESAMPLES: Final = 1_000


class Counts(NamedTuple):
    """Intervals of one run: rightly found, wrongly found, missed."""

    hits: int
    false: int
    missed: int


def count(found: frozenset[int], poisoned: frozenset[int]) -> Counts:
    """Compare what was found with the truth."""
    hits = len(found & poisoned)
    return Counts(hits, len(found) - hits, len(poisoned) - hits)


def compute_scores(counts: Sequence[Counts]) -> Row:
    """Precision, recall and F1 of all runs together, each with its 95 % interval.

    The interval is that of a bootstrap over runs (percentiles of RESAMPLES draws, fixed seed),
    because the intervals of one run are not independent of each other.
    """
    table = np.array(counts, dtype=np.int64).reshape(-1, 3)
    chance = np.random.default_rng(len(table))
    drawn = chance.integers(len(table), size=(RESAMPLES, len(table)))
    spread = _compute_ratios(table[drawn].sum(axis=1))
    ends = np.percentile(spread, (2.5, 97.5), axis=0)
    point = _compute_ratios(table.sum(axis=0, keepdims=True))[0]
    row: dict[str, int | float | str] = {
        "models": len(table),
        "poisoned": int(table[:, 0].sum() + table[:, 2].sum()),
        "hits": int(table[:, 0].sum()),
        "false": int(table[:, 1].sum()),
    }
    for k, name in enumerate(("precision", "recall", "f1")):
        row |= {
            name: float(point[k]),
            f"{name}_low": float(ends[0, k]),
            f"{name}_high": float(ends[1, k]),
        }
    return row


def compute_share(hits: int, trials: int) -> Row:
    """A share with its exact 95 % interval."""
    low, high = compute_clopper_pearson(hits, trials)
    return {"models": trials, "caught": hits / trials, "low": low, "high": high}


def _compute_ratios(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    hits, false, missed = sums.T.astype(np.float64)
    return np.stack(
        [
            hits / np.maximum(1, hits + false),
            hits / np.maximum(1, hits + missed),
            2 * hits / np.maximum(1, 2 * hits + false + missed),
        ],
        axis=1,
    )
