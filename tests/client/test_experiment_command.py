"""`milepost experiment`: hands everything on to a process of its own, and imports nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milepost import extras
from milepost.cli import exits
from milepost.cli.provide import provide_extra
from milepost.errors import MachineCannot
from tests.support.cli import run_cli

pytestmark = pytest.mark.slow  # starts processes


def test_the_list_and_the_behaviours_are_told() -> None:
    listed = run_cli("experiment", "list")
    assert listed.code == exits.YES
    for name in ("malicious-nodes", "verification-cost"):
        assert f"{name} " in listed.out
    behaviours = run_cli("experiment", "behaviours", modules=True)
    assert behaviours.code == exits.YES
    assert "chaotic" in behaviours.out
    assert not {name for name in behaviours.modules if name.startswith("milepost_experiments")}


def test_wrong_input_keeps_its_message_and_exit_code(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('experiment = "malicious-nodes"\nnods = 3\n')
    outcome = run_cli("experiment", "run", config, "--out", tmp_path / "out")
    assert outcome.code == exits.USAGE
    assert "has no setting 'nods'" in outcome.err
    assert "[bad-config]" in outcome.err
    assert not (tmp_path / "out").exists()


def test_options_arrive(tmp_path: Path) -> None:
    arguments = ("--seeds", "0", "--fidelity", "replay", "--jobs", "2", "--preset", "paper")
    outcome = run_cli("experiment", "run", "malicious-nodes", "--out", tmp_path / "out", *arguments)
    assert outcome.code == exits.USAGE
    assert "seeds must be between" in outcome.err
    outcome = run_cli("experiment", "run", "malicious-nodes", "--fidelity", "none")
    assert outcome.code == exits.USAGE
    assert 'fidelity must be "replay" or "full"' in outcome.err


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    outcome = run_cli("experiment", "report", tmp_path)
    assert outcome.code == exits.USAGE
    (tmp_path / "manifest.json").write_text(json.dumps({"experiment": "malicious-nodes"}))
    outcome = run_cli("experiment", "report", tmp_path)
    assert outcome.code == exits.USAGE
    assert "no manifest of an experiment" in outcome.err


def test_without_its_packages_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_missing", lambda extra: ("scipy>=1.13",))
    monkeypatch.setattr(extras, "get_requirements", lambda extra: ("scipy>=1.13",))
    with pytest.raises(MachineCannot, match=r"need scipy>=1\.13\. Install them: .*pip install"):
        provide_extra("experiments", "The experiments need", install=False)
