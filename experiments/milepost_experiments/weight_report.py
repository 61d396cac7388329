"""Figures and page of the weight analysis, from its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from milepost_experiments.experiment import Config, Row, Table, Tables
from milepost_experiments.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    draw_points,
    label,
    make_figure,
    save,
)
from milepost_experiments.signal_tables import POOLED
from milepost_experiments.tables import format_markdown

PAPER_F1: Final = {"absolute": 0.92, "l2": 0.73, "percent": 0.86, "cosine": 0.13}
"""The Diffusion paper's Table II, which rests on six poisoned intervals."""
LOW: Final = "1%"
_LABELS: Final = {
    "absolute": "absolute\nchange", "l2": "L2 norm", "percent": "percent\nchange",
    "cosine": "cosine", "change score": "ledger's\nflags", "all signals": "learned",
}  # fmt: skip
_RANKERS: Final = {
    "ranking": BLUE, "learned": GREEN, "absolute": ORANGE, "random (exact)": GREY,
}  # fmt: skip
_CASES: Final = {
    "all": "all intervals poisoned",
    "matched": "updates rescaled to the expected change",
    "tampered": "last snapshot tampered with",
    "early": "interval 0 or 1 poisoned",
    "skipped": "interval not trained at all",
}
_BLIND: Final = (
    "models", "clean_accuracy", "backdoor_success", "flagged", "flagged_share", "ranked_1",
    "ranked_3", "learned", "audits_1", "audits_3", "audits_12", "all", "audits",
)  # fmt: skip
_BEFORE: Final = {
    "all": "any audit convicts",
    "matched": "audits must hit the interval",
    "tampered": "the last interval is always retraced",
    "early": "interval 0 always is; interval 1 by chance or at full coverage",
    "skipped": "the zero test flags it",
}


def draw(tables: Tables, folder: Path) -> None:
    """Thresholds beside the paper's, and what a retraining budget buys."""
    figure, (left, middle, right) = make_figure(3, width=10.5, height=3.4)
    _draw_thresholds(left, tables["results"])
    groups = {str(row["runs"]) for row in tables["budgets"].rows}
    _draw_budgets(middle, tables["budgets"], POOLED, "5 to 100 % of records poisoned")
    _draw_budgets(right, tables["budgets"], LOW if LOW in groups else "all", "1 % poisoned")
    if LOW not in groups:
        right.set_title("all runs", fontsize=9, loc="left")
    middle.legend(loc="lower right")
    save(figure, folder)


def _draw_thresholds(axes: Any, table: Table) -> None:
    rows = [row for row in table.rows if row["runs"] == POOLED]
    styles = (("paper", ORANGE, "paper's threshold"), ("ours", BLUE, "our threshold"))
    for shift, (threshold, colour, text) in zip((-0.12, 0.12), styles, strict=True):
        _draw_f1(axes, rows, [(name, threshold) for name in PAPER_F1], shift, colour, text)
    _draw_f1(axes, rows, [("change score", "ledger")], 4, PURPLE, "")
    _draw_f1(axes, rows, [("all signals", "learned")], 5, GREEN, "")
    axes.plot(
        range(len(PAPER_F1)), list(PAPER_F1.values()), "x", color=GREY, label="paper's Table II"
    )
    axes.set_xticks(range(len(_LABELS)), list(_LABELS.values()), fontsize=7)
    axes.set_ylim(0, 1.35)
    axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.legend(loc="upper left", fontsize=7)
    label(axes, title="F1 per interval, 5 to 100 % poisoned")


def _draw_f1(
    axes: Any,
    rows: Sequence[Row],
    chosen: Sequence[tuple[str, str]],
    shift: float,
    colour: str,
    text: str,
) -> None:
    found = [row for key in chosen for row in rows if (row["method"], row["threshold"]) == key]
    draw_points(
        axes,
        [k + shift for k in range(len(found))],
        *_get_columns(found, "f1", "f1_low", "f1_high"),
        color=colour,
        label=text or None,
    )


