"""Verification of one submission: which phase follows which, and when a verdict falls.

Answers of members change what a submission holds (answers.py), heights change its phase (here).
Every function is pure and total: it takes a Submission and returns the next one.

    ANCHORED   -- enough validators hold the record ---> SEEDING
               -- deadline ----------------------------> UNDECIDED
    SEEDING    -- seed known, next height elects ------> RETRACING
               -- deadline ----------------------------> UNDECIDED
    RETRACING  -- no duty is open ---------------------> WITNESSING (rule majority: verdict)
               -- deadline, open duties are missed ----> RETRACING with replacements, or as above
    WITNESSING -- deadline ----------------------------> PANEL
    PANEL      -- no accusation is open, or deadline --> verdict, or RETRACING with replacements
                                                         where wrong accusers left a gap

It ends whatever anybody does: every phase has a deadline, and only an extension leads back, of
which there are at most `max_extensions`.  Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from milepost_consensus.duties import (
    Terms,
    find_replacements,
    get_lacking,
    mark_missed,
)
from milepost_consensus.election import elect
from milepost_consensus.flagging import compute_flags
from milepost_consensus.majority import decide_by_majority
from milepost_consensus.outcomes import (
    decide_invalid,
    decide_no_verifier,
    decide_not_held,
    decide_uncovered,
    decide_unseeded,
    decide_unsettled,
    decide_valid,
    get_truth,
)
from milepost_consensus.panels import dismiss_accusations
from milepost_consensus.submissions import (
    ANCHORED,
    DECIDED,
    OPEN,
    PANEL,
    REFUTED,
    RETRACING,
    SEEDING,
    UNSETTLED,
    UPHELD,
    WITNESSING,
    Accusation,
    Submission,
)
from milepost_consensus.verdicts import Verdict
from milepost_consensus.windows import compute_attest_window, compute_panel_window


def apply_seed(submission: Submission, terms: Terms, *, seed: bytes, height: int) -> Submission:
    """R14: at the start of the first block that finds the record held and the seed known, elect
    and deal duties."""
    assert submission.phase == SEEDING, submission.phase
    submit, params = submission.submit, terms.params
    flagged = compute_flags(submit.change_scores, submit.rate_sums, params.flag_rule)
    election = elect(
        seed=seed,
        submit=submit,
        eligible=terms.get_eligible(submission.sender, submit),
        flagged=flagged,
        params=params,
    )
    return replace(
        submission,
        phase=RETRACING,
        deadline=height + compute_attest_window(election.duties, submit, terms),
        seed=seed,
        flagged=flagged,
        quorum=election.quorum,
        standbys=election.standbys,
        panel=terms.get_panel(submit),
        verifiers=len(terms.verifiers),
        duties=election.duties,
    )


Following = tuple[Submission, Verdict | None]
"""The next value of a submission, and the verdict that ends it."""


def advance(submission: Submission, terms: Terms, *, height: int) -> Following:
    """What a submission becomes at the end of the block at `height`, and its verdict if one falls.

    The loop ends: every turn either stays, or leaves a phase for a later one, or uses up one of
    finitely many extensions, after which it stays because the new duties are open.
    """
    while True:
        submission = settle_accusations(submission)
        following, verdict = _LEAVE[submission.phase](submission, terms, height)
        if verdict is not None:
            return replace(following, phase=DECIDED, deadline=height), verdict
        if following is submission:
            return submission, None
        submission = following


def settle_accusations(submission: Submission) -> Submission:
    """R17: close accusations on which more than half of the panel, or all of it, has answered, and
    those that this leaves nobody to believe."""
    accusations = tuple(_settle(accusation, submission) for accusation in submission.accusations)
    if accusations != submission.accusations:
        submission = replace(submission, accusations=accusations)
    return dismiss_accusations(submission)


def give_up_accusations(submission: Submission) -> Submission:
    """R17: what is open at the deadline stays unsettled."""
    accusations = tuple(
        replace(a, outcome=UNSETTLED) if a.outcome == OPEN else a for a in submission.accusations
    )
    return replace(submission, accusations=accusations)


def _settle(accusation: Accusation, submission: Submission) -> Accusation:
    if accusation.outcome != OPEN:
        return accusation
    truth = get_truth(accusation, submission)
    if truth is not None:
        return replace(accusation, outcome=REFUTED if truth == accusation.leaf else UPHELD)
    if len(accusation.answers) == len(submission.panel):
        return replace(accusation, outcome=UNSETTLED)
    return accusation


def _leave_anchored(submission: Submission, terms: Terms, height: int) -> Following:
    """R13: the election waits for enough holders, not for ever."""
    if len(submission.holders) >= terms.hold_quorum:
        deadline = height + terms.params.hold_window
        held = replace(submission, phase=SEEDING, held_height=height, deadline=deadline)
        return held, None
    if height >= submission.deadline:
        return submission, decide_not_held(submission, terms, height=height)
    return submission, None


def _leave_retracing(submission: Submission, terms: Terms, height: int) -> Following:
    """R15: answered, or passed on, or given up."""
    if not submission.quorum:
        # Somebody may have accused in the very block that held the election.
        given_up = give_up_accusations(submission)
        return given_up, decide_no_verifier(given_up, terms, height=height)
    if any(duty.answer == OPEN for duty in submission.duties):
        if height < submission.deadline:
            return submission, None
        submission, missed = mark_missed(submission)
        if terms.params.rule == "witness":
            extended = _extend(submission, missed, terms, height)
            if extended is not None:
                return extended, None
    if terms.params.rule == "majority":
        return submission, decide_by_majority(submission, terms, height=height)
    following = replace(submission, phase=WITNESSING, deadline=height + terms.params.witness_window)
    return following, None


def _leave_witnessing(submission: Submission, terms: Terms, height: int) -> Following:
    """R16: a last chance to point at a wrong step."""
    if height < submission.deadline:
        return submission, None
    window = compute_panel_window(submission.accusations, submission.submit, terms)
    return replace(submission, phase=PANEL, deadline=height + window), None


def _leave_panel(submission: Submission, terms: Terms, height: int) -> Following:
    """R17, R18: once nothing is open any more, the verdict follows from what stands there."""
    if any(a.outcome == OPEN for a in submission.accusations):
        if height < submission.deadline:
            return submission, None
        submission = give_up_accusations(submission)
    outcomes = {accusation.outcome for accusation in submission.accusations}
    if UPHELD in outcomes:
        return submission, decide_invalid(submission, terms, height=height)
    if UNSETTLED in outcomes:
        return submission, decide_unsettled(submission, terms, height=height)
    lacking = get_lacking(submission, terms)
    if not lacking:
        return submission, decide_valid(submission, terms, height=height)
    extended = _extend(submission, lacking, terms, height, only_if_enough=True)
    if extended is not None:
        return extended, None
    return submission, decide_uncovered(submission, min(lacking), terms, height=height)


def _leave_seeding(submission: Submission, terms: Terms, height: int) -> Following:
    """R13: the election waits for the beacon, not for ever."""
    if submission.seed or height < submission.deadline:
        return submission, None
    return submission, decide_unseeded(submission, terms, height=height)


def _stay(submission: Submission, terms: Terms, height: int) -> Following:
    """A verdict is for ever."""
    return submission, None


_LEAVE = {
    ANCHORED: _leave_anchored,
    SEEDING: _leave_seeding,
    RETRACING: _leave_retracing,
    WITNESSING: _leave_witnessing,
    PANEL: _leave_panel,
    DECIDED: _stay,
}


def _extend(
    submission: Submission,
    needs: Mapping[int, int],
    terms: Terms,
    height: int,
    *,
    only_if_enough: bool = False,
) -> Submission | None:
    """R15: back to RETRACING with replacements, unless extensions or verifiers are used up."""
    if submission.extensions >= terms.params.max_extensions:
        return None
    added = find_replacements(submission, needs, terms)
    if not added or (only_if_enough and len(added) < sum(needs.values())):
        return None
    return replace(
        submission,
        phase=RETRACING,
        deadline=height + compute_attest_window(added, submission.submit, terms),
        duties=(*submission.duties, *added),
        extensions=submission.extensions + 1,
    )
