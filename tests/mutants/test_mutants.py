"""The seeded bugs fit the code as it is, and the quick ones are noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.__main__ import WENT_WRONG, main
from tests.mutants.catalogue import MUTANTS, UnknownMutant, choose
from tests.mutants.mutant import DoesNotApply, Mutant, make_copy, read_module
from tests.mutants.trial import TrialError, try_mutant

HARMLESS = Mutant(
    "harmless", "majority", "compared with", "compared to", ("majority",), reduced=True
)


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


@pytest.mark.slow
def test_the_reduced_set_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--reduced"]) == 0
    count = len(choose(reduced=True))
    assert capsys.readouterr().out.splitlines()[-1] == f"{count}/{count} killed"


@pytest.mark.slow
def test_a_trial_that_means_nothing_is_told() -> None:
    broken = Mutant("broken", "majority", "def is_outvoted", "def is_not_outvoted", ("majority",))
    with pytest.raises(TrialError, match="could not run"):
        try_mutant(broken)
    with pytest.raises(TrialError, match="tests that do not exist"):
        try_mutant(Mutant("astray", "majority", "tie or silence", "tie", ("no_such_file",)))
