"""The folder of one run: its configuration, and one file for every cell that is done.

    DIR/config.toml   DIR/cells/KEY.json

A cell's file names the digest of everything that decides its rows.  Whoever runs the same again
finds it done; after a change of the configuration it does not fit and is computed anew.  Files
appear whole or not at all, so that a run may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from milepost import __version__
from milepost.errors import WrongUsage
from milepost_experiments.experiment import Cell, Row
from milepost_experiments.jobs import Job

CONFIG: Final = "config.toml"
CELLS: Final = "cells"
_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,120}")


class Store:
    """The cells of a job in a folder."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder = folder
        self._job = job

    def open(self) -> None:
        """Make the folder; raises WrongUsage (folder-in-use) if it holds something else."""
        if self.folder.exists() and not self.folder.is_dir():
            raise _in_use(f"{self.folder} is a file")
        if self.folder.is_dir() and any(self.folder.iterdir()):
            name = read_experiment_name(self.folder)
            if name != self._job.experiment.name:
                raise _in_use(f"{self.folder} holds results of {name}")
        (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        head = {"experiment": self._job.experiment.name, "preset": self._job.preset}
        text = format_toml({**head, **self._job.config})
        write_text(self.folder / CONFIG, text)

    def read(self, cell: Cell) -> list[Row] | None:
        """The rows of a cell that was done with this configuration, else None."""
        try:
            read = json.loads(self._get_path(cell).read_text(encoding="utf-8"))
            if read["digest"] != self._compute_digest(cell):
                return None
            rows: list[Row] = read["rows"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return rows

    def write(self, cell: Cell, rows: Sequence[Row]) -> None:
        """Keep the rows of a cell."""
        content = {"digest": self._compute_digest(cell), "rows": list(rows)}
        write_text(self._get_path(cell), json.dumps(content, indent=1) + "\n")

    def forget(self) -> None:
        """Remove every cell that was kept."""
        for path in (self.folder / CELLS).glob("*.json"):
            path.unlink()

    def _get_path(self, cell: Cell) -> Path:
        assert _KEY.fullmatch(cell.key), cell.key
        return self.folder / CELLS / f"{cell.key}.json"

    def _compute_digest(self, cell: Cell) -> str:
        config = self._job.config
        names = config if cell.settings is None else cell.settings
        decisive = {
            "of": cell.shared or self._job.experiment.name,
            "version": __version__,
            "config": {name: config[name] for name in names},
            "cell": [cell.key, cell.parameters, cell.needs],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read_experiment_name(folder: Path) -> str:
    """Which experiment a folder belongs to; raises WrongUsage (folder-in-use) if to none."""
    try:
        name = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")).get("experiment")
    except (OSError, ValueError) as error:
        raise _in_use(f"{folder} is not the folder of an experiment") from error
    if not isinstance(name, str):
        raise _in_use(f"{folder} is not the folder of an experiment")
    return name


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def format_toml(values: Mapping[str, Any]) -> str:
    """TOML of plain values; lists on one line."""
    return "".join(f"{key} = {_format_value(value)}\n" for key, value in values.items())


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value)
    return repr(value)


def _in_use(text: str) -> WrongUsage:
    return WrongUsage(f"{text}. Choose another --out.", slug="folder-in-use")
