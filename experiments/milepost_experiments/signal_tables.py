"""The tables of the weight analysis: from the signals of runs to what they are good for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import comb
from typing import Final

from milepost_consensus.verdicts import compute_miss_ppm
from milepost_experiments.detectors import (
    METRICS,
    Finder,
    Learned,
    Ranker,
    find_above_mean,
    find_deviating,
    find_flags,
    find_flags_unless_reversed,
    rank_by_suspicion,
    rank_by_z,
)
from milepost_experiments.experiment import Row, Table
from milepost_experiments.run_plans import SCENARIOS
from milepost_experiments.scores import compute_scores, compute_share, count
from milepost_experiments.signal_rows import SignalRun
from milepost_ml.distance import PPM

BUDGETS: Final = (1, 2, 3, 5)
REVERSAL_LIMITS: Final = (550_000, 600_000, 650_000, 700_000)
NOT_LOW: Final = 0.05
"""Shares of poison from here on are pooled; 1 % is told apart."""

Runs = Sequence[SignalRun]
Group = tuple[str, Callable[[SignalRun], bool]]


def make_threshold_table(runs: Runs, learned: Learned) -> Table:
    """Precision, recall and F1 per interval: the paper's Table II, and more."""
    rows: list[Row] = []
    for method, threshold, find in _list_finders(learned):
        for name, belongs in _make_groups(runs):
            counts = [count(find(run), run.poisoned) for run in runs if belongs(run)]
            rows.append(
                {"method": method, "threshold": threshold, "runs": name, **compute_scores(counts)}
            )
    return _make_table(("method", "threshold", "runs"), rows)


def make_budget_table(runs: Runs, learned: Learned) -> Table:
    """The share of poisoned models of which one of the first b ranked intervals is poisoned."""
    rankers: dict[str, Ranker] = {
        "absolute": partial(rank_by_z, names=("absolute",)),
        "absolute + L2 + inputs": partial(rank_by_z, names=("absolute", "l2", "inputs")),
        "ranking": rank_by_suspicion,
        "learned": learned.rank,
    }
    orders = {name: [rank(run) for run in runs] for name, rank in rankers.items()}
    rows: list[Row] = []
    for group, belongs in _make_groups(runs):
        chosen = [k for k, run in enumerate(runs) if belongs(run)]
        for budget in BUDGETS:
            about: Row = {"runs": group, "budget": budget}
            for name, order in orders.items():
                hits = sum(not runs[k].poisoned.isdisjoint(order[k][:budget]) for k in chosen)
                rows.append({"ranker": name, **about, **compute_share(hits, len(chosen))})
            blind = sum(compute_random_hit(runs[k], budget) for k in chosen) / len(chosen)
            ends = {"caught": blind, "low": blind, "high": blind}
            rows.append({"ranker": "random (exact)", **about, "models": len(chosen), **ends})
    return _make_table(("ranker", "runs", "budget"), rows)


def make_accuracy_table(runs: Runs) -> Table:
    """Accuracy on clean test data, and how well the backdoor works."""
    rows = [
        {"data": data, "runs": name, "models": len(chosen), **_average(chosen)}
        for data in _list_values(runs, "data")
        for name, belongs in _make_groups(runs)
        if (chosen := [run for run in runs if run.about["data"] == data and belongs(run)])
    ]
    return _make_table(("data", "runs"), rows)


def make_recovery_table(splits: Mapping[str, Runs]) -> Table:
    """Whether an integer recovery rule would improve the ledger's flags."""
    finders: dict[str, Finder] = {"none": find_flags}
    for limit in REVERSAL_LIMITS:
        finders[f"reversed > {limit // 10_000} %"] = partial(
            find_flags_unless_reversed, limit_ppm=limit
        )
    rows: list[Row] = []
    for split, runs in splits.items():
        for name, find in finders.items():
            scores = compute_scores([count(find(run), run.poisoned) for run in runs])
            rows.append({"split": split, "rule": name, **scores})
    return _make_table(("split", "rule"), rows)


