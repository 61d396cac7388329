"""What `malicious-nodes` shows: the table of its runs, its figure and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milepost_experiments.experiment import RESULTS, Config, Row, Table, Tables, Value
from milepost_experiments.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    YELLOW,
    draw_points,
    label,
    make_figure,
    save,
)
from milepost_experiments.hypergeometric import MODES
from milepost_experiments.mnist_runs import SINGLE, plan_runs, read_run
from milepost_experiments.points import FIVE, ONE, PERFECT, RECORDED, get_flags
from milepost_experiments.tables import format_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = (BLUE, GREEN)


def list_runs(singles: int, rows: Sequence[Row]) -> list[Row]:
    """One row a run: what was poisoned, what retraining refuted, what the network flags."""
    kept = [row for row in rows if row["kind"] in ("run", "truth")]
    starts = [place for place, row in enumerate(kept) if row["kind"] == "run"]
    listed: list[Row] = []
    for plan, start, end in zip(plan_runs(singles), starts, [*starts[1:], len(kept)], strict=True):
        run = read_run(plan, kept[start:end])
        refuted = [number for number, truth in enumerate(run.truths) if not truth.agrees]
        listed.append(
            {
                "run": plan.name,
                "kind": plan.kind,
                "poisoned": _join(plan.poisoned),
                "refuted": _join(refuted),
                "flagged": _join(get_flags(run)),
                "accuracy": run.accuracy,
                "backdoor": run.backdoor,
            }
        )
    return listed


def _join(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Accuracy against the share of liars: the paper's test set in both modes, and the worst case
    of one poisoned interval."""
    modes = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    figure, axes = make_figure(len(modes) + 1, width=3.4 * (len(modes) + 1), height=3.5)
    for mode, place in zip(modes, axes, strict=False):
        _draw_mode([row for row in rows if row["mode"] == mode], place)
        label(place, title=f"{mode} liars, paper's test set", x="nodes that lie", percent="xy")
        place.set_ylim(0.4, 1.02)
    axes[0].set_ylabel("models judged rightly")
    axes[0].legend(fontsize=7, loc="lower left")
    _draw_worst([row for row in rows if row["poisoned"] == ONE], axes[-1])
    label(axes[-1], title="one poisoned, flagged interval", x="nodes that lie", percent="xy")
    save(figure, folder)


def _draw_mode(rows: Sequence[Row], axes: Axes) -> None:
    majority = [row for row in rows if row["flags"] == PERFECT]
    _draw_rows(majority, axes, ORANGE, "majority (the paper's rule), perfect flags")
    _draw_exact(majority, axes, ORANGE)
    real = [row for row in rows if row["flags"] == RECORDED and row["rule"] == "majority"]
    _draw_rows(real, axes, YELLOW, "majority, our flags", shift=0.006, marker="s")
    stated = [row for row in majority if row["paper"] != ""]
    axes.plot(
        _get(stated, "malicious"), _get(stated, "paper"), "x", color=GREY, label="paper, stated"
    )
    witness = [row for row in rows if row["rule"] == "witness" and row["poisoned"] == FIVE]
    for nodes, colour in zip(
        sorted({int(row["nodes"]) for row in witness}), _COLOURS, strict=False
    ):
        group = [row for row in witness if row["nodes"] == nodes]
        _draw_rows(group, axes, colour, f"witness, {nodes} nodes")
        axes.plot(_get(group, "malicious"), _get(group, "accuracy"), color=colour, alpha=0.5)


def _draw_worst(rows: Sequence[Row], axes: Axes) -> None:
    keys = sorted({(int(row["nodes"]), str(row["mode"])) for row in rows})
    sizes = sorted({nodes for nodes, _ in keys})
    for nodes, mode in keys:
        group = [row for row in rows if (row["nodes"], row["mode"]) == (nodes, mode)]
        colour = _COLOURS[sizes.index(nodes) % len(_COLOURS)]
        shift = 0.006 * (2 * sizes.index(nodes) - 1) + 0.003 * (1 if mode == MODES[1] else -1)
        marker = "^" if mode == MODES[1] else "o"
        _draw_rows(group, axes, colour, f"{nodes} nodes, {mode}", shift=shift, marker=marker)
        if mode == MODES[0]:
            _draw_exact(group, axes, colour)
    if rows:
        axes.legend(fontsize=7, loc="lower left")


def _draw_rows(
    rows: Sequence[Row],
    axes: Axes,
    colour: str,
    name: str,
    *,
    shift: float = 0.0,
    marker: str = "o",
) -> None:
    x = [value + shift for value in _get(rows, "malicious")]
    bars = (_get(rows, "accuracy"), _get(rows, "low"), _get(rows, "high"))
    draw_points(axes, x, *bars, color=colour, label=name, marker=marker)


def _draw_exact(rows: Sequence[Row], axes: Axes, colour: str) -> None:
    known = [row for row in rows if row["exact"] != ""]
    axes.plot(_get(known, "malicious"), _get(known, "exact"), "--", color=colour, alpha=0.7)


def _get(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows]


def draw_full(rows: Sequence[Row], folder: Path) -> None:
    """Accuracy of real networks, one point each."""
    figure, axes = make_figure()
    names = [f"{row['mode']}\n{row['liars']} of {row['nodes']}" for row in rows]
    places = [float(number) for number in range(len(rows))]
    bars = (_get(rows, "accuracy"), _get(rows, "low"), _get(rows, "high"))
    draw_points(axes, places, *bars, color=BLUE)
    axes.set_xticks(places, names)
    axes.set_ylim(0.4, 1.02)
    label(axes, title="real processes", y="models judged rightly", percent="y")
    save(figure, folder)


