"""How often does the network judge a model rightly while some of its nodes lie?

The paper's Figure 3 again, by its own rule and by ours, with truth from real retraining.  Cells of
two kinds: one trains, records and retraces a run; one counts the elections of a point about all
runs of its set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from milepost.errors import WrongUsage
from milepost_consensus.params import Params
from milepost_experiments import malicious_page
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
from milepost_experiments.hypergeometric import (
    CHAOTIC,
    MODES,
    ORDERED,
    compute_majority_accuracy,
    compute_witness_accuracy,
)
from milepost_experiments.intervals import compute_clopper_pearson
from milepost_experiments.mnist_runs import Run, make_run, plan_cells, plan_runs, read_runs
from milepost_experiments.points import (
    FIVE,
    ONE,
    PERFECT,
    RECORDED,
    choose_runs,
    count_liars,
    count_majority,
    count_witness,
    make_row,
    summarise,
)
from milepost_experiments.real_network import judge_runs
from milepost_node.behaviours.builtin import BEHAVIOURS

REPLAY: Final = "replay"
"""Elections by the state machine in memory, answers from what retracing found once."""
FULL: Final = "full"
"""Real node processes, each of which retrains what it is dealt."""
MAJORITY: Final = "majority"
WITNESS: Final = "witness"
PAPER: Final[Mapping[tuple[str, float], float]] = {
    (ORDERED, 0.2): 0.85,
    (CHAOTIC, 0.2): 0.85,
    (ORDERED, 0.5): 0.80,
}
"""What the paper's text says about its Figure 3 (at least so much); it states no other number."""
COLUMNS: Final = (
    "rule", "mode", "malicious", "accuracy", "low", "high", "models", "seeds", "nodes", "liars",
    "poisoned", "flags", "exact", "paper", "false_rejections", "missed", "undecided", "cost",
    "panel_cost", "extended", "fidelity",
)  # fmt: skip
RUN_COLUMNS: Final = ("run", "kind", "poisoned", "refuted", "flagged", "accuracy", "backdoor")

_QUICK: Final[Config] = {
    "fidelity": REPLAY,
    "seeds": 5,
    "malicious": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
    "modes": [ORDERED, CHAOTIC],
    "witness_nodes": [21, 51],
    "sub_quorum_size": 5,
    "auditors": 1,
    "max_extensions": 2,
    "majority_nodes": 100,
    "majority_quorum": 50,
    "majority_share": 0.5,
    "steps_per_interval": 40,
    "poison_share": 0.3,
    "singles": 4,
    "salt": "1",
    "full_nodes": 7,
    "full_liars": [2],
    "full_steps_per_interval": 10,
}


