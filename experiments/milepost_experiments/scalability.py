"""How long does weight analysis take, and does the time grow faster than the model?

    milepost experiment run scalability --preset quick

Figure 2 of the Diffusion paper times models of 5 to 200 hidden layers and suspects a threshold near
70,000 weights.  This goes through the same models and then on to 5 * 10^8 weights.  Large models
consist of many tensors that share two buffers, so that memory stays small; reading snapshots from
disk is not in these times.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from milepost.errors import WrongUsage
from milepost_experiments.experiment import Cell, Config, Inputs, Row, Table, Tables
from milepost_experiments.figures import BLUE, ORANGE, label, make_figure, save
from milepost_experiments.tables import format_markdown
from milepost_ml.distance import compute_change
from milepost_ml.signals import compute_run_signals

KNEE: Final = 70_000
"""Weights near which the paper saw the time rise."""
BEND: Final = 1.25
"""A slope that changes by this factor would be called a knee."""
SHARED: Final = 50_000_000
"""Weights in one of the tensors that large models repeat: with the other snapshot's 400 MB, more
than a cache holds."""
LARGE: Final = 1_000_000
WALK: Final = "metrics and score"
SIGNALS: Final = "all signals"
"""What is timed."""
_INPUTS, _CLASSES, _ROW = 784, 10, 1_000
_MAX_WEIGHTS: Final = 2_000_000_000

Weights = dict[str, NDArray[np.float32]]


class ScalabilityExperiment:
    """Cells are single models; each is measured several times."""

    name = "scalability"
    title = "How does the time of weight analysis grow with the model?"
    measured: Mapping[str, Sequence[str]] = {
        "results": ("seconds", "per_weight"),
        "fits": ("value",),
    }
    presets: Mapping[str, Config] = {
        "quick": {
            "seed": 3, "width": 16, "layers": [5, 20, 50, 100, 150, 200], "repeats": 3,
            "weights": [1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        },
        "paper": {
            "seed": 3, "width": 16, "layers": list(range(5, 201, 5)), "repeats": 15,
            "weights": [
                1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000,
                30_000_000, 100_000_000, 500_000_000,
            ],
        },
    }  # fmt: skip

    def plan(self, config: Config) -> Sequence[Cell]:
        if min(config["layers"]) < 1 or min(config["width"], config["repeats"]) < 1:
            raise WrongUsage("layers, width and repeats must be at least 1.", slug="bad-config")
        if not all(_ROW <= size <= _MAX_WEIGHTS for size in config["weights"]):
            text = f"weights must be between {_ROW:,} and {_MAX_WEIGHTS:,}."
            raise WrongUsage(text, slug="bad-config")
        return [
            *(Cell(f"layers-{n}", {"layers": n}) for n in config["layers"]),
            *(Cell(f"weights-{n}", {"weights": n}) for n in config["weights"]),
        ]

    def run_cell(self, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
        chance = np.random.default_rng(config["seed"])
        if "layers" in cell.parameters:
            series, layers = "layers", cell.parameters["layers"]
            before = make_layers(layers, config["width"], chance)
        else:
            series, layers = "weights", 0
            before = make_weights(cell.parameters["weights"], chance)
        moved: dict[int, NDArray[np.float32]] = {}
        for each in before.values():
            if id(each) not in moved:
                moved[id(each)] = each + np.float32(0.01) * chance.standard_normal(
                    each.shape, dtype=np.float32
                )
        after = {name: moved[id(each)] for name, each in before.items()}
        size = sum(each.size for each in before.values())
        score = compute_change(before, after).score
        # Signals of three intervals, of which all but the first have a movement before them.
        timed: dict[str, tuple[int, Callable[[], Any]]] = {
            WALK: (1, lambda: compute_change(before, after)),
            SIGNALS: (3, lambda: compute_run_signals([before, after, before, after])),
        }
        repeats = config["repeats"] if size < SHARED else max(1, config["repeats"] // 5)
        rows: list[Row] = []
        for what, (intervals, work) in timed.items():
            seconds = measure(work, repeats) / intervals
            rows.append(
                {
                    "series": series,
                    "layers": layers,
                    "weights": size,
                    "what": what,
                    "score": score,
                    "repeats": repeats,
                    "seconds": seconds,
                    "per_weight": seconds / size,
                }
            )
        return rows

    def collect(self, config: Config, rows: Sequence[Row]) -> Tables:
        return {
            "results": Table(tuple(rows[0]), rows),
            "fits": Table(("what", "fit", "value"), compute_fits(rows)),
        }

    def draw(self, config: Config, tables: Tables, folder: Path) -> None:
        figure, (small, large) = make_figure(2, height=3.2)
        colours = {WALK: BLUE, SIGNALS: ORANGE}
        for axes, series in ((small, "layers"), (large, "weights")):
            for what, colour in colours.items():
                points = _select(tables["results"].rows, what, series)
                x, y = [each[0] for each in points], [each[1] for each in points]
                scale = 1e3 if series == "layers" else 1.0
                axes.plot(
                    x, [each * scale for each in y], "o-", markersize=3, color=colour, label=what
                )
        small.axvline(KNEE, color="#777777", linewidth=0.8, linestyle="--")
        label(small, title="5 to 200 hidden layers", x="weights", y="milliseconds a pair")
        large.set_xscale("log")
        large.set_yscale("log")
        label(large, title="On to 500 million weights", x="weights", y="seconds a pair")
        small.set_ylim(bottom=0)
        small.legend(loc="upper left")
        save(figure, folder)

    def describe(self, config: Config, tables: Tables) -> str:
        fits = {(row["what"], row["fit"]): float(row["value"]) for row in tables["fits"].rows}
        slope = fits[WALK, "exponent"]
        knee = fits[WALK, "slope beyond / before the knee"]
        largest = max(int(row["weights"]) for row in tables["results"].rows)
        return (
            "The Diffusion paper's Figure 2 again: processor time to compare two snapshots, by"
            " number of weights, and far beyond it.\n\n"
            f"Time grows with weights to the power {slope:.3f} between {LARGE:,} and"
            f" {largest:,} weights (1 is linear). In the paper's range the time per further weight"
            f" is, beyond half of {KNEE:,} weights, {knee:.2f} times what it is before:"
            f" {'no' if 1 / BEND < knee < BEND else 'a'} knee near {KNEE:,}.\n\n"
            f"`{WALK}` is one walk over both snapshots: the four metrics and the change score, of"
            f" the model and of every tensor. `{SIGNALS}` adds where the movement went and whether"
            " it turned back.\n\n"
            "Times are processor seconds of all threads together, the least of several repeats,"
            " measured on the machine named in the manifest; those columns differ from run to"
            " run.\n\n"
            f"{format_markdown(tables['fits'])}\n"
        )


def make_layers(layers: int, width: int, chance: np.random.Generator) -> Weights:
    """A dense network on MNIST with that many hidden layers."""
    sizes = (_INPUTS, *[width] * layers, _CLASSES)
    weights: Weights = {}
    for k, (size, out) in enumerate(itertools.pairwise(sizes)):
        weights[f"{k}.weight"] = chance.standard_normal((out, size), dtype=np.float32)
        weights[f"{k}.bias"] = chance.standard_normal(out, dtype=np.float32)
    return weights


def make_weights(count: int, chance: np.random.Generator) -> Weights:
    """Matrices with `count` weights in all; those of SHARED weights are one and the same."""
    whole, rest = divmod(count, SHARED)
    shared = chance.standard_normal((SHARED if whole else 0) // _ROW * _ROW, dtype=np.float32)
    weights = {}
    matrix = shared.reshape(-1, _ROW)
    for k in range(whole):
        weights[f"{k}.weight"] = matrix
    if rest:
        size = (rest // _ROW, _ROW)
        weights["rest.weight"] = chance.standard_normal(size, dtype=np.float32)
    return weights


def measure(work: Callable[[], Any], repeats: int) -> float:
    """The least processor time of a call, after one that does not count where calls are many."""
    if repeats > 1:
        work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def compute_fits(rows: Sequence[Row]) -> list[Row]:
    """The exponent of time over weights, and whether the slope changes in the paper's range."""
    fits: list[Row] = []
    for what in dict.fromkeys(str(row["what"]) for row in rows):
        large = [each for each in _select(rows, what, "weights") if each[0] >= LARGE]
        if len(large) > 1:
            x, y = zip(*((math.log(n), math.log(t)) for n, t in large), strict=True)
            fits.append({"what": what, "fit": "exponent", "value": _compute_slope(x, y)})
            fits.append(
                {"what": what, "fit": "weights a second", "value": large[-1][0] / large[-1][1]}
            )
        small = _select(rows, what, "layers")
        halves = (
            [each for each in small if each[0] <= KNEE / 2],
            [each for each in small if each[0] >= KNEE / 2],
        )
        if min(map(len, halves)) > 1:
            first, second = (_compute_slope(*zip(*half, strict=True)) for half in halves)
            name = "slope beyond / before the knee"
            fits.append({"what": what, "fit": name, "value": second / first})
    return fits


def _select(rows: Sequence[Row], what: str, series: str) -> list[tuple[float, float]]:
    """(weights, seconds) of one series, by weights."""
    return sorted(
        (float(row["weights"]), float(row["seconds"]))
        for row in rows
        if row["what"] == what and row["series"] == series
    )


def _compute_slope(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.polyfit(x, y, 1)[0])


EXPERIMENT = ScalabilityExperiment()
