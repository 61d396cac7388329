"""An experiment that does nothing useful, quickly: for tests of what runs experiments."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from milepost_experiments.experiment import Cell, Config, Inputs, Row, Table, Tables
from milepost_experiments.figures import draw_points, label, make_figure, save

from milepost.errors import WrongUsage


class Toy:
    """Tosses coins: `base` gives a chance, every other cell tosses `seeds` coins with it."""

    name = "toy"
    title = "How often does a coin show heads?"
    presets: Mapping[str, Config] = {
        "quick": {"seeds": 5, "chances": [0.2, 0.5], "label": "", "loud": False, "note": "a"},
        "paper": {"seeds": 50, "chances": [0.1, 0.9], "label": "", "loud": True, "note": "b"},
    }

    def plan(self, config: Config) -> Sequence[Cell]:
        if config["seeds"] < 1:
            raise WrongUsage("seeds must be at least 1.", slug="bad-config")
        base = Cell("base", {"base": True})
        tosses = [Cell(f"toss-{c}", {"chance": c}, needs=("base",)) for c in config["chances"]]
        return [*tosses, base]

    def run_cell(self, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
        trace = os.environ.get("TOY_TRACE")
        if trace:
            with Path(trace).open("a") as stream:
                stream.write(f"{cell.key}\n")
        if cell.key == os.environ.get("TOY_WAIT"):
            try:
                threading.Event().wait()
            finally:
                with Path(str(trace)).open("a") as stream:
                    stream.write("cleaned\n")
        if cell.key == os.environ.get("TOY_KILL"):
            os.kill(os.getpid(), 9)
        if "base" in cell.parameters:
            return [{"kind": "base", "start": 7}]
        chance = random.Random(f"{inputs['base'][0]['start']} {cell.key}")
        share = cell.parameters["chance"]
        heads = sum(chance.random() < share for _ in range(config["seeds"]))
        return [{"kind": "toss", "chance": share, "share": heads / config["seeds"] / 3}]

    def collect(self, config: Config, rows: Sequence[Row]) -> Tables:
        tossed = [
            {key: value for key, value in row.items() if key != "kind"}
            for row in rows
            if row["kind"] == "toss"
        ]
        return {"results": Table(("chance", "share"), tossed)}

    def draw(self, config: Config, tables: Tables, folder: Path) -> None:
        figure, axes = make_figure()
        x = [float(row["chance"]) for row in tables["results"].rows]
        y = [float(row["share"]) for row in tables["results"].rows]
        draw_points(axes, x, y, [v - 0.01 for v in y], [v + 0.01 for v in y], label="coins")
        label(axes, x="chance", y="heads", percent="xy")
        save(figure, folder)

    def describe(self, config: Config, tables: Tables) -> str:
        return f"{len(tables['results'].rows)} coins & <more>.\n\n| a | b |\n|---|---|\n| 1 | 2 |"


EXPERIMENT = Toy()
