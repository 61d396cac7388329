"""The script that the README shows, run as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
PROJECT = """
import torch

torch.manual_seed(0)
images, labels = torch.randn(256, 1, 8, 8), torch.arange(256) % 10


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


def read_difference() -> list[str]:
    found = re.search(r"```diff\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def test_recording_changes_at_most_five_lines() -> None:
    added = [line for line in read_difference() if line.startswith("+")]
    assert 0 < len(added) <= 5


@pytest.mark.slow
def test_the_script_records_a_run_that_retraces(tmp_path: Path) -> None:
    script = [line[1:] for line in read_difference() if not line.startswith("-")]
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "train.py").write_text("\n".join(script) + "\n")
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "mnist-0001"
    assert json.loads((folder / "run.json").read_text())["complete"] is True
    assert "identical" in done.stderr
