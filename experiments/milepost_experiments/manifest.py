"""manifest.json: what a run was, so that somebody else can repeat it and compare every byte."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from milepost import __version__
from milepost_experiments.jobs import Job
from milepost_experiments.store import write_text

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
        "outputs": compute_outputs(folder),
    }
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


def compute_outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of every table and figure, by file name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".csv", ".svg", ".pdf")
    }


def find_differences(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """The CSV files that are not, byte for byte, what a manifest says they were."""
    found = compute_outputs(folder)
    return [
        name
        for name, digest in expected.items()
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
    """The commit of the checkout that this code lies in, with "+" if it was changed since."""
    where = Path(__file__).parent
    commit = _run_git(where, "rev-parse", "HEAD")
    if commit is None:
        return ""
    return commit + ("+" if _run_git(where, "status", "--porcelain", "--", "..") else "")


def _run_git(where: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(where), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
