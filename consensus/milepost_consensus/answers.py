"""What a signed answer changes in a submission: Hold, Attest, Witness, WorkRefutation, PanelVote.

Every function is pure: it takes a Submission and returns the next one, or raises InvalidInput and
has changed nothing.  Each sender has one say per subject, so replaying a transaction is refused.
That the sender has the role it needs is checked before (rules.py).  Rule numbers refer to
docs/spec/rules.md.
"""

from __future__ import annotations

from msgspec.structs import replace

from milepost_consensus.distances import validate_answer, validate_beyond, validate_distance
from milepost_consensus.duties import Terms
from milepost_consensus.encoding import validate_digest
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.merkle import verify_path
from milepost_consensus.payloads import (
    Attest,
    PanelVote,
    Witness,
    WorkRefutation,
    get_interval_count,
    get_interval_steps,
    get_stride_count,
    get_stride_place,
    validate_witness,
    validate_work_refutation,
)
from milepost_consensus.step_digests import (
    compute_gradient_commitment,
    compute_step_digest,
    compute_work_digest,
)
from milepost_consensus.submissions import (
    AGREES,
    DECIDED,
    DIFFERS,
    DISMISSED,
    LAZY,
    MISSED,
    OPEN,
    PANEL,
    RETRACING,
    WITNESSING,
    Accusation,
    PanelAnswer,
    Submission,
)
from milepost_consensus.tolerance import TOLERANCE


def find_accusation(submission: Submission, *, interval: int, step: int) -> Accusation | None:
    """The accusation of a step, if somebody made it."""
    for accusation in submission.accusations:
        if (accusation.interval, accusation.step) == (interval, step):
            return accusation
    return None


def apply_hold(submission: Submission, *, sender: bytes) -> Submission:
    """R9: a validator says once, before the verdict, that it holds the record."""
    if submission.phase == DECIDED:
        raise InvalidTransaction("the submission has its verdict already", slug="closed")
    if sender in submission.holders:
        raise InvalidTransaction("this validator has said so already", slug="already-said")
    return replace(submission, holders=(*submission.holders, sender))


def apply_attest(
    submission: Submission, attest: Attest, terms: Terms, *, sender: bytes, height: int
) -> Submission:
    """R10: the holder of an open duty answers it."""
    position = next(
        (
            position
            for position, duty in enumerate(submission.duties)
            if duty.interval == attest.interval and duty.verifier == sender
        ),
        None,
    )
    if position is None:
        raise InvalidTransaction(
            f"interval {attest.interval} was not dealt to {sender.hex()[:8]}", slug="not-your-duty"
        )
    duty = submission.duties[position]
    if duty.answer in (AGREES, DIFFERS, LAZY):
        raise InvalidTransaction(
            f"interval {duty.interval}: this verifier has answered already", slug="already-said"
        )
    if submission.phase != RETRACING or duty.answer == MISSED:
        raise InvalidTransaction(f"interval {duty.interval}: answer came too late", slug="closed")
    allowed = (0, 1) if terms.params.rule == "majority" else (1,)
    if attest.agrees not in allowed:
        raise InvalidTransaction(
            f"agrees is {attest.agrees}; under rule {terms.params.rule} a difference is"
            " reported as a witness"
        )
    if attest.work_step != duty.work_step:
        raise InvalidTransaction(
            f"the work digest covers step {attest.work_step}, the duty names {duty.work_step}"
        )
    validate_digest("work_digest", attest.work_digest)
    validate_distance(submission.submit, attest.distance_ppb, agrees=bool(attest.agrees))
    answered = replace(
        duty,
        answer=AGREES if attest.agrees else DIFFERS,
        work_digest=attest.work_digest if attest.agrees else b"",
        distance_ppb=attest.distance_ppb,
        height=height,
    )
    duties = (*submission.duties[:position], answered, *submission.duties[position + 1 :])
    return replace(submission, duties=duties)


