"""Figures as SVG and PDF: the same data give the same bytes, and all look alike.

matplotlib is imported when something is drawn, and never opens a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT: Final = "plot"
"""The first figure of every experiment."""

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
SKY: Final = "#56B4E9"
YELLOW: Final = "#E69F00"
GREY: Final = "#777777"
COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, GREY)

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "milepost",
    "pdf.compression": 6,
    "figure.constrained_layout.use": True,
}


def make_figure(columns: int = 1, rows: int = 1, *, width: float = 7.2, height: float = 3.6) -> Any:
    """A figure with a grid of axes: (figure, axes), the axes as `plt.subplots` gives them."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def save(figure: Figure, folder: Path, name: str = PLOT) -> None:
    """Write NAME.svg and NAME.pdf without dates or anything else of the moment."""
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": "milepost"})
    figure.savefig(
        folder / f"{name}.pdf",
        metadata={"CreationDate": None, "Creator": "milepost", "Producer": None},
    )


def draw_points(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    **style: Any,
) -> None:
    """Points with the ends of their intervals as bars."""
    below = [value - end for value, end in zip(y, low, strict=True)]
    above = [end - value for value, end in zip(y, high, strict=True)]
    settings = {"linestyle": "none", "marker": "o", "markersize": 4, "capsize": 3, **style}
    axes.errorbar(x, y, yerr=[below, above], **settings)


def label(axes: Axes, *, title: str = "", x: str = "", y: str = "", percent: str = "") -> None:
    """Title and axes; `percent` names the axes ("x", "y", "xy") that show shares as per cent."""
    from matplotlib.ticker import PercentFormatter

    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for name in percent:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_formatter(PercentFormatter(1.0))