def make_false_alarm_table(runs: Runs, learned: Learned) -> Table:
    """Intervals of clean runs that are called poisoned."""
    rows: list[Row] = []
    for method, threshold, find in _list_finders(learned):
        total = sum(len(run.signals) for run in runs)
        false = sum(len(find(run)) for run in runs)
        rows.append(
            {
                "method": method,
                "threshold": threshold,
                "models": len(runs),
                "intervals": total,
                "false": false,
                "share": false / total,
            }
        )
    return _make_table(("method", "threshold"), rows)


def make_blind_table(cases: Mapping[str, Runs], learned: Learned) -> Table:
    """Cases that the analysis sees badly or not at all, and what audits do there."""
    rows: list[Row] = []
    for case, runs in cases.items():
        rows.append(
            {
                "case": case,
                "models": len(runs),
                **_average(runs),
                "flagged": _share(runs, lambda run: not run.poisoned.isdisjoint(find_flags(run))),
                "flagged_share": sum(len(find_flags(run) & run.poisoned) for run in runs)
                / sum(len(run.poisoned) for run in runs),
                "ranked_1": _share(runs, lambda run: rank_by_suspicion(run)[0] in run.poisoned),
                "ranked_3": _share(
                    runs, lambda run: not run.poisoned.isdisjoint(rank_by_suspicion(run)[:3])
                ),
                "learned": _share(runs, lambda run: not run.poisoned.isdisjoint(learned.find(run))),
                **{
                    f"audits_{audits}": sum(compute_audit_hit(run, audits) for run in runs)
                    / len(runs)
                    for audits in (1, 3, 12)
                },
                "all": 1.0,
            }
        )
    return _make_table(("case",), rows)


def compute_random_hit(run: SignalRun, budget: int) -> float:
    """The chance that `budget` intervals drawn blindly contain a poisoned one."""
    total = len(run.signals)
    return 1 - comb(total - len(run.poisoned), budget) / comb(total, budget)


def compute_audit_hit(run: SignalRun, audits: int) -> float:
    """The chance that audits catch the run: first and last interval, and others at random."""
    last = len(run.signals) - 1
    if run.poisoned & {0, last}:
        return 1.0
    return 1 - compute_miss_ppm(last - 1, audits, len(run.poisoned)) / PPM


def _list_finders(learned: Learned) -> list[tuple[str, str, Finder]]:
    """Method, threshold and what it finds."""
    metrics: list[tuple[str, str, Finder]] = [
        (name, threshold, partial(find, name=name))
        for threshold, find in (("paper", find_above_mean), ("ours", find_deviating))
        for name in METRICS
    ]
    return [
        *metrics,
        ("change score", "ledger", find_flags),
        ("all signals", "learned", learned.find),
    ]


def _make_groups(runs: Runs) -> Iterator[Group]:
    yield "all", lambda run: True
    yield ">= 5 %", lambda run: run.share >= NOT_LOW
    for share in sorted({run.share for run in runs}):
        yield f"{share:.0%}", lambda run, share=share: run.share == share  # type: ignore[misc]
    for scenario in SCENARIOS:
        yield (
            f"{scenario}, >= 5 %",
            lambda run, name=scenario: (  # type: ignore[misc]
                run.about["scenario"] == name and run.share >= NOT_LOW
            ),
        )
    for name, constant in (("constant rate", True), ("scheduled rate", False)):
        yield (
            f"{name}, >= 5 %",
            lambda run, constant=constant: (  # type: ignore[misc]
                (run.about["schedule"] == "constant") == constant and run.share >= NOT_LOW
            ),
        )
    for data in _list_values(runs, "data"):
        yield (
            f"{data}, >= 5 %",
            lambda run, data=data: (  # type: ignore[misc]
                run.about["data"] == data and run.share >= NOT_LOW
            ),
        )


def _list_values(runs: Runs, column: str) -> list[str]:
    return list(dict.fromkeys(str(run.about[column]) for run in runs))


def _average(runs: Runs) -> Row:
    return {
        name: sum(float(run.about[name]) for run in runs) / len(runs)
        for name in ("clean_accuracy", "backdoor_at_once", "backdoor_success")
    }


def _share(runs: Runs, holds: Callable[[SignalRun], bool]) -> float:
    return sum(map(holds, runs)) / len(runs)


def _make_table(first: tuple[str, ...], rows: Sequence[Row]) -> Table:
    others = tuple(name for name in rows[0] if name not in first) if rows else ()
    return Table((*first, *others), rows)