class MaliciousNodes:
    """The experiment."""

    name = "malicious-nodes"
    title = "How often is a model judged rightly while nodes lie?"
    presets: Mapping[str, Config] = {
        "quick": _QUICK,
        "paper": {**_QUICK, "seeds": 50, "steps_per_interval": 125, "singles": 12},
    }

    def plan(self, config: Config) -> Sequence[Cell]:
        """Runs first, then the points of both rules; or, with fidelity full, real networks."""
        _validate(config)
        if config["fidelity"] == FULL:
            return [
                Cell(f"network-{mode}-{liars}", {"mode": mode, "liars": liars})
                for mode in config["modes"]
                for liars in config["full_liars"]
            ]
        runs = plan_cells(config["singles"])
        needs = tuple(cell.key for cell in runs)
        return [*runs, *(_make_point(point, needs) for point in _plan_points(config))]

    def run_cell(self, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
        """Train a run, count a point, or ask a real network."""
        if config["fidelity"] == FULL:
            return judge_runs(
                nodes=config["full_nodes"],
                steps_per_interval=config["full_steps_per_interval"],
                share=config["poison_share"],
                params=_make_params(config),
                **cell.parameters,
            )
        if "number" in cell.parameters:
            plan = plan_runs(config["singles"])[cell.parameters["number"]]
            return make_run(
                plan,
                steps_per_interval=config["steps_per_interval"],
                share=config["poison_share"],
            )
        point = cell.parameters
        chosen = choose_runs(read_runs(config["singles"], inputs), point["poisoned"])
        return [_count(config, point, run) for run in chosen]

    def collect(self, config: Config, rows: Sequence[Row]) -> Tables:
        """One row a point, and one a run."""
        points: dict[tuple[Value, ...], list[Row]] = {}
        for row in rows:
            if row["kind"] == "count":
                names = ("rule", "mode", "malicious", "nodes", "liars", "poisoned", "flags")
                points.setdefault(tuple(row[name] for name in names), []).append(row)
        results = Table(COLUMNS, [_make_result(config, group) for group in points.values()])
        if config["fidelity"] == FULL:
            return {RESULTS: results}
        return {
            RESULTS: results,
            "runs": Table(RUN_COLUMNS, malicious_page.list_runs(config["singles"], rows)),
        }

    def draw(self, config: Config, tables: Tables, folder: Path) -> None:
        draw = malicious_page.draw_full if config["fidelity"] == FULL else malicious_page.draw
        draw(tables[RESULTS].rows, folder)

    def describe(self, config: Config, tables: Tables) -> str:
        if config["fidelity"] == FULL:
            return malicious_page.describe_full(config, tables)
        return malicious_page.describe(config, tables)


def _validate(config: Config) -> None:
    wrong = []
    if config["fidelity"] not in (REPLAY, FULL):
        wrong.append('fidelity must be "replay" or "full"')
    if not 1 <= config["seeds"] <= 100_000:
        wrong.append("seeds must be between 1 and 100,000")
    if not all(0 <= share <= 0.5 for share in config["malicious"]):
        wrong.append("malicious must be shares between 0 and 0.5: no rule stands beyond")
    known = BEHAVIOURS if config["fidelity"] == FULL else MODES
    if not set(config["modes"]) <= set(known):
        wrong.append(f"modes must be of {', '.join(known)}")
    if not all(4 <= nodes <= 1_000 for nodes in config["witness_nodes"]):
        wrong.append("witness_nodes must be between 4 and 1,000")
    if not 1 <= config["majority_quorum"] <= config["majority_nodes"] <= 1_000:
        wrong.append("majority_quorum must be at least 1 and at most majority_nodes")
    if not 2 <= config["steps_per_interval"] <= 10_000:
        wrong.append("steps_per_interval must be between 2 and 10,000")
    if not (0 < config["poison_share"] <= 1 and 0 < config["majority_share"] <= 1):
        wrong.append("poison_share and majority_share must be above 0 and at most 1")
    if not 0 <= config["singles"] <= 1_000:
        wrong.append("singles must be between 0 and 1,000")
    if not (1 <= config["sub_quorum_size"] <= 100 and 0 <= config["auditors"] <= 16):
        wrong.append("sub_quorum_size must be 1 to 100, auditors 0 to 16")
    if not all(0 <= liars < config["full_nodes"] / 2 for liars in config["full_liars"]):
        wrong.append("full_liars must be less than half of full_nodes")
    if not (4 <= config["full_nodes"] <= 64 and 2 <= config["full_steps_per_interval"] <= 10_000):
        wrong.append("full_nodes must be 4 to 64, full_steps_per_interval 2 to 10,000")
    if wrong:
        raise WrongUsage(f"{'; '.join(wrong)}.", slug="bad-config")


def _plan_points(config: Config) -> list[dict[str, Any]]:
    nodes = config["majority_nodes"]
    kinds = [
        (MAJORITY, nodes, FIVE, PERFECT),
        (MAJORITY, nodes, FIVE, RECORDED),
        *((WITNESS, count, FIVE, RECORDED) for count in config["witness_nodes"]),
    ]
    if config["singles"]:
        kinds += [(WITNESS, count, ONE, RECORDED) for count in config["witness_nodes"]]
    return [
        {
            "rule": rule,
            "mode": mode,
            "malicious": share,
            "nodes": count,
            "liars": count_liars(count, share, up=rule == MAJORITY),
            "poisoned": which,
            "flags": flags,
        }
        for rule, count, which, flags in kinds
        for mode in config["modes"]
        for share in config["malicious"]
    ]


def _make_point(point: Mapping[str, Any], needs: tuple[str, ...]) -> Cell:
    percent = round(100 * point["malicious"], 3)
    names = ("rule", "nodes", "poisoned", "flags", "mode")
    return Cell("-".join(str(point[name]) for name in names) + f"-{percent:g}", point, needs)


def _count(config: Config, point: Mapping[str, Any], run: Run) -> Row:
    seeds = config["seeds"]
    if point["rule"] == MAJORITY:
        count = count_majority(
            run,
            nodes=point["nodes"],
            liars=point["liars"],
            quorum=config["majority_quorum"],
            share=config["majority_share"],
            flags=point["flags"],
            mode=point["mode"],
            seeds=seeds,
            salt=config["salt"],
        )
    else:
        count = count_witness(
            run,
            nodes=point["nodes"],
            liars=point["liars"],
            mode=point["mode"],
            seeds=seeds,
            params=_make_params(config),
            salt=config["salt"],
        )
    return make_row(run, count, seeds, point)


def _make_params(config: Config) -> Params:
    return Params(
        sub_quorum_size=config["sub_quorum_size"],
        auditors=config["auditors"],
        max_extensions=config["max_extensions"],
        # These two are for real networks: in memory no window is ever too short.
        attest_window=120,
        idle_block_ms=500,
    )


def _make_result(config: Config, rows: Sequence[Row]) -> Row:
    first, summary = rows[0], summarise(rows)
    low, high = compute_clopper_pearson(summary.right, summary.trials)
    names = ("rule", "mode", "malicious", "nodes", "liars", "poisoned", "flags")
    return {
        **{name: first[name] for name in names},
        "accuracy": summary.right / summary.trials,
        "low": low,
        "high": high,
        "models": summary.models,
        "seeds": first["seeds"],
        "exact": _compute_exact(config, first),
        "paper": _get_paper(first),
        "false_rejections": summary.false_rejections,
        "missed": summary.missed,
        "undecided": summary.undecided,
        "cost": summary.cost,
        "panel_cost": summary.panel_cost,
        "extended": summary.extended,
        "fidelity": config["fidelity"],
    }


def _compute_exact(config: Config, row: Row) -> Value:
    """The closed form where there is one, else nothing."""
    nodes, liars, mode = int(row["nodes"]), int(row["liars"]), str(row["mode"])
    if row["rule"] == WITNESS and row["poisoned"] == ONE:
        return compute_witness_accuracy(nodes=nodes, liars=liars, size=config["sub_quorum_size"])
    selected = round(20 * config["majority_share"])
    size, rest = divmod(config["majority_quorum"], selected)
    if row["rule"] == WITNESS or row["flags"] != PERFECT or rest or selected < 5:
        return ""
    return compute_majority_accuracy(
        nodes=nodes, liars=liars, size=size, selected=selected, poisoned=5, mode=mode
    )


def _get_paper(row: Row) -> Value:
    if row["rule"] != MAJORITY or row["flags"] != PERFECT:
        return ""
    return PAPER.get((str(row["mode"]), round(float(row["malicious"]), 3)), "")


EXPERIMENT = MaliciousNodes()
