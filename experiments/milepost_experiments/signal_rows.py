"""One row per interval of a run, and runs made of such rows again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from milepost_experiments.experiment import Row, Value
from milepost_experiments.poisoned_runs import Plan, Snapshot, Trained
from milepost_ml.distance import PPM, Distances, compute_change_score
from milepost_ml.recipe import RATE_UNITS
from milepost_ml.signals import Signals, compute_run_signals

_METRICS: Final = Distances._fields
_OTHERS: Final = tuple(name for name in Signals._fields if name != "distances")


class SignalRun(NamedTuple):
    """What the analysis knows about a run, and the truth."""

    about: Row
    """Its row of interval 0, for what all intervals share."""
    signals: tuple[Signals, ...]
    rate_sums: tuple[int, ...]
    """In units of 10^-9, as a submission holds them."""
    change_scores: tuple[int, ...]
    reversed_ppm: tuple[int, ...]
    """Weights that moved against their preceding movement, in 10^-6 of all."""
    poisoned: frozenset[int]

    @property
    def share(self) -> float:
        """Share of records that carry the trigger in a poisoned interval."""
        return float(self.about["share"])


def make_rows(about: Row, plan: Plan, trained: Trained) -> list[Row]:
    """The rows of a trained run, each with all of `about`."""
    shots = trained.snapshots
    signals = compute_run_signals(shots)
    scores = [compute_change_score(*pair) for pair in itertools.pairwise(shots)]
    reversed_ppm = [0, *map(compute_reversed_ppm, shots, shots[1:], shots[2:])]
    rows: list[Row] = []
    for k, each in enumerate(signals):
        row: dict[str, Value] = {
            **about,
            "clean_accuracy": trained.clean_accuracy,
            "backdoor_success": trained.backdoor_success,
            "backdoor_at_once": trained.backdoor_at_once,
            "interval": k,
            "poisoned": int(k in plan.poisoned),
            "rate_sum": round(trained.rate_sums[k] * RATE_UNITS),
            "change_score": scores[k],
            "reversed_ppm": reversed_ppm[k],
            **each.distances._asdict(),
            **{name: getattr(each, name) for name in _OTHERS},
        }
        rows.append(row)
    return rows


def make_runs(rows: Sequence[Row]) -> Iterator[SignalRun]:
    """The runs of rows that stand in the order of `make_rows`."""
    for _, group in itertools.groupby(rows, key=lambda row: row["run"]):
        listed = list(group)
        yield SignalRun(
            about=listed[0],
            signals=tuple(_make_signals(row) for row in listed),
            rate_sums=tuple(int(row["rate_sum"]) for row in listed),
            change_scores=tuple(int(row["change_score"]) for row in listed),
            reversed_ppm=tuple(int(row["reversed_ppm"]) for row in listed),
            poisoned=frozenset(int(row["interval"]) for row in listed if row["poisoned"]),
        )


def compute_reversed_ppm(earlier: Snapshot, before: Snapshot, after: Snapshot) -> int:
    """How many weights moved against their preceding movement, in 10^-6 of all: an integer."""
    turned = sum(
        int(((before[name] - earlier[name]) * (after[name] - before[name]) < 0).sum())
        for name in after
    )
    return PPM * turned // sum(np.asarray(values).size for values in after.values())


def _make_signals(row: Row) -> Signals:
    return Signals(
        distances=Distances(*(float(row[name]) for name in _METRICS)),
        **{name: float(row[name]) for name in _OTHERS},
    )
