from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from milepost import runs
from milepost.errors import WrongUsage
from tests.support.cli import run_cli


def make_line(interval: int, absolute: float) -> dict[str, Any]:
    return {
        "interval": interval,
        "steps": 20,
        "loss": 0.5,
        "rate_sum": 1_000_000_000,
        "absolute": absolute,
        "l2": 1.0,
        "percent": 2.0,
        "cosine": 0.01,
        "seconds": 0.3,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose interval 7 moves ten times as much as its neighbours."""
    (tmp_path / "run.json").write_text(
        json.dumps({"name": "fraud", "complete": True, "steps": 240})
    )
    changes = [100.0 / (k + 1) ** 0.3 * (10 if k == 7 else 1) for k in range(12)]
    lines = [json.dumps(make_line(k, change)) for k, change in enumerate(changes)]
    (tmp_path / "journal.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "selfcheck.json").write_text('{"message": "interval 0 retraced, identical"}')
    return tmp_path


def test_a_run_shows_what_stands_out(folder: Path) -> None:
    run = runs.read_run(folder)
    # A jump implicates its predecessor as well.
    assert [line.interval for line in run.journal if line.flagged] == [6, 7]
    assert run.journal[7].absolute == pytest.approx(1000 / 8**0.3)
    done = run_cli("show", folder)
    assert done.code == 0
    assert "fraud  complete" in done.out
    assert "2 of 12 intervals stand out (▲): 6, 7" in done.out
    assert "Self-check: interval 0 retraced, identical" in done.out
    assert "milepost submit" in done.err
    longest = max(done.out.splitlines(), key=lambda line: line.count("█"))
    assert longest.split()[0] == "7"


def test_show_gives_a_run_as_one_json_object(folder: Path) -> None:
    view = run_cli("show", folder, "--json").json
    assert view["flagged"] == [6, 7]
    assert (view["run"]["name"], len(view["journal"]), view["proof"]) == ("fraud", 12, None)


def test_a_run_that_just_began_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "young", "complete": false}')
    run = runs.read_run(tmp_path)
    assert (run.journal, run.selfcheck, run.proof) == ((), None, None)
    done = run_cli("show", tmp_path)
    assert done.code == 0
    assert "young  not complete" in done.out
    assert "0 of 0 intervals" in done.out


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage) as caught:
        runs.read_run(tmp_path)
    assert caught.value.slug == "no-such-thing"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[1]"),
        ("journal.jsonl", "{}\n"),
        ("journal.jsonl", "[]\n"),
        ("journal.jsonl", '{"interval": "x"}\n'),
        ("journal.jsonl", json.dumps({**make_line(0, 1.0), "absolute": float("nan")})),
        ("journal.jsonl", json.dumps({**make_line(0, 1.0), "absolute": float("inf")})),
        ("journal.jsonl", json.dumps(make_line(0, 1.0)) + " " * 70_000),
        ("journal.jsonl", (json.dumps(make_line(0, 1.0)) + "\n") * 2_049),
        ("selfcheck.json", "\x00"),
    ],
)
def test_a_spoilt_file_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(WrongUsage) as caught:
        runs.read_run(folder)
    assert caught.value.slug == "bad-run"
    assert name in str(caught.value)
