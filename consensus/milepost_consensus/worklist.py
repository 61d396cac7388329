"""What the chain waits for from one member: records to hold, duties, accusations to answer.

Read-only help for whoever runs a verifier or a validator; the rules do not depend on it.
"""

from __future__ import annotations

from typing import NamedTuple

from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import OPEN, Accusation, Duty, Submission


class OpenDuty(NamedTuple):
    """An interval that the verifier is to retrain."""

    submission: Submission
    duty: Duty


class OpenAccusation(NamedTuple):
    """A step that the verifier is to recompute for the panel."""

    submission: Submission
    accusation: Accusation


def get_duties(state: LedgerState, verifier: bytes) -> tuple[OpenDuty, ...]:
    """Open duties of a verifier: oldest submission first, then by interval."""
    return tuple(
        OpenDuty(submission, duty)
        for submission in state.open_submissions
        for duty in sorted(submission.duties, key=lambda duty: duty.interval)
        if duty.verifier == verifier and duty.answer == OPEN
    )


def get_accusations(state: LedgerState, verifier: bytes) -> tuple[OpenAccusation, ...]:
    """Open accusations that a verifier has not answered; a submitter answers none of its own."""
    if all(member.id != verifier for member in state.verifiers):
        return ()
    return tuple(
        OpenAccusation(submission, accusation)
        for submission in state.open_submissions
        for accusation in submission.accusations
        if accusation.outcome == OPEN
        and all(answer.verifier != verifier for answer in accusation.answers)
    )


def get_unheld(state: LedgerState, validator: bytes) -> tuple[Submission, ...]:
    """Submissions without a verdict that a validator has not said to hold, oldest first."""
    if all(member.id != validator for member in state.validators):
        return ()
    return tuple(s for s in state.open_submissions if validator not in s.holders)
