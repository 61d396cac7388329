"""`milepost show RUN --tensors K`: which parameters one interval moved, from its two snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost.cli import output
from milepost.cli.provide import provide_extra
from milepost.errors import WrongUsage

if TYPE_CHECKING:
    from milepost.runs import RunFolder
    from milepost_ml.distance import Change


def show_tensors(run: RunFolder, interval: int, *, json_wanted: bool) -> None:
    """Show every parameter's part in one interval's movement, the largest part first."""
    if not 0 <= interval < len(run.journal):
        raise WrongUsage(
            f"{run.folder} has {len(run.journal)} intervals on disk, counted from 0; there is no"
            f" interval {interval}.",
            slug="no-such-thing",
        )
    provide_extra("ml", "Comparing snapshots needs", install=False)
    from milepost_ml.weight_analysis import analyse_interval

    change = analyse_interval(run.folder, interval)
    if json_wanted:
        output.print_json(to_view(interval, change))
        return
    output.say(f"{run.folder}  interval {interval}", style="bold")
    numbers = ("values", "share", "change", "L2", "percent", "cosine")
    rows = [
        (
            name,
            f"{each.size:,}",
            f"{100 * each.share:.1f} %",
            f"{each.distances.absolute:.4g}",
            f"{each.distances.l2:.4g}",
            f"{each.distances.percent:.4g}",
            f"{each.distances.cosine:.3e}",
        )
        for name, each in sorted(
            change.tensors.items(), key=lambda item: item[1].share, reverse=True
        )
    ]
    output.print_table(("parameter", *numbers), rows, right=numbers)


def to_view(interval: int, change: Change) -> dict[str, Any]:
    """The same as one JSON object; parameters by name."""
    return {
        "interval": interval,
        **change.distances._asdict(),
        "change_score": change.score,
        "tensors": [
            {
                "name": name,
                "values": each.size,
                "share": each.share,
                **each.distances._asdict(),
                "change_score": each.score,
            }
            for name, each in change.tensors.items()
        ],
    }
