"""The seeded bugs fit the code as it is, and the quick ones are noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.__main__ import SURVIVED, WENT_WRONG, main
from tests.mutants.catalogue import MUTANTS, UnknownMutant, choose
from tests.mutants.mutant import ROOT, DoesNotApply, Mutant, make_copy, read_module
from tests.mutants.trial import Effort, Outcome, TrialError, find_simulation, find_tests, try_mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    ast.parse(mutant.edit(read_module(mutant.module)))


def test_names_are_different_and_some_are_for_ci() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 80
    assert 8 <= len(choose(reduced=True)) <= 10


def test_a_mutant_whose_text_is_gone_or_ambiguous_is_refused() -> None:
    for old in ("no such text", "import"):
        with pytest.raises(DoesNotApply, match="does not fit any more"):
            Mutant("rotten", "machine", old, "", ()).edit(read_module("machine"))


def test_the_copy_has_the_bug_and_nothing_else(tmp_path: Path) -> None:
    mutant = choose(["unlock on a nil polka"])[0]
    make_copy(tmp_path / "bad", mutant)
    make_copy(tmp_path / "good", None)
    good, bad = (
        {path.name: path.read_text() for path in (tmp_path / name).rglob("*.py")}
        for name in ("good", "bad")
    )
    assert {name for name in good if good[name] != bad[name]} == {"machine.py"}
    assert bad.keys() == good.keys()


def test_names_are_chosen_by_parts() -> None:
    assert [mutant.name for mutant in choose(["unlock on", "no relay"])] == [
        "unlock on a nil polka",
        "no relay",
    ]
    with pytest.raises(UnknownMutant, match="no mutant is called 'gremlin'"):
        choose(["gremlin"])
    assert main(["--only", "gremlin"]) == WENT_WRONG
    with pytest.raises(UnknownMutant, match="without --reduced"):
        choose(["unlock on"], reduced=True)


def test_the_simulator_is_found_wherever_it_lives() -> None:
    assert any("simulation" in path for path in find_simulation())
    assert all((ROOT / path).exists() for path in (*find_simulation(), *find_tests()))


@pytest.mark.slow
def test_the_reduced_set_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--reduced"]) == 0
    count = len(choose(reduced=True))
    assert capsys.readouterr().out.splitlines()[-1] == f"{count}/{count} killed"


def test_a_survivor_fails_the_run_and_so_do_tests_that_fail_without_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def survive(mutant: Mutant, effort: Effort) -> Outcome:
        return Outcome(mutant.name, "a test" if mutant.name == "no relay" else None, 1.0)

    monkeypatch.setattr("tests.mutants.__main__.try_mutant", survive)
    good, bad = (Outcome("(none)", killer, 1.0) for killer in (None, "a test"))
    monkeypatch.setattr("tests.mutants.__main__.try_original", lambda mutants, effort: good)
    assert main(["--only", "no relay"]) == 0
    assert capsys.readouterr().out.endswith("1/1 killed\n")
    assert main(["--only", "no relay", "--only", "no round skip"]) == SURVIVED
    out = capsys.readouterr().out
    assert "SURVIVED" in out
    assert out.endswith("1/2 killed\n")
    monkeypatch.setattr("tests.mutants.__main__.try_original", lambda mutants, effort: bad)
    assert main(["--only", "no relay"]) == WENT_WRONG
    assert "the tests fail without any bug: a test" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_tells_bugs_from_harmless_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = Mutant("harmless", "majority", "a baseline", "a base", ("majority",))
    bug = Mutant("bug", "majority", "answers.count(AGREES) <=", "0 <=", ("majority",))
    monkeypatch.setattr("tests.mutants.trial.find_tests", lambda: ["tests/consensus/test_tally.py"])
    assert try_mutant(harmless, Effort.ALL).killer is None
    killer = try_mutant(bug, Effort.ALL).killer
    assert killer is not None
    assert killer.startswith("test_majority.py::test_")
    monkeypatch.setattr("tests.mutants.trial.LIMIT_S", 0.01)
    assert try_mutant(harmless, Effort.ALL).killer == "(still running after 0.01 s)"


@pytest.mark.slow
def test_a_trial_that_means_nothing_is_told() -> None:
    broken = Mutant("broken", "majority", "def is_outvoted", "def", ("majority",))
    with pytest.raises(TrialError, match="could not run"):
        try_mutant(broken, Effort.LIKELY)
    with pytest.raises(TrialError, match="tests that do not exist"):
        try_mutant(
            Mutant("astray", "majority", "tie or silence", "tie", ("no_such_file",)), Effort.ALL
        )
