"""Verdicts from what stands in a submission: the words, the table of intervals, who was overruled.

Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from milepost_consensus.duties import Terms, get_required
from milepost_consensus.panels import find_contradicted
from milepost_consensus.payloads import get_interval_count
from milepost_consensus.submissions import (
    AGREES,
    DIFFERS,
    UNSETTLED,
    UPHELD,
    Accusation,
    Submission,
)
from milepost_consensus.tolerance import format_tolerance
from milepost_consensus.verdicts import (
    ANCHORED_ONLY,
    FULL,
    FULL_REGISTERED,
    INVALID,
    SAMPLED,
    UNDECIDED,
    VALID,
    IntervalResult,
    Refutation,
    Verdict,
    compute_coverage,
)


def get_truth(accusation: Accusation, submission: Submission) -> bytes | None:
    """The digest that more than half of the panel got for the accused step (R17)."""
    counts = Counter(answer.recomputed for answer in accusation.answers)
    return next((d for d, n in counts.items() if n >= submission.panel_majority), None)


def decide_valid(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """VALID: every interval with duties has the agreeing answers it needs (R18)."""
    total = get_interval_count(submission.submit)
    count = len(get_results(submission))
    reason = (
        f"all {total} intervals retrace"
        if count == total
        else f"{count} of {total} intervals were retraced and agree"
    )
    return _make_verdict(submission, terms, outcome=VALID, reason=reason, height=height)


def decide_invalid(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """INVALID: the panel upheld a witness; the first interval named by one is the reason (R18)."""
    refuted = tuple(
        Refutation(interval, step)
        for interval, step in sorted(
            (a.interval, a.step) for a in submission.accusations if a.outcome == UPHELD
        )
    )
    first = refuted[0]
    submit = submission.submit
    what = (
        f"it ends further than {format_tolerance(submit.tolerance_ppb)} of its movement from where"
        " the submitter's own state leads"
        if submit.tolerance_ppb
        else f"step {first.step} does not follow from the submitter's own state"
    )
    reason = f"interval {first.interval} does not retrace: {what}"
    return _make_verdict(
        submission, terms, outcome=INVALID, reason=reason, height=height, refuted=refuted
    )


def decide_outvoted(
    submission: Submission, intervals: Sequence[int], terms: Terms, *, height: int
) -> Verdict:
    """INVALID by rule majority: these intervals found no majority that agrees (R19)."""
    steps = submission.submit.steps_per_interval
    first = intervals[0]
    agreed = sum(d.interval == first and d.answer == AGREES for d in submission.duties)
    assigned = sum(d.interval == first for d in submission.duties)
    return _make_verdict(
        submission,
        terms,
        outcome=INVALID,
        reason=f"interval {first} does not retrace: {agreed} of {assigned} verifiers agree",
        height=height,
        refuted=tuple(Refutation(interval, interval * steps) for interval in intervals),
    )


def decide_not_held(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """UNDECIDED: the record was not available (R13)."""
    reason = (
        "not enough validators could hold the record:"
        f" {len(submission.holders)} of the {terms.hold_quorum} needed"
    )
    return _make_verdict(submission, terms, outcome=UNDECIDED, reason=reason, height=height)


def decide_unseeded(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """UNDECIDED: the beacon gave no seed (R13)."""
    reason = "too few validators revealed: the beacon gave no seed for the election"
    return _make_verdict(submission, terms, outcome=UNDECIDED, reason=reason, height=height)


def decide_no_verifier(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """UNDECIDED: nobody serves the run but the submitter's operator and who is in jail (R14)."""
    reason = (
        "no verifier can be elected: all who retrain this device class are of the submitter's"
        " operator or in jail"
    )
    return _make_verdict(submission, terms, outcome=UNDECIDED, reason=reason, height=height)


def decide_unsettled(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """UNDECIDED: the panel did not settle an accusation (R18)."""
    step, interval = min(
        (a.step, a.interval) for a in submission.accusations if a.outcome == UNSETTLED
    )
    reason = (
        f"the verifiers could not settle whether step {step} of interval {interval} follows:"
        f" no result reached {submission.panel_majority} of {len(submission.panel)}"
    )
    return _make_verdict(submission, terms, outcome=UNDECIDED, reason=reason, height=height)


def decide_uncovered(
    submission: Submission, interval: int, terms: Terms, *, height: int
) -> Verdict:
    """UNDECIDED: too few verifiers answered for an interval and none is left to ask (R18)."""
    agreed = sum(d.interval == interval and d.answer == AGREES for d in submission.duties)
    reason = (
        f"too few verifiers retraced interval {interval}:"
        f" {agreed} of the {get_required(submission, interval, terms)} needed"
    )
    return _make_verdict(submission, terms, outcome=UNDECIDED, reason=reason, height=height)


def get_results(submission: Submission) -> tuple[IntervalResult, ...]:
    """The intervals that somebody retraced, and how that came out (R20)."""
    assigned: Counter[int] = Counter()
    agreed: Counter[int] = Counter()
    differed: Counter[int] = Counter()
    for duty in submission.duties:
        assigned[duty.interval] += 1
        agreed[duty.interval] += duty.answer == AGREES
        differed[duty.interval] += duty.answer == DIFFERS
    return tuple(
        IntervalResult(
            interval=interval,
            flagged=int(interval in submission.flagged),
            assigned=assigned[interval],
            agreed=agreed[interval],
            differed=differed[interval],
        )
        for interval in sorted(assigned)
        if agreed[interval] + differed[interval]
    )


def get_overruled(submission: Submission) -> tuple[bytes, ...]:
    """Verifiers that the panel contradicted, by id (R18).

    These accused falsely, recomputed a step to something else than the panel, or attested an
    interval that was refuted.  The submitter's own commitment is not a verifier's answer.
    """
    refuted = {a.interval for a in submission.accusations if a.outcome == UPHELD}
    wrong = find_contradicted(submission) | {
        duty.verifier
        for duty in submission.duties
        if duty.interval in refuted and duty.answer == AGREES
    }
    return tuple(sorted(wrong - {submission.sender}))


def _make_verdict(
    submission: Submission,
    terms: Terms,
    *,
    outcome: str,
    reason: str,
    height: int,
    refuted: tuple[Refutation, ...] = (),
) -> Verdict:
    """R20: the assurance says how much was retraced, and nothing where there is no answer."""
    results, submit = get_results(submission), submission.submit
    intervals = get_interval_count(submit)
    if outcome == UNDECIDED:
        assurance = ANCHORED_ONLY
    elif len(results) < intervals:
        assurance = SAMPLED
    else:
        assurance = FULL_REGISTERED if submit.registration else FULL
    return Verdict(
        submission=submission.id,
        sender=submission.sender,
        model_digest=submit.model_digest,
        outcome=outcome,
        reason=reason,
        assurance=assurance,
        profile=submit.profile,
        rule=terms.params.rule,
        intervals=intervals,
        retraced=results,
        refuted=refuted,
        overruled=get_overruled(submission),
        seed=submission.seed,
        anchored_height=submission.anchored_height,
        height=height,
        registration=submit.registration,
        parent=submit.parent,
        registrations=submission.registrations,
        eligible=len(submission.quorum) + len(submission.standbys),
        verifiers=submission.verifiers,
        coverage=compute_coverage(results, intervals=intervals, rule=terms.params.rule),
        tolerance_ppb=submit.tolerance_ppb,
    )
