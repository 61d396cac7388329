"""Cells on a Ray cluster, in a process of its own: Ray is installed for this test alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from milepost_experiments.__main__ import main
from milepost_experiments.registry import EXPERIMENTS

from milepost.cli import exits
from tests.support.install import install_apart

RAY: Final = "ray==2.60.0"
TIMEOUT_SECONDS: Final = 300
TOY: Final = "tests.support.toy_experiment"
SCRIPT: Final = f"""
import sys
from milepost_experiments.__main__ import main
from milepost_experiments.registry import EXPERIMENTS
EXPERIMENTS["toy"] = "{TOY}"
sys.exit(main(["run", "toy", "--executor", "ray", "--jobs", "2", *sys.argv[1:]]))
"""


def run_on_ray(out: Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = [str(install_apart(RAY)), *(folder for folder in sys.path if folder)]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "--out", str(out)],
        # Ray keeps a token in the home folder.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@pytest.mark.slow
def test_a_cluster_goes_on_after_a_killed_worker_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = run_on_ray(tmp_path / "there", tmp_path, TOY_KILL="toss-0.5")
    assert dead.returncode == exits.MACHINE_CANNOT, dead.stderr
    assert "worker-died" in dead.stderr
    assert any((tmp_path / "there" / "cells").iterdir())
    done = run_on_ray(tmp_path / "there", tmp_path)
    assert done.returncode == exits.YES, done.stderr
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    assert main(["run", "toy", "--out", str(tmp_path / "here")]) == exits.YES
    for name in ("results.csv", "plot.svg"):
        here, there = tmp_path / "here" / name, tmp_path / "there" / name
        assert here.read_bytes() == there.read_bytes()


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert main(["run", "toy", "--executor", "cloud", "--out", str(out)]) == exits.USAGE
    assert "there are processes and ray" in capsys.readouterr().err
    assert not out.exists()
    assert main(["run", "toy", "--executor", "ray", "--out", str(out)]) == exits.MACHINE_CANNOT
    assert "pip install ray" in capsys.readouterr().err
