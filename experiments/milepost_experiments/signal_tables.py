"""The tables of the weight analysis: from the signals of runs to what they are good for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import comb
from typing import Final

from milepost_consensus.audits import compute_miss_ppm
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
from milepost_experiments.scores import Counts, compute_scores, compute_share, count
from milepost_experiments.signal_rows import SignalRun
from milepost_ml.distance import PPM

BUDGETS: Final = (1, 2, 3, 5)
REVERSAL_LIMITS: Final = (550_000, 600_000, 650_000, 700_000)
NOT_LOW: Final = 0.05
"""Shares of poison from here on are pooled; 1 % is told apart."""
POOLED: Final = ">= 5 %"

Runs = Sequence[SignalRun]


def make_threshold_table(runs: Runs, learned: Learned) -> Table:
    """Precision, recall and F1 per interval: the paper's Table II, and more."""
    rows: list[Row] = []
    for method, threshold, find in _list_finders(learned):
        counts = [count(find(run), run.poisoned) for run in runs]
        for name, chosen in _make_groups(runs).items():
            scores = compute_scores([counts[k] for k in chosen])
            rows.append({"method": method, "threshold": threshold, "runs": name, **scores})
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
    for group, chosen in _make_groups(runs).items():
        for budget in BUDGETS:
            about: Row = {"runs": group, "budget": budget}
            for name, order in orders.items():
                hits = sum(not runs[k].poisoned.isdisjoint(order[k][:budget]) for k in chosen)
                rows.append({"ranker": name, **about, **compute_share(hits, len(chosen))})
            blind = sum(compute_random_hit(runs[k], budget) for k in chosen) / len(chosen)
            ends = {"caught": blind, "low": blind, "high": blind}
            rows.append({"ranker": "random (exact)", **about, "models": len(chosen), **ends})
    return _make_table(("ranker", "runs", "budget"), rows)


def make_learned_table(splits: Mapping[str, Runs], detectors: Mapping[str, Learned]) -> Table:
    """The detector learned on either split and judged on the other, and both together."""
    rows: list[Row] = []
    both: list[Counts] = []
    for split, runs in splits.items():
        learned = detectors[split]
        counts = [count(learned.find(run), run.poisoned) for run in runs]
        both += counts
        about: Row = {"judged_on": split, "threshold": learned.threshold}
        rows.append({**about, **compute_scores(counts)})
    rows.append({"judged_on": "both", "threshold": "", **compute_scores(both)})
    return _make_table(("judged_on", "threshold"), rows)


def make_accuracy_table(runs: Runs) -> Table:
    """Accuracy on clean test data, and how well the backdoor works."""
    rows: list[Row] = []
    for data in _list_values(runs, "data"):
        part = [run for run in runs if run.about["data"] == data]
        for name, chosen in _make_groups(part).items():
            averages = _average([part[k] for k in chosen])
            rows.append({"data": data, "runs": name, "models": len(chosen), **averages})
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
                "all": sum(compute_audit_hit(run, len(run.signals) - 2) for run in runs)
                / len(runs),
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


def _make_groups(runs: Runs) -> dict[str, list[int]]:
    """Positions of the runs that belong together, by name; no group is empty."""
    groups: dict[str, list[int]] = {"all": list(range(len(runs)))}
    for share in sorted({run.share for run in runs}):
        groups[f"{share:.0%}"] = [k for k, run in enumerate(runs) if run.share == share]
    high = [k for k, run in enumerate(runs) if run.share >= NOT_LOW]
    groups[POOLED] = high
    for column in ("scenario", "data"):
        for value in _list_values(runs, column):
            chosen = [k for k in high if runs[k].about[column] == value]
            groups[f"{value}, {POOLED}"] = chosen
    constant = {k for k in high if runs[k].about["schedule"] == "constant"}
    groups[f"constant rate, {POOLED}"] = [k for k in high if k in constant]
    groups[f"scheduled rate, {POOLED}"] = [k for k in high if k not in constant]
    return {name: chosen for name, chosen in groups.items() if chosen}


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
