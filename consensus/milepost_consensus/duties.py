"""Duties of a submission: how many agreeing answers an interval needs, and who replaces whom.

Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from milepost_consensus.election import compute_work_step
from milepost_consensus.members import VERIFIER, Member
from milepost_consensus.panels import find_contradicted
from milepost_consensus.params import Params
from milepost_consensus.payloads import Submit
from milepost_consensus.services import is_served
from milepost_consensus.submissions import AGREES, LAZY, MISSED, OPEN, Duty, Submission


@dataclass(frozen=True)
class Terms:
    """What verification needs to know about the network; the same for all submissions."""

    params: Params
    members: Mapping[bytes, Member]
    verifiers: tuple[Member, ...]
    """All members that can retrain something, by id."""
    hold_quorum: int
    """Validators that must hold a record before its election."""
    jailed: frozenset[bytes] = frozenset()
    """Members that are not elected."""
    barred: frozenset[bytes] = frozenset()
    """Members that accuse nobody any more."""
    served: Mapping[bytes, frozenset[str]] = field(default_factory=dict)
    """The device classes of every verifier that stated any (R29)."""

    def is_verifier(self, member_id: bytes) -> bool:
        """Whether a member can retrain something."""
        return bool(self.members[member_id].roles & VERIFIER)

    def get_panel(self, submit: Submit) -> tuple[bytes, ...]:
        """Verifiers that repeat a run's arithmetic, by id."""
        return tuple(m.id for m in self.verifiers if is_served(self.served, m.id, submit))

    def get_servers(self, submitter: bytes, submit: Submit) -> list[bytes]:
        """Those of them that are not of the submitter's operator (R8)."""
        operator = self.members[submitter].operator
        return [v for v in self.get_panel(submit) if self.members[v].operator != operator]

    def get_eligible(self, submitter: bytes, submit: Submit) -> list[bytes]:
        """Those of them that are not jailed: they may be elected (R14)."""
        return [v for v in self.get_servers(submitter, submit) if v not in self.jailed]


def get_required(submission: Submission, interval: int, terms: Terms) -> int:
    """Agreeing answers that cover an interval (R18): s - floor(s / 3) of a sub-quorum, else 1."""
    if interval not in submission.flagged:
        return 1
    size = min(terms.params.sub_quorum_size, len(submission.quorum))
    return size - size // 3


def get_lacking(submission: Submission, terms: Terms) -> dict[int, int]:
    """How many agreeing answers every interval with duties still lacks, where it lacks any."""
    agreed = Counter(duty.interval for duty in submission.duties if duty.answer == AGREES)
    lacking = {
        interval: get_required(submission, interval, terms) - agreed[interval]
        for interval in sorted({duty.interval for duty in submission.duties})
    }
    return {interval: count for interval, count in lacking.items() if count > 0}


def mark_missed(submission: Submission) -> tuple[Submission, dict[int, int]]:
    """Close all open duties as missed (R15) and say how many there were per interval."""
    missed = Counter(duty.interval for duty in submission.duties if duty.answer == OPEN)
    duties = tuple(
        replace(duty, answer=MISSED) if duty.answer == OPEN else duty for duty in submission.duties
    )
    return replace(submission, duties=duties), dict(sorted(missed.items()))


def find_replacements(
    submission: Submission, needs: Mapping[int, int], terms: Terms
) -> tuple[Duty, ...]:
    """New duties for verifiers not yet on the interval (R15); fewer than needed if none is left.

    Standbys come before the quorum, members that missed nothing before those that did, little
    work before much, then the order of the shuffle.  Never a fresh draw: abstaining must not
    re-roll the dice.  Whoever a panel of this submission proved wrong, as accuser or in its answer,
    or was lazy is passed over: the first false accusation unmasks all who support it; and so is
    who does not serve the run's device class any more.  Work steps are drawn anew: refuting a lazy
    answer made the gradient of one known.
    """
    order = tuple(
        verifier
        for verifier in (*submission.standbys, *submission.quorum)
        if is_served(terms.served, verifier, submission.submit)
    )
    place = {verifier: position for position, verifier in enumerate(order)}
    missed = {duty.verifier for duty in submission.duties if duty.answer == MISSED}
    load = Counter(duty.verifier for duty in submission.duties)
    busy = {(duty.interval, duty.verifier) for duty in submission.duties}
    lazy = {duty.verifier for duty in submission.duties if duty.answer == LAZY}
    discredited = find_contradicted(submission) | lazy
    found: list[Duty] = []
    for interval, need in sorted(needs.items()):
        candidates = sorted(
            (v for v in order if (interval, v) not in busy and v not in discredited),
            key=lambda v: (v in submission.quorum, v in missed, load[v], place[v]),
        )
        for verifier in candidates[:need]:
            load[verifier] += 1
            found.append(
                Duty(
                    interval=interval,
                    verifier=verifier,
                    flagged=int(interval in submission.flagged),
                    work_step=compute_work_step(
                        submission.seed,
                        submission.submit,
                        interval,
                        verifier,
                        extension=submission.extensions + 1,
                    ),
                )
            )
    return tuple(found)
