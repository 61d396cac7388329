"""The Lightning adapter, in a process that has Lightning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import frameworks

SCRIPT = Path(frameworks.__file__).parent / "scripts" / "lightning_runs.py"


@pytest.mark.slow
def test_it_trains_what_a_plain_loop_trains_and_refuses_the_rest_by_name(tmp_path: Path) -> None:
    done = frameworks.run_with(frameworks.LIGHTNING, SCRIPT, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("same") == [True, True]
    words = {
        "precision": "bf16-mixed",
        "distributed": "DDPStrategy with 2 devices",
        "manual": "manual optimization",
        "hook": "overrides backward",
        "skipped": "gave no loss",
        "endless": "max_steps",
        "other data": "run.loader(dataset)",
        "no callback": "callbacks=[run.lightning()]",
    }
    frameworks.assert_refused(said, words)
