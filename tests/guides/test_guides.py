"""The examples that people copy: they run, retrace exactly, and change at most five lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milepost_ml.files import RECIPE, SELFCHECK
from milepost_ml.recipe import decode_recipe
from tests.support.frameworks import LIGHTNING, TRANSFORMERS, run_with
from tests.support.guides import GUIDES, count_changed, diff_guide

PACKAGES = {"pytorch": (), "lightning": LIGHTNING, "transformers": TRANSFORMERS}
ALL = (*PACKAGES, "keras")
"""Keras is run by tests/ml/test_keras.py: its runs are retrained in TensorFlow."""
DOCUMENTS = [GUIDES.parent / name for name in ("spec/rules.md", "glossary.md")]
"""Two of a tone so different that a few steps suffice, however often they are edited."""
MAX_CHANGED = 5
PAGE = (GUIDES / "README.md").read_text()


@pytest.mark.parametrize("name", ALL)
def test_a_guide_changes_few_lines(name: str) -> None:
    assert 0 < count_changed(name) <= MAX_CHANGED


@pytest.mark.parametrize("name", ALL)
def test_the_page_shows_what_a_guide_changes(name: str) -> None:
    shown = "\n".join(["```diff", *diff_guide(name), "```"])
    assert shown in PAGE, f"docs/guides/README.md should hold:\n{shown}"


def read_result(name: str, file: str, folder: Path) -> float:
    """Run a script; the number that ends its last line."""
    done = run_with(PACKAGES[name], GUIDES / name / file, *DOCUMENTS, folder=folder)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1].split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_guide_records_a_run_that_retraces_exactly(name: str, tmp_path: Path) -> None:
    learnt = read_result(name, "after.py", tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    recipe = decode_recipe((folder / RECIPE).read_bytes())
    assert recipe.profile == "exact"
    assert json.loads((folder / SELFCHECK).read_bytes())["identical"] is True
    # The self-check was interval 0; a fresh process without the framework retraces the last.
    last = str(recipe.intervals - 1)
    command = [sys.executable, "-m", "milepost_ml.selfcheck", str(folder), last]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    # The orders of the data differ; both scripts print a share of hits, or a loss.
    assert learnt == pytest.approx(read_result(name, "before.py", tmp_path), abs=0.1)
