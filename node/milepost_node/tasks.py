"""What the ledger waits for from one member, as tasks in the order in which to do them.

Pure reading of the ledger state: a restarted node finds the same tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import ANCHORED, Accusation, Duty, Submission
from milepost_consensus.worklist import get_accusations, get_comparable, get_duties, get_unheld
from milepost_node.answers import Key


class Doubt(NamedTuple):
    """Another verifier's answer about an interval that this node has retraced too."""

    duty: Duty


class Task(NamedTuple):
    """One thing the ledger waits for from this node."""

    key: Key
    submission: Submission
    subject: Duty | Accusation | Doubt | None
    """The duty or the accusation, another's answer; None to hold the record."""


def plan_records(state: LedgerState, me: bytes) -> Iterator[Task]:
    """Records to hold: first those that nothing can happen without."""
    unheld = get_unheld(state, me)
    for submission in sorted(unheld, key=lambda submission: submission.phase != ANCHORED):
        yield Task(("hold", submission.id, 0, 0), submission, None)


def plan_refuting(state: LedgerState, me: bytes) -> Iterator[Task]:
    """Answers of others to check, which is quick and must be: only a few blocks wait for it."""
    for submission, number, duty in get_comparable(state, me):
        key = ("refute", submission.id, duty.interval, number)
        yield Task(key, submission, Doubt(duty))


def plan_retracing(state: LedgerState, me: bytes) -> Iterator[Task]:
    """Steps to recompute for the panel, which are quick, then intervals to retrain."""
    for submission, accusation in get_accusations(state, me):
        key = ("panel", submission.id, accusation.interval, accusation.step)
        yield Task(key, submission, accusation)
    for submission, duty in get_duties(state, me):
        yield Task(("retrace", submission.id, duty.interval, 0), submission, duty)