def apply_witness(
    submission: Submission, witness: Witness, terms: Terms, *, sender: bytes, height: int
) -> Submission:
    """R11: one of the panel, but not the submitter, accuses a step, once per interval."""
    _validate_accuser(submission, witness, terms, sender=sender)
    validate_witness(witness)
    validate_distance(submission.submit, witness.distance_ppb, agrees=False)
    if not 0 <= witness.interval < get_interval_count(submission.submit):
        raise InvalidTransaction(f"the run has no interval {witness.interval}")
    steps = get_interval_steps(submission.submit, witness.interval)
    if witness.step not in steps:
        raise InvalidTransaction(f"step {witness.step} is not in interval {witness.interval}")
    if (witness.step - steps.start) % submission.submit.steps_per_digest:
        raise InvalidTransaction(f"no step digest begins at step {witness.step}")
    validate_beyond(submission.submit, witness, steps=steps)
    verify_path(
        submission.submit.step_roots[witness.interval],
        witness.leaf,
        index=get_stride_place(submission.submit, witness.interval, witness.step),
        count=get_stride_count(submission.submit, witness.interval),
        path=witness.path,
    )
    duties = tuple(
        replace(
            duty,
            answer=DIFFERS,
            work_digest=b"",
            distance_ppb=witness.distance_ppb,
            height=height,
        )
        if (duty.interval, duty.verifier) == (witness.interval, sender)
        and duty.answer not in (MISSED, LAZY)
        else duty
        for duty in submission.duties
    )
    accusations = _add_accuser(submission, witness, sender)
    return replace(submission, duties=duties, accusations=accusations)


def _validate_accuser(
    submission: Submission, witness: Witness, terms: Terms, *, sender: bytes
) -> None:
    if terms.params.rule != "witness":
        raise InvalidTransaction(f"rule {terms.params.rule} knows no witnesses")
    if sender == submission.sender:
        raise InvalidTransaction("a submitter cannot accuse its own record")
    if sender in terms.barred:
        raise InvalidTransaction(
            f"{sender.hex()[:8]} was wrong {terms.params.max_strikes} times and accuses nobody any"
            " more",
            slug="too-many-strikes",
        )
    if any(a.interval == witness.interval and sender in a.accusers for a in submission.accusations):
        raise InvalidTransaction(
            f"interval {witness.interval}: this verifier has accused it already",
            slug="already-said",
        )
    if submission.phase not in (RETRACING, WITNESSING):
        raise InvalidTransaction(
            f"witnesses are heard while retracing, the submission is {submission.phase}",
            slug="closed",
        )
    _validate_panelist(submission, sender)


def _validate_panelist(submission: Submission, sender: bytes) -> None:
    """R11, R12: who could not repeat the arithmetic at the election decides nothing about it."""
    if sender not in submission.panel:
        raise InvalidTransaction(
            f"{sender.hex()[:8]} did not serve {submission.submit.device_class} when the verifiers"
            " of this submission were elected",
            slug="not-on-panel",
        )


def _add_accuser(submission: Submission, witness: Witness, sender: bytes) -> tuple[Accusation, ...]:
    """The accusations with the witness in them; everybody has one answer about a step."""
    found = find_accusation(submission, interval=witness.interval, step=witness.step)
    answer = PanelAnswer(sender, witness.recomputed)
    if found is None:
        # A submitter that is itself a verifier has answered by its commitment.
        own = PanelAnswer(submission.sender, witness.leaf)
        first = Accusation(
            interval=witness.interval,
            step=witness.step,
            leaf=witness.leaf,
            pre_state=witness.pre_state,
            accusers=(sender,),
            answers=(own, answer) if submission.sender in submission.panel else (answer,),
        )
        return (*submission.accusations, first)
    known = any(a.verifier == sender for a in found.answers)
    joined = replace(
        found,
        # Heard again; dismissed anew with the block if this one is not believed either (R17).
        outcome=OPEN if found.outcome == DISMISSED else found.outcome,
        accusers=(*found.accusers, sender),
        answers=found.answers if known else (*found.answers, answer),
    )
    return tuple(joined if each is found else each for each in submission.accusations)


