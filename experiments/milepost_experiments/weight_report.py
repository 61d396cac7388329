"""Figures and page of the weight analysis, from its tables."""

from __future__ import annotations

from pathlib import Path

from milepost_experiments.experiment import Config, Tables
from milepost_experiments.figures import make_figure, save


def draw(tables: Tables, folder: Path) -> None:
    figure, axes = make_figure()
    save(figure, folder)


def describe(config: Config, tables: Tables) -> str:
    return "x"
