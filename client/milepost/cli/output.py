"""How the commands speak: data to standard output, talk to standard error, JSON on request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console

MARKS: Final = {
    "pass": ("✓", "green"),
    "note": ("~", "yellow"),
    "fail": ("✗", "red"),
    "unknown": ("?", "yellow"),
}
"""State of a check: sign and colour.  The sign alone must do, colour may be off."""

# Rich itself honours NO_COLOR, FORCE_COLOR and TERM=dumb.
_out = Console(highlight=False, soft_wrap=True)
_err = Console(highlight=False, soft_wrap=True, stderr=True)


def say(text: str = "", *, style: str = "") -> None:
    """One line of data for people, on standard output.  Markup characters are printed as such."""
    _out.print(text, style=style or None, markup=False)


def tell(text: str = "", *, style: str = "") -> None:
    """One line of talk, on standard error."""
    _err.print(text, style=style or None, markup=False)


def print_json(value: Any) -> None:
    """The one JSON object of a command, on standard output."""
    _out.file.write(json.dumps(value, indent=2) + "\n")
    _out.file.flush()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """A plain table: dim headings, two spaces between columns, nothing ever cut off."""
    listed = [list(row) for row in rows]
    widths = [max(map(len, cells)) for cells in zip(columns, *listed, strict=True)]

    def join(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, cell, width in zip(columns, cells, widths, strict=True)
        ]
        return "  ".join(parts).rstrip()

    say(join(columns), style="dim")
    for row in listed:
        say(join(row))


def print_check(state: str, name: str, detail: str) -> None:
    """One line of a list of checks: sign, name, detail; further lines of the detail indented."""
    sign, style = MARKS[state]
    first, *rest = detail.splitlines() or [""]
    _out.print(f"  {sign} ", style=style, end="", markup=False)
    _out.print(f"{name:<11} {first}", markup=False)
    for line in rest:
        _out.print(f"{'':<15} {line}".rstrip(), markup=False)


def format_time(time_ms: int) -> str:
    """A block's time in UTC; out of range of a calendar, the number itself."""
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms"
