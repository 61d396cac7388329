"""A failing schedule becomes small, and stays the failure that it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milepost_consensus.outbox import Outbox
from tests.simulation import __main__ as command
from tests.simulation.generators import GENERATORS
from tests.simulation.minimise import minimise
from tests.simulation.options import Change, Fault, Options, Run, load
from tests.simulation.play import find_violation


def make_options() -> Options:
    faults = tuple(Fault("pause", 10 * i, 10 * i + 5, node=i % 4) for i in range(20))
    return Options(
        "made",
        1,
        calm_ms=1_000,
        drop_permille=100,
        onions=(1, 2, 3, 4),
        careless=(1,),
        changes=(Change("leave", 5, 1), Change("join", 9, 1)),
        faults=faults,
        runs=(Run("a", 1), Run("b", 2)),
    )


def test_only_what_matters_stays() -> None:
    guilty = {make_options().faults[3], make_options().faults[17]}

    def find(options: Options) -> str | None:
        return "at 1 ms: S1: two blocks" if guilty <= set(options.faults) else None

    small = minimise(make_options(), find)
    assert set(small.faults) == guilty
    assert (small.runs, small.drop_permille, small.heights) == ((), 0, 1)
    assert (small.changes, small.onions, small.careless) == ((), (), ())
    assert small.calm_ms < 40


def test_another_law_is_another_failure() -> None:
    """Without any fault something else breaks: that is not what we are after."""

    def find(options: Options) -> str:
        return f"at 1 ms: {'S1: two blocks' if options.faults else 'L1: nothing moves'}"

    assert len(minimise(make_options(), find).faults) == 1


def test_links_of_a_cut_are_halved() -> None:
    links = tuple((a, b) for a in range(4) for b in range(4) if a != b)
    options = Options("made", 1, faults=(Fault("cut", 0, 10, links=links),))

    def find(candidate: Options) -> str | None:
        cut = any((0, 1) in fault.links for fault in candidate.faults)
        return "at 1 ms: S1: two blocks" if cut else None

    assert minimise(options, find).faults[0].links == ((0, 1),)


def test_the_command_keeps_and_replays_what_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as bug:
        bug.setattr(Outbox, "cover", lambda outbox: setattr(outbox, "_signed_at", None))
        code = command.main(["--schedules", "3", "--generator", "uniform", "--keep", str(tmp_path)])
        output = capsys.readouterr().out
        (path,) = tmp_path.glob("*.json")
        assert code == 1
        assert f"python -m tests.simulation --plan {path}" in output
        assert "generator uniform, seed 1: at " in output
        assert json.loads(path.read_text())["generator"] == "uniform"
        assert find_violation(load(path)) is not None
        assert command.main(["--plan", str(path)]) == 1
    capsys.readouterr()
    assert command.main(["--plan", str(path)]) == 0
    assert "holds" in capsys.readouterr().out


def test_the_command_says_what_it_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--schedules", "10", "--seed", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("schedules/s)")
    assert "no violation" in lines[-1]
    assert len(lines) == 2 + len(GENERATORS)