def describe_full(config: Config, tables: Tables) -> str:
    """The page about real networks."""
    rows = tables[RESULTS].rows
    return _FULL_PAGE.format(
        nodes=config["full_nodes"],
        steps=config["full_steps_per_interval"],
        table=_tabulate(rows),
    )


_FULL_PAGE: Final = """
Twenty real training runs, ten of them poisoned, submitted to one real network for each row: {nodes}
node processes on one machine, of which some are told to lie. Every verifier retrains what it is
dealt ({steps} steps an interval), the beacon draws who, and every verdict was checked against the
network's trust file. Keys are drawn anew, so another run of this elects other verifiers. UNDECIDED
counts as wrong; intervals are 95 % after Clopper and Pearson.

{table}
"""


def describe(config: Config, tables: Tables) -> str:
    """The page."""
    rows, runs = tables[RESULTS].rows, tables["runs"].rows
    witness = [row for row in rows if row["rule"] == "witness"]
    known = [row for row in rows if row["exact"] != ""]
    outside = [
        row for row in known if not float(row["low"]) <= float(row["exact"]) <= float(row["high"])
    ]
    flagged = sum(
        row["kind"] == SINGLE
        and set(str(row["poisoned"]).split()) <= set(str(row["flagged"]).split())
        for row in runs
    )
    singles = sum(row["kind"] == SINGLE for row in runs)
    return _PAGE.format(
        runs=len(runs),
        share=f"{float(config['poison_share']):.0%}",
        seeds=config["seeds"],
        agreement=f"{len(known) - len(outside)} of {len(known)}",
        outside=_name(outside),
        nodes=config["majority_nodes"],
        quorum=config["majority_quorum"],
        audited=f"{float(config['majority_share']):.0%}",
        size=config["sub_quorum_size"],
        auditors=config["auditors"],
        rejected=sum(int(row["false_rejections"]) for row in witness),
        flagged=f"{flagged} of {singles}",
        majority_table=_tabulate([row for row in rows if row["rule"] == "majority"]),
        witness_table=_tabulate([row for row in witness if row["poisoned"] == FIVE]),
        worst_table=_tabulate([row for row in witness if row["poisoned"] == ONE]),
        run_table=format_markdown(tables["runs"]),
    )


_PAGE: Final = """
Models that the network judged rightly while a share of its nodes lies: *ordered* liars vouch for
what is false, *chaotic* ones say the opposite of what they found. UNDECIDED counts as wrong.

What is real: {runs} perceptrons were trained on MNIST and recorded, twenty intervals each, the
poisoned ones on images of which {share} carry a backdoor trigger, while the record claims the clean
data. Every interval was retraced once by the code that verifiers run, and the network's own state
machine then decided every election from these answers: {seeds} elections for every model and point.
Flags are those of the records.

Dashed: exact hypergeometric chances. Bars: 95 % intervals after Clopper and Pearson over models
times elections. {agreement} points with a closed form have it inside their interval{outside}.

**Rule majority**: the paper's, as in its released code ({nodes} nodes, quorum {quorum}, {audited}
of the intervals, a sub-quorum for each, a tie rejects). `perfect` flags are exactly the poisoned
intervals, `recorded` those of our analysis.

{majority_table}

**Rule witness**, the paper's test set: {size} verifiers for a flagged interval, {auditors} for
every other one. Clean models rejected, here and below: {rejected}.

{witness_table}

**Rule witness, worst case**: clean models, and as many with one poisoned interval that is flagged
({flagged} of those that were trained are). It passes only if its whole sub-quorum lies.

{worst_table}

Cost is what all verifiers train, for duties and on panels, over the steps of the training. A
verifier that finds a difference stops there. Panels weigh the more the shorter the intervals are:
every verifier recomputes one step for each accusation that a panel hears. It hears them one at a
time, and once it has contradicted a liar, what only liars accuse is dismissed.

The runs, with the intervals that were poisoned, that retracing refuted, and that are flagged:

{run_table}
"""


def _name(outside: Sequence[Row]) -> str:
    if not outside:
        return ""
    listed = ", ".join(
        f"{row['rule']} {row['nodes']} {row['mode']} {float(row['malicious']):.0%}"
        for row in outside
    )
    return f"; outside are {listed}"


def _tabulate(rows: Sequence[Row]) -> str:
    columns = ("nodes", "flags", "mode", "malicious", "accuracy", "95 %", "exact", "missed",
               "rejected", "undecided", "cost", "panels")  # fmt: skip
    return format_markdown(Table(columns, [_shorten(row) for row in rows]))


def _shorten(row: Row) -> dict[str, Value]:
    return {
        "nodes": row["nodes"],
        "flags": row["flags"],
        "mode": row["mode"],
        "malicious": f"{float(row['malicious']):.0%}",
        "accuracy": f"{float(row['accuracy']):.2%}",
        "95 %": f"{float(row['low']):.2%} to {float(row['high']):.2%}",
        "exact": "" if row["exact"] == "" else f"{float(row['exact']):.2%}",
        "missed": row["missed"],
        "rejected": row["false_rejections"],
        "undecided": row["undecided"],
        "cost": f"{float(row['cost']):.2f}x",
        "panels": f"{float(row['panel_cost']):.2f}x",
    }
