"""manifest.json: what a run was, so that somebody else can repeat it and compare every byte."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from milepost import __version__
from milepost_experiments.experiment import Table
from milepost_experiments.jobs import Job
from milepost_experiments.store import write_text
from milepost_experiments.tables import format_csv, read_tables

MANIFEST: Final = "manifest.json"
PACKAGES: Final = ("matplotlib", "mlxtend", "numba", "numpy", "scikit-learn", "scipy", "torch")


def write_manifest(folder: Path, job: Job) -> None:
    """Describe the run in `folder` and everything that it wrote."""
    content = {
        "experiment": job.experiment.name,
        "preset": job.preset,
        "config": dict(job.config),
        "versions": get_versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "commit": find_commit(),
        "measured": {name: list(columns) for name, columns in get_measured(job).items()},
        "outputs": compute_outputs(folder, job),
    }
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


def compute_outputs(folder: Path, job: Job) -> dict[str, str]:
    """SHA-256 of every table and figure, by file name; of a table without what was measured."""
    outputs = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".csv", ".svg", ".pdf")
    }
    tables = read_tables(folder)
    for name, columns in get_measured(job).items():
        kept = tuple(each for each in tables[name].columns if each not in columns)
        rows = [{column: row[column] for column in kept} for row in tables[name].rows]
        text = format_csv(Table(kept, rows))
        outputs[f"{name}.csv"] = hashlib.sha256(text.encode()).hexdigest()
    return outputs


def get_measured(job: Job) -> Mapping[str, Sequence[str]]:
    """Columns that hold times, by table: no two runs agree on them."""
    measured: Mapping[str, Sequence[str]] = getattr(job.experiment, "measured", {})
    return measured


def find_differences(folder: Path, job: Job) -> list[str]:
    """The CSV files that are not, byte for byte, what the job's manifest says they were.

    Columns that hold times are left out of the comparison.
    """
    found = compute_outputs(folder, job)
    return [
        name
        for name, digest in job.expected.items()
        if name.endswith(".csv") and found.get(name) != digest
    ]


def get_versions() -> dict[str, str]:
    """What the numbers may depend on."""
    versions = {"python": platform.python_version(), "milepost": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def find_commit() -> str:
    """The commit of the checkout that this code lies in; "+" if this package changed since."""
    where = Path(__file__).parent
    commit = _run_git(where, "rev-parse", "HEAD")
    if commit is None:
        return ""
    return commit + ("+" if _run_git(where, "status", "--porcelain", "--", ".") else "")


def _run_git(where: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(where), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
