"""Tables as CSV files: the same values give the same bytes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from milepost_experiments.experiment import Table, Tables, Value
from milepost_experiments.store import write_text


def format_csv(table: Table) -> str:
    """One line of columns and one a row; numbers with six significant digits."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        assert set(row) <= set(table.columns), sorted(set(row) - set(table.columns))
        writer.writerow([_format(row.get(column, "")) for column in table.columns])
    return stream.getvalue()


def write_tables(tables: Tables, folder: Path) -> None:
    """Every table as NAME.csv."""
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", format_csv(table))


def read_tables(folder: Path) -> dict[str, Table]:
    """The tables of a folder as they were written, numbers as numbers."""
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            columns, *rows = list(csv.reader(stream))
        listed = [
            {column: _parse(text) for column, text in zip(columns, row, strict=True)}
            for row in rows
        ]
        tables[path.stem] = Table(tuple(columns), listed)
    return tables


def _format(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _parse(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def format_markdown(table: Table) -> str:
    """The table for a page."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += [
        "| " + " | ".join(_format(row.get(column, "")) for column in table.columns) + " |"
        for row in table.rows
    ]
    return "\n".join(lines)
