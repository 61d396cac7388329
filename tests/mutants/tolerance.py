"""Bugs in what the ledger says about runs that are compared within a tolerance."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_ANSWER: Final = "elif agrees != (distance_ppb <= submit.tolerance_ppb):"
_WITNESS: Final = "if witness.step != steps[-1] or any(witness.pre_state):"
_LIMITS: Final = "if not 1 <= tolerance_ppb <= MAX_TOLERANCE_PPB:"

TOLERANCE: Final = tuple(
    Mutant(name, module, old, new, ("tolerance", "penalties"))
    for name, module, old, new in (
        (
            "an attest beyond the bound accepted",
            "distances",
            _ANSWER,
            "elif not agrees and distance_ppb <= submit.tolerance_ppb:",
        ),
        (
            "a witness within the bound accepted",
            "distances",
            _ANSWER,
            "elif agrees and distance_ppb > submit.tolerance_ppb:",
        ),
        (
            "the bound itself is beyond",
            "distances",
            _ANSWER,
            "elif agrees != (distance_ppb < submit.tolerance_ppb):",
        ),
        (
            "distances where bits are compared",
            "distances",
            "        if distance_ppb:\n",
            "        if False:\n",
        ),
        (
            "a witness about any step of an interval with a bound",
            "distances",
            _WITNESS,
            "if any(witness.pre_state):",
        ),
        (
            "a witness about a bound names a state",
            "distances",
            _WITNESS,
            "if witness.step != steps[-1]:",
        ),
        (
            "witnesses about a bound with a digest of their own",
            "distances",
            "    validate_answer(submit, witness.recomputed, leaf=witness.leaf)\n",
            "",
        ),
        (
            "panels about a bound with a digest of their own",
            "answers",
            "    validate_answer(submission.submit, vote.recomputed, leaf=found.leaf)\n",
            "",
        ),
        (
            "work refuted by gradients of another machine",
            "answers",
            "if submission.submit.profile == TOLERANCE:",
            "if False:",
        ),
        (
            "answers compared by gradients of another machine",
            "worklist",
            " or submission.submit.tolerance_ppb:",
            ":",
        ),
        (
            "the overruled struck under a tolerance",
            "penalties",
            "if submission.submit.profile == EXACT:",
            "if submission.submit.profile != CLASS:",
        ),
        (
            "silence under a tolerance free",
            "penalties",
            "if submission.submit.profile != CLASS:",
            "if submission.submit.profile == EXACT:",
        ),
        (
            "intervals of any length within a bound",
            "tolerance",
            "if steps_per_interval > MAX_TOLERANCE_STEPS:",
            "if False:",
        ),
        ("a bound of any size", "tolerance", _LIMITS, "if tolerance_ppb < 1:"),
        ("no bound", "tolerance", _LIMITS, "if tolerance_ppb > MAX_TOLERANCE_PPB:"),
        (
            "a bound where bits are compared",
            "tolerance",
            "        if tolerance_ppb:\n",
            "        if False:\n",
        ),
        (
            "a verdict that hides its bound",
            "outcomes",
            "        tolerance_ppb=submit.tolerance_ppb,\n",
            "",
        ),
        (
            "an assurance without its bound",
            "verdicts",
            "if not tolerance_ppb or assurance == ANCHORED_ONLY:",
            "if True:",
        ),
    )
)
