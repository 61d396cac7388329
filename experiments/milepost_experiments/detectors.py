"""Ways to call intervals suspicious: thresholds, orders for a retraining budget, a learned one.

A threshold names a set of intervals, a ranker an order of all.  The learned detector is gradient
boosting on robust z-scores of every signal within its run, of the interval and its neighbours on
both sides; it needs no data, only snapshots and declared learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_consensus.flagging import compute_flags
from milepost_experiments.signal_rows import SignalRun
from milepost_ml.ranking import (
    BURN_IN,
    RECOVERY,
    compute_deviations,
    compute_suspicion,
    put_recoveries_last,
)

METRICS: Final = ("absolute", "l2", "percent", "cosine")
CUTOFF: Final = 3.5
"""Robust z-score beyond which our threshold flags (Iglewicz and Hoaglin 1993)."""
_RATE_POWER: Final = {"absolute": 1, "l2": 1, "percent": 1, "cosine": 2}
"""A distance that grows with this power of the learning rate."""
_CONCENTRATIONS: Final = ("spread", "first_share", "last_share", "outputs", "inputs")
_MAX_Z: Final = 50.0
_REACH: Final = 2
"""Neighbours on each side that the learned detector looks at."""
_THRESHOLDS: Final = tuple(each / 20 for each in range(4, 17))

Array = NDArray[np.float64]
Finder = Callable[[SignalRun], frozenset[int]]
Ranker = Callable[[SignalRun], Sequence[int]]


def get_values(run: SignalRun, name: str) -> Array:
    """One signal over the intervals of a run."""
    return np.array(
        [getattr(each.distances if name in METRICS else each, name) for each in run.signals]
    )


def compute_z(run: SignalRun, name: str) -> Array:
    """Robust z-scores of a signal, distances per learning rate; 0 for intervals not trained."""
    values, rates = get_values(run, name), np.array(run.rate_sums, dtype=np.float64)
    trained = (get_values(run, "absolute") > 0) & (rates > 0)
    divisor = np.where(trained, rates, 1.0) ** _RATE_POWER.get(name, 0)
    return compute_deviations(values / divisor, trained)


def find_above_mean(run: SignalRun, name: str) -> frozenset[int]:
    """The paper's dynamic threshold as far as it is described: mean + 2 standard deviations."""
    values = get_values(run, name)
    return _to_set(values > values.mean() + 2 * values.std())


def find_deviating(run: SignalRun, name: str) -> frozenset[int]:
    """Our threshold: per rate, detrended, two-sided; recovery rule; zero test."""
    z, turn = compute_z(run, name), get_values(run, "turn")
    moved = get_values(run, "absolute") > 0
    idle = moved != (np.array(run.rate_sums) > 0)
    return _to_set(idle | ((np.abs(z) > CUTOFF) & (turn >= RECOVERY)))


def find_flags(run: SignalRun) -> frozenset[int]:
    """What the ledger flags: rule robust on integer scores."""
    return frozenset(compute_flags(run.change_scores, run.rate_sums, "robust"))


def find_flags_unless_reversed(run: SignalRun, limit_ppm: int) -> frozenset[int]:
    """The ledger's flags without intervals in which too many weights turned back."""
    return frozenset(k for k in find_flags(run) if run.reversed_ppm[k] <= limit_ppm)


def rank_by_z(run: SignalRun, names: Sequence[str]) -> list[int]:
    """Largest sum of |z| first, recoveries last."""
    scores = sum((np.abs(compute_z(run, name)) for name in names), np.zeros(len(run.signals)))
    return to_order(put_recoveries_last(scores, get_values(run, "turn").tolist()))


def rank_by_suspicion(run: SignalRun) -> list[int]:
    """The order that `milepost_ml.ranking` advises."""
    return to_order(compute_suspicion(run.signals, run.rate_sums))


def to_order(scores: Array) -> list[int]:
    """The intervals from the highest score to the lowest, earlier ones first among equals."""
    return [int(k) for k in np.argsort(-scores, kind="stable")]


def compute_features(run: SignalRun) -> Array:
    """Float [intervals, features]: z-scores, suspicion and turn, with those of the neighbours."""
    columns = [np.clip(compute_z(run, name), -_MAX_Z, _MAX_Z) for name in _SIGNALS]
    suspicion = compute_suspicion(run.signals, run.rate_sums)
    columns += [np.clip(suspicion, -_MAX_Z, _MAX_Z), get_values(run, "turn")]
    padded = np.pad(np.stack(columns), ((0, 0), (_REACH, _REACH)))
    count = len(run.signals)
    return np.concatenate([padded[:, k : k + count] for k in range(2 * _REACH + 1)]).T


_SIGNALS: Final = (*METRICS, *_CONCENTRATIONS)


class Learned(NamedTuple):
    """A trained detector."""

    model: Any
    threshold: float

    def compute_chances(self, run: SignalRun) -> Array:
        """The chance of poison that it gives each interval; 0 for the burn-in."""
        chances: Array = self.model.predict_proba(compute_features(run))[:, 1]
        chances[:BURN_IN] = 0.0
        return chances

    def find(self, run: SignalRun) -> frozenset[int]:
        """The intervals above the threshold."""
        return _to_set(self.compute_chances(run) > self.threshold)

    def rank(self, run: SignalRun) -> list[int]:
        """The most likely first."""
        return to_order(self.compute_chances(run))


def learn(runs: Sequence[SignalRun], *, trees: int) -> Learned:
    """Train on these runs.

    The threshold is the one of best F1 on runs of each depth, judged by detectors that were
    trained on the other depths; 0.5 if there is one depth only.
    """
    depths = sorted({int(run.about["depth"]) for run in runs})
    if len(depths) == 1:
        return Learned(_fit(runs, trees), 0.5)
    chances, truth = [], []
    for depth in depths:
        others = [run for run in runs if run.about["depth"] != depth]
        judge = Learned(_fit(others, trees), 0.0)
        held_out = [run for run in runs if run.about["depth"] == depth]
        chances += [judge.compute_chances(run) for run in held_out]
        truth += [_get_truth(run) for run in held_out]
    judged, true = np.concatenate(chances), np.concatenate(truth)
    best = max(_THRESHOLDS, key=lambda limit: _compute_f1(judged > limit, true))
    return Learned(_fit(runs, trees), best)


def _fit(runs: Sequence[SignalRun], trees: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    features = np.concatenate([compute_features(run)[BURN_IN:] for run in runs])
    truth = np.concatenate([_get_truth(run)[BURN_IN:] for run in runs])
    model = GradientBoostingClassifier(
        n_estimators=trees, max_depth=4, min_samples_leaf=5, subsample=0.7, max_features=0.3,
        random_state=0,
    )  # fmt: skip
    return model.fit(features, truth)


def _get_truth(run: SignalRun) -> NDArray[np.bool_]:
    return np.array([k in run.poisoned for k in range(len(run.signals))])


def _compute_f1(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    hits = int((found & truth).sum())
    return 2 * hits / max(1, int(found.sum()) + int(truth.sum()))


def _to_set(mask: NDArray[np.bool_]) -> frozenset[int]:
    return frozenset(int(k) for k in np.flatnonzero(mask))
