"""A trial of one mutant: the tests run against a copy of the package that has the bug."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant, make_copy
from tests.mutants.plugin import FOLDER_VARIABLE

LIMIT_S = 300
"""A bug that makes the tests run for so long has been noticed: they take a tenth of it."""
_PASSED, _FAILED, _UNREADABLE = 0, 1, 2
_FAILURE = re.compile(r"^(?:FAILED|ERROR) (?:\w+/)*(\w+\.py(?:::[^\s\[]+)?)", re.MULTILINE)


class TrialError(Exception):
    """The tests did not run, which says nothing about the mutant."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.  `killer` is the test that failed, None where all passed."""

    mutant: str
    killer: str | None
    seconds: float


class Effort(Enum):
    """Which tests a mutant has to get past."""

    ALL = "those that are expected to notice it, then all others"
    LIKELY = "those that are expected to notice it"
    SIMULATION = "the simulator's short schedules"


def try_original(mutants: Sequence[Mutant], effort: Effort) -> Outcome:
    """The same tests on a copy without a bug: if they fail there, no kill means anything."""
    if effort is Effort.LIKELY:
        targets = tuple(dict.fromkeys(path for m in mutants for path in find_likely_tests(m)))
    else:
        targets = find_simulation() if effort is Effort.SIMULATION else find_tests()
    return _try("(none)", None, [targets])


def try_mutant(mutant: Mutant, effort: Effort) -> Outcome:
    """Run tests until one fails, or all have passed."""
    match effort:
        case Effort.ALL:
            stages = [find_likely_tests(mutant), find_tests()]
        case Effort.LIKELY:
            stages = [find_likely_tests(mutant)]
        case Effort.SIMULATION:
            stages = [find_simulation()]
    return _try(mutant.name, mutant, stages)


def find_tests() -> tuple[str, ...]:
    """All tests of the package, the simulator's among them."""
    return tuple(dict.fromkeys(("tests/consensus", *find_simulation())))


def find_simulation() -> tuple[str, ...]:
    """The simulator's tests: a folder of their own, or files among the others."""
    found = (ROOT / "tests").glob("**/test_simulation*.py")
    folder = ROOT / "tests" / "simulation"
    paths = [folder, *(path for path in found if folder not in path.parents)]
    return tuple(sorted(str(path.relative_to(ROOT)) for path in paths if path.exists()))


def find_likely_tests(mutant: Mutant) -> tuple[str, ...]:
    """The files that a mutant names; raises TrialError where one does not exist."""
    likely = tuple(f"tests/consensus/test_{name}.py" for name in mutant.tests)
    missing = [path for path in likely if not (ROOT / path).is_file()]
    if missing:
        raise TrialError(f"mutant {mutant.name!r} names tests that do not exist: {missing}")
    return likely


def _try(name: str, mutant: Mutant | None, stages: Sequence[Sequence[str]]) -> Outcome:
    began = time.monotonic()
    killer: str | None = None
    with tempfile.TemporaryDirectory(prefix="milepost-mutant-") as scratch:
        folder = Path(scratch).resolve()
        make_copy(folder, mutant)
        for targets in stages:
            killer = _run(folder, targets)
            if killer is not None:
                break
    return Outcome(name, killer, time.monotonic() - began)


def _run(folder: Path, targets: Sequence[str]) -> str | None:
    """The first test of `targets` that fails with the package in `folder`."""
    others = (str(ROOT / name) for name in ("ml", "node", "client"))
    paths = (str(folder), *others, str(ROOT))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        FOLDER_VARIABLE: str(folder),
    }
    options = ["-x", "-q", "-rfE", "--no-header", "-m", "not slow and not e2e"]
    # What pyproject.toml puts in front of the path would hide the copy.
    options += ["-o", f"pythonpath={' '.join(paths)}", "-p", "tests.mutants.plugin"]
    options += ["-p", "no:cacheprovider", "-p", "no:cov"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *targets],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"(still running after {LIMIT_S} s)"
    if done.returncode == _PASSED:
        return None
    failure = _FAILURE.search(done.stdout)
    # A test file may fail while it is read: some make their blocks there.
    if done.returncode not in (_FAILED, _UNREADABLE) or failure is None:
        raise TrialError(f"the tests could not run:\n{done.stdout[-3_000:]}{done.stderr[-3_000:]}")
    return failure[1]
