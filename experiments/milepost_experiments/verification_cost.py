"""What does it cost to judge models rightly, counted in steps that verifiers train?

The same runs as in `malicious-nodes`, judged by the paper's rule and by ours with sub-quorums of
several sizes and with sampling, one, two or three verifiers for what is not flagged.  A step
counts when a verifier trains it, for a duty, for the state before an accused step, or on a panel.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from milepost.errors import WrongUsage
from milepost_consensus.params import Params
from milepost_experiments.experiment import (
    RESULTS,
    Cell,
    Config,
    Inputs,
    Row,
    Table,
    Tables,
    Value,
)
from milepost_experiments.figures import COLOURS, label, make_figure, save
from milepost_experiments.hypergeometric import CHAOTIC, MODES, ORDERED
from milepost_experiments.intervals import compute_clopper_pearson
from milepost_experiments.mnist_runs import (
    INTERVALS,
    Run,
    make_run,
    plan_cells,
    plan_runs,
    read_runs,
)
from milepost_experiments.points import (
    PERFECT,
    RECORDED,
    count_liars,
    count_majority,
    count_witness,
    get_flags,
    make_row,
    summarise,
)
from milepost_experiments.tables import format_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAJORITY: Final = "majority"
WITNESS: Final = "witness"
_POINT: Final = (
    "rule", "nodes", "setting", "sub_quorum_size", "auditors", "audit_permille", "mode",
    "malicious", "liars",
)  # fmt: skip
COLUMNS: Final = (
    *_POINT, "accuracy", "low", "high", "models", "seeds", "cost", "panel_cost", "missed",
    "false_rejections", "undecided", "miss_one",
)  # fmt: skip

_QUICK: Final[Config] = {
    "seeds": 5,
    "malicious": [0.0, 0.2, 0.3, 0.5],
    "modes": [ORDERED, CHAOTIC],
    "nodes": 51,
    "sub_quorum_sizes": [3, 5, 7],
    "auditors": [1, 2, 3],
    "sampled_permille": [300, 500],
    "max_extensions": 2,
    "majority_nodes": 100,
    "majority_quorum": 50,
    "majority_share": 0.5,
    "steps_per_interval": 40,
    "poison_share": 0.3,
    "salt": "1",
}


class VerificationCost:
    """The experiment."""

    name = "verification-cost"
    title = "What does it cost to judge models rightly?"
    presets: Mapping[str, Config] = {
        "quick": _QUICK,
        "paper": {**_QUICK, "seeds": 50, "steps_per_interval": 125},
    }

    def plan(self, config: Config) -> Sequence[Cell]:
        """Runs first, then one cell for every setting, mode and share of liars."""
        _validate(config)
        runs = plan_cells(0)
        needs = tuple(cell.key for cell in runs)
        return [*runs, *(_make_cell(point, needs) for point in _plan_points(config))]

    def run_cell(self, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
        """Train a run, or count a point."""
        if "number" in cell.parameters:
            return make_run(
                plan_runs(0)[cell.parameters["number"]],
                steps_per_interval=config["steps_per_interval"],
                share=config["poison_share"],
            )
        runs = read_runs(0, inputs)
        return [_count(config, cell.parameters, run) for run in runs]

    def collect(self, config: Config, rows: Sequence[Row]) -> Tables:
        """One row a point."""
        points: dict[tuple[Value, ...], list[Row]] = {}
        for row in rows:
            if row["kind"] == "count":
                points.setdefault(tuple(row[name] for name in _POINT), []).append(row)
        return {RESULTS: Table(COLUMNS, [_make_result(config, group) for group in points.values()])}

    def draw(self, config: Config, tables: Tables, folder: Path) -> None:
        """Accuracy against cost, one panel for each share of liars above none."""
        rows = tables[RESULTS].rows
        shares = [share for share in config["malicious"] if share] or [0.0]
        figure, axes = make_figure(len(shares), width=3.3 * len(shares), height=3.6)
        places = [axes] if len(shares) == 1 else list(axes)
        for share, place in zip(shares, places, strict=True):
            _draw_share([row for row in rows if row["malicious"] == share], place)
            label(place, title=f"{share:.0%} of the nodes lie", x="steps trained / training",
                  percent="y")  # fmt: skip
        places[0].set_ylabel("models judged rightly")
        places[-1].legend(fontsize=7, loc="center left")
        save(figure, folder)

    def describe(self, config: Config, tables: Tables) -> str:
        """The page."""
        columns = ("rule", "setting", "mode", "malicious", "accuracy", "cost", "panels", "missed",
                   "rejected", "undecided", "one altered missed")  # fmt: skip
        rows = [_shorten(row) for row in tables[RESULTS].rows]
        return _PAGE.format(
            seeds=config["seeds"],
            nodes=config["nodes"],
            majority_nodes=config["majority_nodes"],
            table=format_markdown(Table(columns, rows)),
        )


_PAGE: Final = """
Steps that all verifiers train to judge a model, over the steps of its training, against the share
of models judged rightly (circles: *ordered* liars, triangles: *chaotic* ones). The twenty runs of
the paper's test set, really trained and really retraced, {seeds} elections for each; rule witness
with {nodes} verifiers, the paper's rule with {majority_nodes} nodes.