def apply_work_refutation(
    submission: Submission, refutation: WorkRefutation, terms: Terms, *, sender: bytes
) -> Submission:
    """R26: a work digest is not that of the committed step, so its verifier did not retrain it.

    Who lies about one interval is believed about none: all its agreeing answers are lazy.
    """
    validate_work_refutation(refutation)
    if submission.submit.profile == TOLERANCE:
        raise InvalidTransaction(
            f"under profile {TOLERANCE} another machine gets other gradients, so a work digest"
            " shows nothing",
            slug="nothing-to-refute",
        )
    if sender != submission.sender and not terms.is_verifier(sender):
        raise InvalidTransaction(
            "work is refuted by verifiers and by the submission's own submitter",
            slug="not-a-member",
        )
    duty = next(
        (
            duty
            for duty in submission.duties
            if (duty.interval, duty.verifier) == (refutation.interval, refutation.verifier)
            and duty.answer in (AGREES, LAZY)
        ),
        None,
    )
    if duty is None:
        raise InvalidTransaction(
            f"{refutation.verifier.hex()[:8]} did not attest interval {refutation.interval}",
            slug="nothing-to-refute",
        )
    if duty.answer == LAZY:
        raise InvalidTransaction("this verifier was found lazy already", slug="already-said")
    if submission.phase not in (WITNESSING, PANEL):
        raise InvalidTransaction(
            "work is refuted once no duty is open, so that the gradient helps nobody to answer;"
            f" the submission is {submission.phase}",
            slug="closed",
        )
    _verify_committed(submission, refutation, duty.work_step)
    if compute_work_digest(duty.verifier, refutation.gradient) == duty.work_digest:
        raise InvalidTransaction(
            f"the work digest of {duty.verifier.hex()[:8]} is right", slug="nothing-to-refute"
        )
    duties = tuple(
        replace(each, answer=LAZY)
        if each.verifier == duty.verifier and each.answer == AGREES
        else each
        for each in submission.duties
    )
    return replace(submission, duties=duties)


def _verify_committed(submission: Submission, refutation: WorkRefutation, step: int) -> None:
    """Raises InvalidInput unless the parts are those of the committed digest that covers a step."""
    leaf = compute_step_digest(
        pre=refutation.pre,
        batch=refutation.batch,
        gradient=compute_gradient_commitment(refutation.gradient),
        loss=refutation.loss,
        post=refutation.post,
    )
    verify_path(
        submission.submit.step_roots[refutation.interval],
        leaf,
        index=get_stride_place(submission.submit, refutation.interval, step),
        count=get_stride_count(submission.submit, refutation.interval),
        path=refutation.path,
    )


def apply_panel_vote(submission: Submission, vote: PanelVote, *, sender: bytes) -> Submission:
    """R12: one of the panel says once what it got for an accused step, as long as that is open."""
    validate_digest("recomputed", vote.recomputed)
    found = find_accusation(submission, interval=vote.interval, step=vote.step)
    if found is None:
        raise InvalidTransaction(
            f"nobody accused step {vote.step} of interval {vote.interval}",
            slug="unknown-accusation",
        )
    if any(answer.verifier == sender for answer in found.answers):
        raise InvalidTransaction(
            f"step {vote.step}: this verifier has answered already", slug="already-said"
        )
    if submission.phase == DECIDED or found.outcome != OPEN:
        raise InvalidTransaction(f"the panel on step {vote.step} is closed", slug="closed")
    _validate_panelist(submission, sender)
    validate_answer(submission.submit, vote.recomputed, leaf=found.leaf)
    joined = replace(found, answers=(*found.answers, PanelAnswer(sender, vote.recomputed)))
    return replace(
        submission,
        accusations=tuple(joined if a is found else a for a in submission.accusations),
    )
