"""Which intervals to retrain first, when there is time for a few only.

`rank_intervals` orders a run's intervals from the most suspicious to the least.  It is advice for
whoever spends a retraining budget, computed from floating-point signals (`milepost_ml.signals`) on
his own machine.  The ledger knows nothing of it: what is replicated are the integer change scores
and the flags of `milepost_consensus.flagging`.  A rank is no evidence, and no rank acquits: where
all intervals are poisoned, none stands out.

The suspicion of an interval is a sum of robust z-scores within its run:

    |z(L2 / rate)| + max(0, z(inputs)) + max(0, z(outputs))

z is the residual of log2 of the signal from a line in log2(k + 1), fitted by the medians of Theil
and Sen, in units of the median absolute residual (times 1.4826, at least MIN_MAD).  The movement
counts two-sided, because training on poison soon hardly moves; the two concentrations count upwards
only.  Recovery rule: the first clean interval after poison undoes it and moves as much, but back.
An interval with `turn` < RECOVERY, or with `turn` < 0 right after one at least RECOVERY_PART as
suspicious, is put behind all others.  An interval that stands still against its declared rate, or
moves without one, is put before all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from milepost_ml.signals import Signals

BURN_IN: Final = 2
"""Intervals at the start of a run that are not ranked.  One fewer than the ledger leaves unflagged:
a rank costs nothing, a flag costs a sub-quorum."""
MIN_INTERVALS: Final = 8
"""A shorter run has no trend to rank by."""
RECOVERY: Final = -0.3
"""A sharper turn than that is a recovery, whatever came before."""
RECOVERY_PART: Final = 0.5
"""A turn below nought is one if the interval before it is this much as suspicious, or more."""
MIN_MAD: Final = 0.05
"""In log2: steadier runs are not called suspicious for a ripple."""
_NORMAL: Final = 1.4826
"""Makes the median absolute deviation of normal values their standard deviation."""
_TINY: Final = 1e-300
"""Stands for 0 where a logarithm is taken."""


def rank_intervals(signals: Sequence[Signals], rate_sums: Sequence[float]) -> tuple[int, ...]:
    """All intervals of a run, the most suspicious first.

    `rate_sums` are the sums of the intervals' declared learning rates, in any unit.
    """
    suspicion = compute_suspicion(signals, rate_sums)
    return tuple(int(k) for k in np.argsort(-suspicion, kind="stable"))


def compute_suspicion(
    signals: Sequence[Signals], rate_sums: Sequence[float]
) -> NDArray[np.float64]:
    """How unlike its run each interval is: infinite by the zero test, negative for a recovery.

    The first BURN_IN intervals have 0, as all have in a run of fewer than MIN_INTERVALS.
    """
    assert len(signals) == len(rate_sums)
    rates = np.asarray(rate_sums, dtype=np.float64)
    moved = np.array([each.distances.l2 for each in signals], dtype=np.float64)
    trained = (moved > 0) & (rates > 0)
    per_rate = np.divide(moved, rates, out=np.zeros_like(moved), where=trained)
    scores = (
        np.abs(compute_deviations(per_rate, trained))
        + np.maximum(0, compute_deviations([each.inputs for each in signals], trained))
        + np.maximum(0, compute_deviations([each.outputs for each in signals], trained))
    )
    scores = put_recoveries_last(scores, [each.turn for each in signals])
    scores[(moved > 0) != (rates > 0)] = np.inf
    return scores


def compute_deviations(
    values: Sequence[float] | NDArray[np.float64], trained: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Robust z-scores of log2(values) around their trend; 0 for the burn-in and untrained ones."""
    result = np.zeros(len(values))
    fitted = np.flatnonzero(trained & (np.arange(len(values)) >= BURN_IN))
    if len(fitted) < MIN_INTERVALS - BURN_IN:
        return result
    y = np.log2(np.maximum(np.asarray(values, dtype=np.float64)[fitted], _TINY))
    x = np.log2(fitted + 1.0)
    early, late = np.triu_indices(len(fitted), 1)
    rest = y - np.median((y[late] - y[early]) / (x[late] - x[early])) * x
    rest -= np.median(rest)
    result[fitted] = rest / (_NORMAL * max(MIN_MAD, float(np.median(np.abs(rest)))))
    return result


def put_recoveries_last(scores: NDArray[np.float64], turns: Sequence[float]) -> NDArray[np.float64]:
    """The scores with those of recoveries turned below nought, in their order."""
    turn = np.asarray(turns, dtype=np.float64)
    before = np.concatenate([[0.0], scores[:-1]])
    after_suspicious = (turn < 0) & (scores > 0) & (before >= RECOVERY_PART * scores)
    recovery = (turn < RECOVERY) | after_suspicious
    result: NDArray[np.float64] = np.where(recovery, scores - scores.max(initial=0.0) - 1, scores)
    return result