`s5 c1` is a sub-quorum of five for a flagged interval and one auditor for every other one. `s3 c1,
30 %` retraces 30 % of the intervals: flagged ones, the first and the last, and others at random.
*One altered missed* is the chance that an altered interval that is neither flagged nor at an end is
drawn by nobody, averaged over the runs.

A verifier that finds a difference stops there, and the first step of an interval that is poisoned
throughout differs already: poisoned models cost less than clean ones. Under rule majority a vote is
wanted, and an interval is trained to its end. A false accusation costs one step of every verifier
until a first panel has unmasked those who make it, and the duty passes to somebody else.

{table}
"""


def _validate(config: Config) -> None:
    wrong = []
    if not 1 <= config["seeds"] <= 100_000:
        wrong.append("seeds must be between 1 and 100,000")
    if not all(0 <= share <= 0.5 for share in config["malicious"]):
        wrong.append("malicious must be shares between 0 and 0.5: no rule stands beyond")
    if not set(config["modes"]) <= set(MODES):
        wrong.append(f"modes must be of {', '.join(MODES)}")
    if not (4 <= config["nodes"] <= 1_000 and 4 <= config["majority_nodes"] <= 1_000):
        wrong.append("nodes and majority_nodes must be between 4 and 1,000")
    if not 1 <= config["majority_quorum"] <= config["majority_nodes"]:
        wrong.append("majority_quorum must be at least 1 and at most majority_nodes")
    if not all(1 <= size <= 100 for size in config["sub_quorum_sizes"]):
        wrong.append("sub_quorum_sizes must be between 1 and 100")
    if not all(0 <= count <= 16 for count in config["auditors"]):
        wrong.append("auditors must be between 0 and 16")
    if not all(0 <= share <= 1_000 for share in config["sampled_permille"]):
        wrong.append("sampled_permille must be between 0 and 1,000")
    if not 2 <= config["steps_per_interval"] <= 10_000:
        wrong.append("steps_per_interval must be between 2 and 10,000")
    if not (0 < config["poison_share"] <= 1 and 0 < config["majority_share"] <= 1):
        wrong.append("poison_share and majority_share must be above 0 and at most 1")
    if wrong:
        raise WrongUsage(f"{'; '.join(wrong)}.", slug="bad-config")


def _plan_points(config: Config) -> list[dict[str, Any]]:
    sizes, first = config["sub_quorum_sizes"], min(config["sub_quorum_sizes"])
    settings = [(size, count, 1_000) for size in sizes for count in config["auditors"]]
    settings += [(first, 1, share) for share in config["sampled_permille"]]
    kinds: list[tuple[str, int, str, int, int, int]] = [
        (MAJORITY, config["majority_nodes"], flags, 0, 0, 0) for flags in (PERFECT, RECORDED)
    ]
    kinds += [(WITNESS, config["nodes"], _name_setting(*setting), *setting) for setting in settings]
    return [
        {
            "rule": rule,
            "nodes": nodes,
            "setting": name,
            "sub_quorum_size": size,
            "auditors": auditors,
            "audit_permille": permille,
            "mode": mode,
            "malicious": share,
            "liars": count_liars(nodes, share, up=rule == MAJORITY),
        }
        for rule, nodes, name, size, auditors, permille in kinds
        for mode in config["modes"]
        for share in config["malicious"]
    ]


def _name_setting(size: int, auditors: int, permille: int) -> str:
    sampled = "" if permille == 1_000 else f", {permille / 10:g} %"
    return f"s{size} c{auditors}{sampled}"


def _make_cell(point: Mapping[str, Any], needs: tuple[str, ...]) -> Cell:
    share = f"{100 * point['malicious']:g}"
    setting = f"s{point['sub_quorum_size']}c{point['auditors']}p{point['audit_permille']}"
    name = point["setting"] if point["rule"] == MAJORITY else setting
    return Cell(f"{point['rule']}-{name}-{point['mode']}-{share}", point, needs)


def _count(config: Config, point: Mapping[str, Any], run: Run) -> Row:
    nodes, liars, mode = point["nodes"], point["liars"], point["mode"]
    seeds, salt = config["seeds"], config["salt"]
    if point["rule"] == MAJORITY:
        count = count_majority(
            run,
            nodes=nodes,
            liars=liars,
            quorum=config["majority_quorum"],
            share=config["majority_share"],
            flags=point["setting"],
            mode=mode,
            seeds=seeds,
            salt=salt,
        )
        return {**make_row(run, count, seeds, point), "miss_one": ""}
    params = Params(
        sub_quorum_size=point["sub_quorum_size"],
        auditors=point["auditors"],
        audit_permille=point["audit_permille"],
        max_extensions=config["max_extensions"],
    )
    count = count_witness(
        run, nodes=nodes, liars=liars, mode=mode, seeds=seeds, params=params, salt=salt
    )
    row = make_row(run, count, seeds, point)
    return {**row, "miss_one": compute_miss_one(get_flags(run), params)}


def compute_miss_one(flagged: Sequence[int], params: Params) -> float:
    """The chance that one altered interval, not flagged and not at an end, is drawn by nobody."""
    foreseen = len({*flagged, 0, INTERVALS - 1})
    target = max(1, -(-INTERVALS * params.audit_permille // 1_000))
    rest = INTERVALS - foreseen
    drawn = min(rest, max(0, target - foreseen)) if params.auditors else 0
    return comb(rest - 1, drawn) / comb(rest, drawn) if drawn < rest else 0.0


def _make_result(config: Config, rows: Sequence[Row]) -> Row:
    first, summary = rows[0], summarise(rows)
    low, high = compute_clopper_pearson(summary.right, summary.trials)
    misses = [float(row["miss_one"]) for row in rows if row["miss_one"] != ""]
    return {
        **{name: first[name] for name in _POINT},
        "accuracy": summary.right / summary.trials,
        "low": low,
        "high": high,
        "models": summary.models,
        "seeds": config["seeds"],
        "cost": summary.cost,
        "panel_cost": summary.panel_cost,
        "missed": summary.missed,
        "false_rejections": summary.false_rejections,
        "undecided": summary.undecided,
        "miss_one": sum(misses) / len(misses) if misses else "",
    }


def _draw_share(rows: Sequence[Row], axes: Axes) -> None:
    kinds = list(dict.fromkeys(_name_kind(row) for row in rows))
    for kind, colour in zip(kinds, itertools.cycle(COLOURS)):
        group = [row for row in rows if _name_kind(row) == kind]
        for row in group:
            axes.plot(
                float(row["cost"]),
                float(row["accuracy"]),
                "^" if row["mode"] == CHAOTIC else "o",
                color=colour,
                fillstyle="full" if row["rule"] == WITNESS else "none",
                markersize=5,
                label=kind if row is group[0] else None,
            )


def _name_kind(row: Row) -> str:
    """What has one colour: sub-quorums of all sizes together."""
    if row["rule"] == MAJORITY:
        return f"majority, {row['setting']} flags"
    if row["audit_permille"] != 1_000:
        return f"witness, {row['setting']}"
    return f"witness, c = {row['auditors']}"


def _shorten(row: Row) -> dict[str, Value]:
    return {
        "rule": row["rule"],
        "setting": row["setting"],
        "mode": row["mode"],
        "malicious": f"{float(row['malicious']):.0%}",
        "accuracy": f"{float(row['accuracy']):.2%}",
        "cost": f"{float(row['cost']):.2f}x",
        "panels": f"{float(row['panel_cost']):.2f}x",
        "missed": row["missed"],
        "rejected": row["false_rejections"],
        "undecided": row["undecided"],
        "one altered missed": "" if row["miss_one"] == "" else f"{float(row['miss_one']):.0%}",
    }


EXPERIMENT = VerificationCost()
