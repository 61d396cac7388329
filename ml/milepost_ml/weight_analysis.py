"""What the weights' movement says about a whole run: a report for people.

The replicated part, which intervals are flagged, is `milepost_consensus.flagging` on exact integer
scores; this module adds the paper's four metrics for reading, both rules side by side (`robust`,
Milepost's, and `upper`, the threshold of the Diffusion paper), and where to begin if not all can be
retrained (`milepost_ml.ranking`).  A flag buys an interval more verifiers.  Neither flag nor rank
is evidence of poison, and an interval without them is not acquitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from milepost_consensus.flagging import compute_flags
from milepost_ml.distance import Change, Distances, TensorChange, compute_change
from milepost_ml.files import FolderFiles, get_snapshot_name
from milepost_ml.movement import Tensors
from milepost_ml.ranking import rank_intervals
from milepost_ml.recipe import (
    RATE_UNITS,
    Recipe,
    compute_rate_sum,
    get_frozen_names,
    get_rates,
    get_snapshot_specs,
    get_steps,
)
from milepost_ml.record_files import get_parameters, read_recipe
from milepost_ml.signals import Signals, walk_intervals
from milepost_ml.snapshots import map_tensors

COLUMNS: Final = (
    "interval",
    "steps",
    "absolute",
    "L2",
    "percent",
    "cosine",
    "per rate",
    "robust",
    "upper",
    "rank",
)
"""Headings of `WeightAnalysis.to_rows`."""


class IntervalAnalysis(NamedTuple):
    """How one interval moved the weights."""

    interval: int
    steps: range
    signals: Signals
    change_score: int
    """The replicated score: absolute change in units of 2^-24."""
    tensors: Mapping[str, TensorChange]
    """What each parameter did, by name in sorted order."""
    rate_sum: int
    """Sum of the interval's learning rates in units of 10^-9."""
    robust: bool
    """Flagged by rule `robust`."""
    upper: bool
    """Flagged by rule `upper`."""
    rank: int
    """Place in the order of suspicion, from 1."""

    @property
    def distances(self) -> Distances:
        """The change by the paper's four metrics."""
        return self.signals.distances

    @property
    def change_per_rate(self) -> float:
        """Absolute change divided by the sum of learning rates; 0 where no rate is declared."""
        return self.distances.absolute * RATE_UNITS / self.rate_sum if self.rate_sum else 0.0


class WeightAnalysis(NamedTuple):
    """The intervals of a run in order."""

    intervals: tuple[IntervalAnalysis, ...]

    @property
    def robust(self) -> tuple[int, ...]:
        """The intervals that rule `robust` flags."""
        return tuple(item.interval for item in self.intervals if item.robust)

    @property
    def upper(self) -> tuple[int, ...]:
        """The intervals that rule `upper` flags."""
        return tuple(item.interval for item in self.intervals if item.upper)

    def to_rows(self) -> tuple[tuple[str, ...], ...]:
        """One row of text per interval under the headings COLUMNS."""
        return tuple(
            (
                str(item.interval),
                f"{item.steps.start}-{item.steps.stop}",
                f"{item.distances.absolute:.4g}",
                f"{item.distances.l2:.4g}",
                f"{item.distances.percent:.4g}",
                f"{item.distances.cosine:.3e}",
                f"{item.change_per_rate:.4g}",
                "flag" if item.robust else "",
                "flag" if item.upper else "",
                str(item.rank),
            )
            for item in self.intervals
        )


def analyse_snapshots(
    snapshots: Iterable[Tensors], rates: Sequence[Sequence[float]]
) -> WeightAnalysis:
    """Analyse a run from the parameters at its snapshots.

    `snapshots` yields one mapping more than `rates` has entries; only three are held at a time.
    `rates[k]` are the learning rates of the steps of interval k.  Raises InvalidRecord, slug
    not-finite or wrong-tensors.
    """
    walked = list(walk_intervals(snapshots))
    signals = [each.signals for each in walked]
    scores = [each.change.score for each in walked]
    rate_sums = [compute_rate_sum(part) for part in rates]
    robust = compute_flags(scores, rate_sums, "robust")
    upper = compute_flags(scores, rate_sums, "upper")
    order = rank_intervals(signals, rate_sums)
    intervals, first = [], 0
    for interval, part in enumerate(rates):
        intervals.append(
            IntervalAnalysis(
                interval=interval,
                steps=range(first, first + len(part)),
                signals=signals[interval],
                tensors=walked[interval].change.tensors,
                change_score=scores[interval],
                rate_sum=rate_sums[interval],
                robust=interval in robust,
                upper=interval in upper,
                rank=1 + order.index(interval),
            )
        )
        first += len(part)
    return WeightAnalysis(tuple(intervals))


def analyse_record(folder: Path) -> WeightAnalysis:
    """Analyse the record in a run folder; of its snapshots only pieces are in memory.

    Raises InvalidRecord where the recipe or a snapshot is missing or not what it must be.
    """
    _, recipe = read_recipe(FolderFiles(folder))
    rates = [get_rates(recipe, get_steps(recipe, k)) for k in range(recipe.intervals)]
    snapshots = (_map_parameters(folder, recipe, k) for k in range(recipe.intervals + 1))
    return analyse_snapshots(snapshots, rates)


def analyse_interval(folder: Path, interval: int) -> Change:
    """How one interval of the record in a run folder moved the model and each of its parameters.

    Raises as `analyse_record`.
    """
    _, recipe = read_recipe(FolderFiles(folder))
    return compute_change(
        _map_parameters(folder, recipe, interval), _map_parameters(folder, recipe, interval + 1)
    )


def _map_parameters(folder: Path, recipe: Recipe, snapshot: int) -> dict[str, NDArray[Any]]:
    """The parameters of a snapshot; what no step changes lies in the first one's file."""
    name, first = get_snapshot_name(snapshot), get_snapshot_name(0)
    step = min(snapshot * recipe.steps_per_interval, recipe.steps)
    frozen = get_frozen_names(recipe) if snapshot else frozenset()
    specs = [spec for spec in get_snapshot_specs(recipe, step) if spec.name not in frozen]
    state = map_tensors(folder / name, specs, name=name)
    if frozen:
        start = map_tensors(folder / first, get_snapshot_specs(recipe, 0), name=first)
        state |= {each: start[each] for each in frozen}
    return get_parameters(recipe, state)
