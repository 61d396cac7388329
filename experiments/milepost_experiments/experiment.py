"""What an experiment is: cells that can be computed apart, and what is made of their rows.

`registry.EXPERIMENTS` lists them by name; `runner` computes the cells, `outputs` writes the files.
An experiment never sees folders, processes or progress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Value = str | int | float
Row = Mapping[str, Value]
Config = Mapping[str, Any]
"""Plain TOML values: text, numbers, booleans and lists of them."""
Inputs = Mapping[str, Sequence[Row]]
"""Rows of the cells that a cell needs, by their keys."""


@dataclass(frozen=True)
class Cell:
    """One piece of work, the same wherever and whenever it is done."""

    key: str
    """Its name and that of its file: letters, digits, dot, dash and underscore."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What it is about, as JSON can hold it."""
    needs: tuple[str, ...] = ()
    """Keys of cells whose rows it gets; they are computed before."""
    settings: tuple[str, ...] | None = None
    """The settings that decide its rows; None for all.  A change of others leaves it done."""
    shared: str = ""
    """What it is called in every experiment that computes the same cell from the same settings:
    its file may be copied from the folder of one to that of another.  Empty for its own alone."""


@dataclass(frozen=True)
class Table:
    """Rows of one CSV file under its columns, in order."""

    columns: tuple[str, ...]
    rows: Sequence[Row]


Tables = Mapping[str, Table]
"""By file name without suffix; one of them is RESULTS."""

RESULTS = "results"


class Experiment(Protocol):
    """One question to the system, asked over and over with stated seeds.

    One that measures time also has `measured`, the columns of its tables that hold times; they
    differ from run to run, and a repetition does not compare them.
    """

    @property
    def name(self) -> str:
        """What a person types."""

    @property
    def title(self) -> str:
        """The question in a line."""

    @property
    def presets(self) -> Mapping[str, Config]:
        """Complete configurations by name; all have the same keys and types."""

    def plan(self, config: Config) -> Sequence[Cell]:
        """The cells, in the order of their rows.

        Raises WrongUsage (slug bad-config) for values that make no sense.
        """

    def run_cell(self, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
        """The rows of one cell: a pure function of its arguments, called in a worker process."""

    def collect(self, config: Config, rows: Sequence[Row]) -> Tables:
        """The tables out of all rows."""

    def draw(self, config: Config, tables: Tables, folder: Path) -> None:
        """Write the figures, `plot.svg` and `plot.pdf` first, with `figures.save`."""

    def describe(self, config: Config, tables: Tables) -> str:
        """The page for people, in Markdown: what was asked, how, what came out, also badly."""
