"""What the chain waits for from one member: records to hold, duties, accusations to answer.

Read-only help for whoever runs a verifier or a validator; the rules do not depend on it.
"""

from __future__ import annotations

from typing import NamedTuple

from milepost_consensus.panels import get_due_accusations
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import (
    AGREES,
    OPEN,
    PANEL,
    WITNESSING,
    Accusation,
    Duty,
    Submission,
)


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
    """Due accusations that one of the panel has not answered; a submitter answers none of its
    own."""
    if all(member.id != verifier for member in state.verifiers):
        return ()
    return tuple(
        OpenAccusation(submission, accusation)
        for submission in state.open_submissions
        if verifier in submission.panel
        for accusation in get_due_accusations(submission)
        if all(answer.verifier != verifier for answer in accusation.answers)
    )


class Comparable(NamedTuple):
    """Another's answer that whoever retraced the interval can check."""

    submission: Submission
    number: int
    """The place of the duty in the submission, which never changes."""
    duty: Duty


def get_comparable(state: LedgerState, verifier: bytes) -> tuple[Comparable, ...]:
    """Answers of others, while they can be refuted (R26), on intervals that a verifier attested."""
    found = []
    for submission in state.open_submissions:
        if submission.phase not in (WITNESSING, PANEL) or submission.submit.tolerance_ppb:
            continue
        agreeing = [
            (number, duty) for number, duty in enumerate(submission.duties) if duty.answer == AGREES
        ]
        mine = {duty.interval for _, duty in agreeing if duty.verifier == verifier}
        found += [
            Comparable(submission, number, duty)
            for number, duty in agreeing
            if duty.interval in mine and duty.verifier != verifier
        ]
    return tuple(found)


def get_unheld(state: LedgerState, validator: bytes) -> tuple[Submission, ...]:
    """Submissions without a verdict that a validator has not said to hold, oldest first."""
    if all(member.id != validator for member in state.validators):
        return ()
    return tuple(s for s in state.open_submissions if validator not in s.holders)
