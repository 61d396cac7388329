"""All mutants, and which of them somebody asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.mutants.agreement import AGREEMENT
from tests.mutants.governance import GOVERNANCE
from tests.mutants.ledger import LEDGER
from tests.mutants.mutant import Mutant
from tests.mutants.services import SERVICES
from tests.mutants.signing import SIGNING
from tests.mutants.tolerance import TOLERANCE
from tests.mutants.training import TRAINING

MUTANTS: Final = (*AGREEMENT, *SIGNING, *GOVERNANCE, *LEDGER, *TRAINING, *SERVICES, *TOLERANCE)


class UnknownMutant(Exception):
    """Nothing is listed under what was asked for."""


def choose(only: Sequence[str] = (), *, reduced: bool = False) -> tuple[Mutant, ...]:
    """The mutants whose name contains one of `only`, or all; of them the reduced set if asked."""
    for part in only:
        if not any(part in mutant.name for mutant in MUTANTS):
            names = "\n  ".join(mutant.name for mutant in MUTANTS)
            raise UnknownMutant(f"no mutant is called {part!r}; there are\n  {names}")
    chosen = tuple(
        mutant
        for mutant in MUTANTS
        if (not only or any(part in mutant.name for part in only))
        and (mutant.reduced or not reduced)
    )
    if not chosen:
        raise UnknownMutant("none of those mutants is in the reduced set; ask without --reduced")
    return chosen
