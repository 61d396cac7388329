"""The whole experiment, tiny: its cells, its tables twice the same, its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from milepost_experiments.__main__ import main
from milepost_experiments.experiment import Cell
from milepost_experiments.weight_analysis import EXPERIMENT

from milepost.cli import exits
from milepost.errors import WrongUsage

QUICK = EXPERIMENT.presets["quick"]
TINY = ("steps=4", "tune=[2]", "test=[2]", "clean=1", "cases=1", "trees=4", "intervals=12")


def test_presets_are_complete_and_plan_what_they_say() -> None:
    assert {name: type(value) for name, value in QUICK.items()} == {
        name: type(value) for name, value in EXPERIMENT.presets["paper"].items()
    }
    cells = EXPERIMENT.plan(QUICK)
    assert len({cell.key for cell in cells}) == len(cells)
    assert len(cells) == 2 * (3 * 4 * 2 + 3) + 5 * 2 + 1
    assert sum(cell.parameters["split"] == "test" for cell in cells) == 3 * 4 * 2 + 3 + 5 * 2


def test_a_cell_of_the_quick_preset_is_a_function_of_its_arguments() -> None:
    cell = next(cell for cell in EXPERIMENT.plan(QUICK) if cell.parameters["scenario"] == "one")
    assert isinstance(cell, Cell)
    rows = EXPERIMENT.run_cell(QUICK, cell, {})
    assert len(rows) == QUICK["intervals"]
    assert sum(int(row["poisoned"]) for row in rows) == 1
    assert rows == EXPERIMENT.run_cell(QUICK, cell, {})
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"data": ["mnist", "fashion"]}, "one number for each"),
        ({"data": ["letters"]}, "'letters' are not on this machine"),
        ({"tune": [1]}, "at least 2 runs"),
        ({"clean": 0}, "at least 1"),
        ({"intervals": 5}, "at least 12 intervals"),
        ({"shares": [0.01]}, "one at least 0.05"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    change: dict[str, object], text: str
) -> None:
    with pytest.raises(WrongUsage, match=text) as caught:
        EXPERIMENT.plan({**QUICK, **change})
    assert caught.value.slug == "bad-config"


@pytest.mark.slow
def test_the_same_manifest_gives_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = [part for text in TINY for part in ("--set", text)]
    arguments = ["weight-analysis", "--out", str(out), "--jobs", "2", *settings]
    assert main(["run", *arguments]) == exits.YES
    assert main(["run", str(out / "manifest.json")]) == exits.YES
    again = tmp_path / "out-again"
    for path in out.glob("*.csv"):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    page = (out / "report.md").read_text()
    assert "## Where the analysis is blind" in page
    assert "nan" not in page
    assert (out / "plot.svg").stat().st_size > 10_000
