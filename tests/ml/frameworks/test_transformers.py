"""The adapter for Hugging Face's Trainer, in a process that has transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milepost_ml.selfcheck import check_interval
from tests.support import frameworks

SCRIPT = Path(frameworks.__file__).parent / "scripts" / "transformers_runs.py"


@pytest.mark.slow
def test_it_trains_what_the_trainer_trains_and_refuses_the_rest_by_name(tmp_path: Path) -> None:
    done = frameworks.run_with(frameworks.TRANSFORMERS, SCRIPT, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    one, two = said.pop("distances")
    assert one == 0
    # The Trainer divides each batch's sum by the labels of both, the record by its own, then by 2.
    assert two < 1e-6
    bert = said.pop("bert")
    assert bert["profile"] == "exact"
    assert bert["same file"]
    assert check_interval(Path(bert["folder"]), 1).identical
    words = {
        "precision": "bf16=True",
        "best": "load_best_model_at_end",
        "noise": "neftune_noise_alpha",
        "masking": "gives another input_ids the second time",
        "stream": "has no length",
        "ragged": "5 to 9 labels",
    }
    frameworks.assert_refused(said, words)
