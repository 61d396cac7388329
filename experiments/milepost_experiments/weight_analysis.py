"""How well does weight analysis find poisoned intervals, and where is it blind?

    milepost experiment run weight-analysis --preset quick

Small dense networks are trained on real images while some intervals secretly carry a backdoor: the
Diffusion paper's experiment (its Table II), in more variety.  Whatever is tuned or learned sees the
runs of split `tune` only; all tables are about split `test` unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from milepost.errors import WrongUsage
from milepost_experiments import weight_report
from milepost_experiments.detectors import learn
from milepost_experiments.experiment import Cell, Config, Inputs, Row, Table, Tables
from milepost_experiments.images import is_available
from milepost_experiments.poisoned_runs import Plan, train
from milepost_experiments.recorded_runs import compare_record
from milepost_experiments.run_plans import CASES, SCENARIOS, draw_run
from milepost_experiments.signal_rows import SignalRun, make_rows, make_runs
from milepost_experiments.signal_tables import (
    make_accuracy_table,
    make_blind_table,
    make_budget_table,
    make_false_alarm_table,
    make_learned_table,
    make_recovery_table,
    make_threshold_table,
)

MIN_INTERVALS: Final = 12
CASE_SHARE: Final = 0.1
"""Of poisoned records in the cases beside the main scenarios."""
_MAIN_DATA: Final = "mnist"


class WeightAnalysisExperiment:
    """Cells are single runs; their rows are single intervals."""

    name = "weight-analysis"
    title = "How well does weight analysis find poisoned intervals?"
    presets: Mapping[str, Config] = {
        "quick": {
            "seed": 5, "intervals": 24, "steps": 30, "shares": [0.05, 0.5], "data": ["mnist"],
            "tune": [3], "test": [3], "clean": 3, "cases": 2, "recorded": 1, "trees": 60,
        },
        "paper": {
            "seed": 5, "intervals": 24, "steps": 100, "shares": [0.01, 0.05, 0.1, 0.5, 1.0],
            "data": ["mnist", "fashion"], "tune": [12, 6], "test": [8, 4], "clean": 12,
            "cases": 12, "recorded": 4, "trees": 200,
        },
    }  # fmt: skip
    """`tune` and `test`: runs of each scenario and share, for every one of `data`."""

    def plan(self, config: Config) -> Sequence[Cell]:
        _validate(config)
        cells: list[Cell] = []
        for split in ("tune", "test"):
            for data, runs in zip(config["data"], config[split], strict=True):
                cells += [
                    _make_cell(split, scenario, share, number, data)
                    for number in range(runs)
                    for scenario in SCENARIOS
                    for share in config["shares"]
                ]
            cells += [
                _make_cell(split, "clean", 0.0, number, _MAIN_DATA)
                for number in range(config["clean"])
            ]
        cells += [
            _make_cell("test", case, CASE_SHARE, number, _MAIN_DATA)
            for case in CASES
            if case != "clean"
            for number in range(config["cases"])
        ]
        cells += [
            _make_cell("recorded", "one", CASE_SHARE, number, _MAIN_DATA)
            for number in range(config["recorded"])
        ]
        return cells

    def run_cell(self, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
        plan = _draw_plan(config, cell)
        about: Row = {
            "run": cell.key,
            **{name: cell.parameters[name] for name in ("split", "scenario", "share", "data")},
            **{name: getattr(plan, name) for name in ("depth", "width", "optimizer", "schedule")},
        }
        if cell.parameters["split"] == "recorded":
            return [{**about, **compare_record(plan)}]
        return make_rows(about, plan, train(plan))

    def collect(self, config: Config, rows: Sequence[Row]) -> Tables:
        recorded = [row for row in rows if row["split"] == "recorded"]
        splits: dict[str, list[SignalRun]] = {"tune": [], "test": []}
        for run in make_runs([row for row in rows if row["split"] != "recorded"]):
            splits[str(run.about["split"])].append(run)
        main = {split: _select(runs, *SCENARIOS) for split, runs in splits.items()}
        learnable = {split: _select(runs, "clean", *SCENARIOS) for split, runs in splits.items()}
        learned = learn(learnable["tune"], trees=config["trees"])
        swapped = learn(learnable["test"], trees=config["trees"])
        cases = {case: _select(splits["test"], case) for case in CASES if case != "clean"}
        return {
            "results": make_threshold_table(main["test"], learned),
            "learned": make_learned_table(main, {"test": learned, "tune": swapped}),
            "budgets": make_budget_table(main["test"], learned),
            "accuracy": make_accuracy_table(main["test"]),
            "false-alarms": make_false_alarm_table(_select(splits["test"], "clean"), learned),
            "blind": make_blind_table(cases, learned),
            "recovery": make_recovery_table(main),
            "recorded": Table(tuple(recorded[0]), recorded),
        }

    def draw(self, config: Config, tables: Tables, folder: Path) -> None:
        weight_report.draw(tables, folder)

    def describe(self, config: Config, tables: Tables) -> str:
        return weight_report.describe(config, tables)


def _make_cell(split: str, scenario: str, share: float, number: int, data: str) -> Cell:
    return Cell(
        f"{split}-{data}-{scenario}-{share:g}-{number}",
        {"split": split, "scenario": scenario, "share": share, "number": number, "data": data},
    )


def _draw_plan(config: Config, cell: Cell) -> Plan:
    wanted: dict[str, Any] = dict(cell.parameters)
    recorded = wanted["split"] == "recorded"
    plan = draw_run(
        **wanted | ({"split": "test", "number": 1_000 + wanted["number"]} if recorded else {}),
        seed=config["seed"],
        intervals=config["intervals"],
        steps=config["steps"],
    )
    return plan._replace(schedule="constant") if recorded else plan


def _select(runs: Sequence[SignalRun], *scenarios: str) -> list[SignalRun]:
    return [run for run in runs if run.about["scenario"] in scenarios]


def _validate(config: Config) -> None:
    def fail(text: str) -> WrongUsage:
        return WrongUsage(text, slug="bad-config")

    for name in ("tune", "test"):
        if len(config[name]) != len(config["data"]):
            raise fail(f"{name} must have one number for each of data.")
        if min(config[name]) < 0 or config[name][0] < 2:
            raise fail(f"{name}: at least 2 runs of the first data set are needed.")
    if min(config["clean"], config["cases"], config["recorded"]) < 1:
        raise fail("clean, cases and recorded must be at least 1.")
    if config["intervals"] < MIN_INTERVALS or config["steps"] < 1 or config["trees"] < 1:
        raise fail(f"A run has at least {MIN_INTERVALS} intervals, an interval at least 1 step.")
    if not all(0 < share <= 1 for share in config["shares"]) or max(config["shares"]) < 0.05:
        raise fail("shares must be above 0 and at most 1, and one at least 0.05.")
    for data in config["data"]:
        if not is_available(data):
            raise fail(
                f"The images {data!r} are not on this machine. Fashion-MNIST is in Debian's"
                " package dataset-fashion-mnist; without it: --set data='[\"mnist\"]'"
                " --set tune='[5]' --set test='[8]'"
            )


EXPERIMENT = WeightAnalysisExperiment()
