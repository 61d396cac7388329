"""What panels have shown about verifiers, and which accusations are still worth a panel.

Under profile `exact` an honest machine is never wrong about a step.  Whoever a settled panel
contradicts therefore lied or is broken, and what only such verifiers claim is dropped unheard: the
first panel unmasks them, and the others need not recompute a step for each of their accusations.
Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from milepost_consensus.payloads import EXACT
from milepost_consensus.submissions import (
    DISMISSED,
    OPEN,
    PANEL,
    REFUTED,
    UPHELD,
    Accusation,
    Submission,
)


def get_settled_digest(accusation: Accusation) -> bytes | None:
    """What the accused step really yields, once a panel has settled it.

    More than half of all verifiers gave it, so no other digest is as frequent, whatever later
    accusers add and whoever has left the network since.
    """
    if accusation.outcome == REFUTED:
        return accusation.leaf
    if accusation.outcome == UPHELD:
        counts = Counter(answer.recomputed for answer in accusation.answers)
        return counts.most_common(1)[0][0]
    return None


def find_contradicted(submission: Submission) -> frozenset[bytes]:
    """Verifiers that a settled panel proved wrong, in its answers or as accusers (R15, R17, R18).

    A submitter that verifies as well is among them where its own commitment was wrong.
    """
    wrong: set[bytes] = set()
    for accusation in submission.accusations:
        truth = get_settled_digest(accusation)
        if truth is not None:
            wrong.update(a.verifier for a in accusation.answers if a.recomputed != truth)
        if accusation.outcome == REFUTED:
            wrong.update(accusation.accusers)
    return frozenset(wrong)


def dismiss_accusations(submission: Submission) -> Submission:
    """R17: close open accusations that rest on nothing but the word of the contradicted.

    One verifier that was not contradicted keeps an accusation open, be it as accuser or by having
    recomputed the step to something else than was committed.
    """
    if submission.submit.profile != EXACT:
        return submission
    contradicted = find_contradicted(submission)
    accusations = tuple(
        replace(each, outcome=DISMISSED)
        if each.outcome == OPEN and _get_claimants(each) <= contradicted
        else each
        for each in submission.accusations
    )
    if accusations == submission.accusations:
        return submission
    return replace(submission, accusations=accusations)


def _get_claimants(accusation: Accusation) -> set[bytes]:
    """Everybody who says that the step does not follow; at least its first accuser."""
    others = {a.verifier for a in accusation.answers if a.recomputed != accusation.leaf}
    return others.union(accusation.accusers)


def get_due_accusations(submission: Submission) -> tuple[Accusation, ...]:
    """The open accusations that verifiers recompute now; no rule forbids answering others (R12).

    Under profile `exact` one after the other, as long as more can come: what the first panel shows
    may settle the rest unheard.  In phase PANEL all, so that each has that phase's whole window.
    """
    due = tuple(each for each in submission.accusations if each.outcome == OPEN)
    return due if submission.phase == PANEL or submission.submit.profile != EXACT else due[:1]
