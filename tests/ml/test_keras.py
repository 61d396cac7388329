"""Keras on TensorFlow, in processes of their own: TensorFlow is installed for these tests alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from milepost_ml.arithmetic.known_answer import get_device_classes
from milepost_ml.errors import MissingFramework
from milepost_ml.files import RUN, FolderFiles
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import retrace_recorded
from tests.support.keras_apart import run_with_keras

ROOT: Final = Path(__file__).parents[2]
APART: Final = ROOT / "tests" / "keras_apart"
GUIDE: Final = ROOT / "docs" / "guides" / "keras"


@pytest.mark.slow
def test_with_tensorflow(tmp_path: Path) -> None:
    """All in one process: to load TensorFlow takes longer than most tests."""
    options = ("-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "pytest"))
    answer = run_with_keras("-m", "pytest", *options, str(APART), cwd=ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " passed" in answer.stdout
    assert "skipped" not in answer.stdout


@pytest.mark.slow
def test_the_guide_records_a_run_that_others_without_tensorflow_cannot_judge(
    tmp_path: Path,
) -> None:
    before = run_with_keras(str(GUIDE / "before.py"), cwd=tmp_path)
    assert before.returncode == 0, before.stderr
    after = run_with_keras(str(GUIDE / "after.py"), cwd=tmp_path)
    assert after.returncode == 0, after.stderr
    folder = tmp_path / "runs" / "keras-mnist-0001"
    assert "interval 0 retraced in" in after.stderr
    assert ", identical" in after.stderr
    assert '"complete": true' in (folder / RUN).read_text()
    _, recipe = read_recipe(FolderFiles(folder))
    assert (recipe.steps, recipe.intervals) == (100, 4)
    assert recipe.device_class not in get_device_classes()[0]
    with pytest.raises(MissingFramework, match=r"milepost\[tensorflow\]"):
        retrace_recorded(folder, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "environment", "what"),
    [
        ("import keras; keras.layers.Dense(3).build((None, 2))", {}, "before the first layer"),
        ("import keras", {"KERAS_BACKEND": "torch"}, "Keras runs on torch here"),
    ],
)
def test_what_is_set_up_otherwise_is_refused(
    lines: str, environment: dict[str, str], what: str, tmp_path: Path
) -> None:
    script = f"{lines}\nimport milepost\nmilepost.Run('late', every=3)"
    answer = run_with_keras("-c", script, cwd=tmp_path, **environment)
    assert answer.returncode == 1
    assert "RecordingError" in answer.stderr
    assert what in answer.stderr


def test_nothing_of_milepost_loads_keras_unasked() -> None:
    script = (
        "import sys, milepost, milepost.cli.main, milepost_ml.replay, milepost_ml.admission\n"
        "assert not {'keras', 'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
