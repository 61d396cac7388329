"""One seeded bug: text of the consensus package that is replaced by other text."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "consensus" / "milepost_consensus"


class DoesNotApply(Exception):
    """The code moved on and the mutant did not: its text is not there exactly once."""


@dataclass(frozen=True)
class Mutant:
    """A bug that somebody could write, by the name under which the table lists it.

    `old` stands exactly once in `module` and becomes `new`.  `tests` are files of tests/consensus,
    without "test_" and ".py", of which one is expected to fail; they run before all others.
    """

    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]
    reduced: bool = False
    """Whether it belongs to the few that CI runs, whose `tests` must notice it alone."""

    def edit(self, source: str) -> str:
        """The module with the bug in it; raises DoesNotApply."""
        count = source.count(self.old)
        if count != 1 or self.old == self.new:
            raise DoesNotApply(
                f"mutant {self.name!r} does not fit any more: its text stands {count} times in"
                f" {self.module}.py, once is needed.  Adapt it in tests/mutants to the code as it"
                f" is now:\n{self.old}"
            )
        return source.replace(self.old, self.new)


def read_module(module: str) -> str:
    """The source of a module of the consensus package."""
    return (SOURCE / f"{module}.py").read_text()


def make_copy(folder: Path, mutant: Mutant | None) -> None:
    """The consensus package in `folder`, with the bug unless there is none."""
    target = folder / SOURCE.name
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        (target / f"{mutant.module}.py").write_text(mutant.edit(read_module(mutant.module)))