def _draw_budgets(axes: Any, table: Table, group: str, title: str) -> None:
    for k, (name, colour) in enumerate(_RANKERS.items()):
        rows = [row for row in table.rows if (row["ranker"], row["runs"]) == (name, group)]
        budgets = [float(row["budget"]) + 0.06 * k for row in rows]
        values = _get_columns(rows, "caught", "low", "high")
        axes.plot(budgets, values[0], "-", color=colour, linewidth=0.8)
        draw_points(axes, budgets, *values, color=colour, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([1, 2, 3, 5])
    label(axes, title=title, x="intervals retrained of each model", y="models caught", percent="y")


def describe(config: Config, tables: Tables) -> str:
    """What came out, in words and tables."""
    main = _index(tables["results"], "method", "threshold", "runs")
    budgets = _index(tables["budgets"], "ranker", "runs", "budget")
    first = budgets["ranking", POOLED, 1]
    learned = main["all signals", "learned", "all"]
    naive = [float(main[name, "paper", POOLED]["f1"]) for name in PAPER_F1]
    ours = [float(main[name, "ours", POOLED]["f1"]) for name in PAPER_F1]
    parts = [
        f"{_count(config)} Poisoned records carry a 3 x 3 trigger and one target label. Poisoned"
        " intervals are one, three scattered, three in a row, or three in a row and two scattered"
        f" of {config['intervals']}; networks have 1 to 4 hidden layers of 24 to 96 neurons;"
        " optimizers are SGD, SGD with momentum and Adam; half of the runs have a learning-rate"
        " schedule. Thresholds were tuned and the detector was learned on networks of 1 and 3"
        " hidden layers; everything below is about networks of 2 and 4, other seeds and other"
        " places of the trigger.",
        "## A model at a retraining budget",
        f"Of the models with at least 5 % poison, {_percent(first)} have a poisoned interval at"
        " the first place of the ranking"
        + (
            f"; at 1 % poison, {_percent(budgets['ranking', LOW, 3])} have one among the first"
            " three"
            if ("ranking", LOW, 3) in budgets
            else ""
        )
        + ". One retrained poisoned interval convicts a model.",
        _show(
            tables["budgets"],
            ("ranker", "runs", "budget", "models", "caught", "low", "high"),
            lambda row: row["budget"] in (1, 3) and row["runs"] in (POOLED, LOW),
        ),
        "## Single intervals: the paper's Table II again",
        f"The paper's threshold (mean + 2 standard deviations) reaches F1 {min(naive):.2f} to"
        f" {max(naive):.2f} per interval, ours (per rate, detrended, two-sided, recovery rule,"
        f" zero test) {min(ours):.2f} to {max(ours):.2f}, the learned detector on snapshots alone"
        f" {float(learned['f1']):.2f} over all shares of poison. The paper's own table rests on six"
        " poisoned intervals.",
        _show(
            tables["results"],
            (
                "method",
                "threshold",
                "runs",
                "models",
                "poisoned",
                "precision",
                "recall",
                "f1",
                "f1_low",
                "f1_high",
            ),
            lambda row: row["runs"] in ("all", POOLED, LOW),
        ),
        "Learned detector by group:",
        _show(
            tables["results"],
            ("runs", "models", "precision", "recall", "f1", "f1_low", "f1_high"),
            lambda row: row["threshold"] == "learned",
        ),
        "The learned detector the other way round, too: learned on the runs to test on, judged on"
        " those to tune on, and both together.",
        _show(
            tables["learned"],
            ("judged_on", "models", "precision", "recall", "f1", "f1_low", "f1_high"),
            lambda row: True,
        ),
        "Intervals of clean runs that are called poisoned:",
        _show(tables["false-alarms"], tables["false-alarms"].columns, lambda row: True),
        "## What the poison does",
        "Accuracy on 1,000 clean test images; share of test images of other classes that the"
        " trigger sends to the target, right after the first poisoned interval and at the end.",
        _show(tables["accuracy"], tables["accuracy"].columns, lambda row: True),
        "## Where the analysis is blind, and what audits do there",
        "`flagged`: models with a poisoned interval among the ledger's flags; `flagged_share`:"
        " poisoned intervals flagged; `ranked_1`, `ranked_3`: models with a poisoned interval among"
        " the first of the ranking; `learned`: models of which the detector finds one. `audits_b`:"
        " the chance that the first, the last and b random intervals contain a poisoned one; `all`:"
        " that full coverage does, which is what a network checks unless told otherwise. Poison in"
        " the *declared* data gives the same weights as `all` and retraces perfectly: no audit"
        " finds it.",
        _show(_explain(tables["blind"]), ("case", *_BLIND), lambda row: True),
        "## Would a recovery rule improve the ledger's flags?",
        "The first clean interval after poison undoes it. An integer sign of that is the share of"
        " weights that move against their preceding movement. Dropping the flags of intervals"
        " where it is large changes F1 by"
        f" {_compute_gain(tables['recovery'], 'tune'):+.3f} on the runs to tune on at the best"
        f" limit, and by {_compute_gain(tables['recovery'], 'test'):+.3f} on the others at theirs."
        " The replicated rule has none.",
        _show(
            tables["recovery"],
            ("split", "rule", "models", "precision", "recall", "f1", "f1_low", "f1_high"),
            lambda row: True,
        ),
        "## Through the real recorder",
        "Runs recorded by `milepost.Run` with clean data declared: intervals whose replicated"
        " score, reversal share or place in the ranking differs from that of the weights seen in"
        " the loop, and where the poisoned interval ranks.",
        format_markdown(tables["recorded"]),
    ]
    return "\n\n".join(parts)


def _compute_gain(table: Table, split: str) -> float:
    """The best change of F1 by any limit over that without one."""
    scores = {str(r["rule"]): float(r["f1"]) for r in table.rows if r["split"] == split}
    return max(scores.values()) - scores["none"]


def _count(config: Config) -> str:
    each = 4 * len(config["shares"])
    tune, test = (each * sum(config[name]) for name in ("tune", "test"))
    clean, cases = config["clean"], 5 * config["cases"]
    return (
        f"{tune} runs to tune on and {test} to test on, {2 * clean} clean ones and {cases} of"
        f" special cases, on {' and '.join(config['data'])}."
    )


def _explain(table: Table) -> Table:
    rows = [
        {**row, "case": _CASES[str(row["case"])], "audits": _BEFORE[str(row["case"])]}
        for row in table.rows
    ]
    return Table((*table.columns, "audits"), rows)


def _show(table: Table, columns: tuple[str, ...], keep: Any) -> str:
    rows = [{name: _round(row[name]) for name in columns} for row in table.rows if keep(row)]
    return format_markdown(Table(columns, rows))


def _round(value: Any) -> Any:
    return f"{value:.3f}" if isinstance(value, float) else value


def _percent(row: Row) -> str:
    return (
        f"{float(row['caught']):.1%} ({float(row['low']):.1%} to {float(row['high']):.1%}; of"
        f" {row['models']})"
    )


def _index(table: Table, *columns: str) -> Mapping[tuple[Any, ...], Row]:
    return {tuple(row[name] for name in columns): row for row in table.rows}


def _get_columns(rows: Sequence[Row], *names: str) -> list[list[float]]:
    return [[float(row[name]) for row in rows] for name in names]
