"""Run the tests against every seeded bug and say which test noticed it.

The last line is the score.  Exit status 1 if a bug survived, 2 if the trial itself went wrong: the
tests fail without any bug, or a mutant's text is no longer in the code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.mutants.catalogue import UnknownMutant, choose
from tests.mutants.mutant import DoesNotApply, read_module
from tests.mutants.trial import Effort, TrialError, try_mutant, try_original

AT_ONCE = 2
"""Test runs side by side: the machines that this has to fit have two cores."""
SURVIVED, WENT_WRONG = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="part of a name; repeatable")
    parser.add_argument(
        "--reduced",
        action="store_true",
        help="a few bugs, only the tests that should notice them: what CI runs",
    )
    parser.add_argument(
        "--simulation",
        action="store_true",
        help="the simulator's short schedules only: what would random faults find by themselves?",
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args(arguments)
    effort = Effort.LIKELY if options.reduced else Effort.ALL
    effort = Effort.SIMULATION if options.simulation else effort
    try:
        mutants = choose(options.only, reduced=options.reduced)
        if options.list:
            print("\n".join(mutant.name for mutant in mutants))
            return 0
        for mutant in mutants:
            mutant.edit(read_module(mutant.module))
        width = max(len(mutant.name) for mutant in mutants)
        original = try_original(mutants, effort)
        if original.killer is not None:
            raise TrialError(f"the tests fail without any bug: {original.killer}")
        print(f"{'mutant':{width}}  seconds  killed by")
        print(f"{original.mutant:{width}}  {original.seconds:7.1f}  all tests pass", flush=True)
        killed = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for outcome in pool.map(lambda mutant: try_mutant(mutant, effort), mutants):
                killed += outcome.killer is not None
                verdict = outcome.killer or "SURVIVED"
                print(f"{outcome.mutant:{width}}  {outcome.seconds:7.1f}  {verdict}", flush=True)
    except (DoesNotApply, TrialError, UnknownMutant) as error:
        print(error, file=sys.stderr)
        return WENT_WRONG
    print(f"{killed}/{len(mutants)} killed")
    return 0 if killed == len(mutants) else SURVIVED


if __name__ == "__main__":
    sys.exit(main())
