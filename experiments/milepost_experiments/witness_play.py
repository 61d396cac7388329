"""One election and verdict under rule witness: the network's own state machine, all in memory.

Verifiers answer as nodes do: they retrain what they are dealt, attest or point at the first step
that differs, and recompute the accused steps that are due.  All duties are answered in one block
and panels follow in the next ones, which leaves the least time to unmask liars before everything
that they accuse is due.  What retraining finds is the truth of the run, got once by really
retraining it.  Liars follow the ledger's rules and lie about training only.  They are told by the
submitter what a false attest needs (the gradient behind a work digest), which is the best that they
can hope for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from milepost_consensus.answers import apply_attest, apply_panel_vote, apply_witness
from milepost_consensus.crypto import ZERO_DIGEST, compute_digest
from milepost_consensus.duties import Terms
from milepost_consensus.members import SUBMITTER, VERIFIER, Member, compute_quorum
from milepost_consensus.panels import get_due_accusations
from milepost_consensus.params import Params
from milepost_consensus.payloads import Attest, PanelVote, Witness
from milepost_consensus.submissions import (
    OPEN,
    RETRACING,
    SEEDING,
    Accusation,
    Duty,
    Submission,
)
from milepost_consensus.verdicts import Verdict
from milepost_consensus.verification import advance, apply_seed
from milepost_experiments.hypergeometric import CHAOTIC
from milepost_experiments.mnist_runs import Run

SENDER: Final = compute_digest("experiment", b"submitter")
FALSE: Final = compute_digest("experiment", b"a digest that nobody computed")
"""All liars name the same, which helps them most."""


class Play(NamedTuple):
    """What came of one election."""

    verdict: Verdict
    duty_steps: int
    """Steps trained for duties."""
    panel_steps: int
    """Steps recomputed for panels."""
    extensions: int
    accusations: int


@lru_cache
def make_terms(nodes: int, params: Params) -> Terms:
    """A network of verifiers, and one submitter that is none."""
    names = [f"verifier-{number}" for number in range(nodes)]
    members = [
        Member(compute_digest("experiment", name.encode()), name, VERIFIER, name) for name in names
    ]
    submitter = Member(SENDER, "submitter", SUBMITTER, "submitter")
    return Terms(
        params=params,
        members={member.id: member for member in (*members, submitter)},
        verifiers=tuple(sorted(members, key=lambda member: member.id)),
        hold_quorum=compute_quorum(nodes),
    )


def play(run: Run, terms: Terms, *, liars: frozenset[bytes], mode: str, seed: bytes) -> Play:
    """Elect by `seed`, let everybody answer, and go on until the verdict."""
    return _Game(run, terms, liars, mode).play(seed)


class _Game:
    def __init__(self, run: Run, terms: Terms, liars: frozenset[bytes], mode: str) -> None:
        self._run, self._terms, self._liars, self._mode = run, terms, liars, mode
        self._duty_steps = self._panel_steps = 0

    def play(self, seed: bytes) -> Play:
        height = 1
        submission = apply_seed(
            Submission(
                id=compute_digest("experiment", seed),
                sender=SENDER,
                submit=self._run.submit,
                anchored_height=height,
                phase=SEEDING,
            ),
            self._terms,
            seed=seed,
            height=height,
        )
        verdict: Verdict | None = None
        while verdict is None:
            submission = self._answer_panels(submission)
            if submission.phase == RETRACING:
                submission = self._answer_duties(submission, height)
            waits = any(each.outcome == OPEN for each in submission.accusations)
            height = height + 1 if waits else max(height + 1, submission.deadline)
            submission, verdict = advance(submission, self._terms, height=height)
        return Play(
            verdict,
            self._duty_steps,
            self._panel_steps,
            submission.extensions,
            len(submission.accusations),
        )

    def _answer_duties(self, submission: Submission, height: int) -> Submission:
        for duty in submission.duties:
            if duty.answer == OPEN:
                submission = self._answer_duty(submission, duty, height)
        return submission

    def _answer_duty(self, submission: Submission, duty: Duty, height: int) -> Submission:
        truth = self._run.truths[duty.interval]
        self._duty_steps += truth.trained
        if self._claims_agreement(duty.verifier, truth.agrees):
            attest = Attest(
                submission=submission.id,
                interval=duty.interval,
                agrees=1,
                work_step=duty.work_step,
                work_digest=ZERO_DIGEST,
                distance_ppb=0,
            )
            return apply_attest(
                submission, attest, self._terms, sender=duty.verifier, height=height
            )
        witness = Witness(
            submission=submission.id,
            interval=duty.interval,
            step=truth.step,
            leaf=truth.leaf,
            path=truth.path,
            pre_state=ZERO_DIGEST,
            recomputed=FALSE if truth.agrees else truth.recomputed,
            distance_ppb=0,
        )
        return apply_witness(submission, witness, self._terms, sender=duty.verifier, height=height)

    def _answer_panels(self, submission: Submission) -> Submission:
        """What the panel says about the accusations that the last block left."""
        for accusation in get_due_accusations(submission):
            answered = {answer.verifier for answer in accusation.answers}
            for member in self._terms.verifiers:
                if member.id not in answered:
                    self._panel_steps += 1
                    vote = self._make_vote(submission, accusation, member.id)
                    submission = apply_panel_vote(submission, vote, sender=member.id)
        return submission

    def _make_vote(self, submission: Submission, accusation: Accusation, me: bytes) -> PanelVote:
        truth = self._run.truths[accusation.interval]
        recomputed = truth.recomputed if accusation.step == truth.step else accusation.leaf
        stated = recomputed
        if self._claims_agreement(me, recomputed == accusation.leaf):
            stated = accusation.leaf
        elif recomputed == accusation.leaf:
            stated = FALSE
        return PanelVote(submission.id, accusation.interval, accusation.step, stated)

    def _claims_agreement(self, me: bytes, agrees: bool) -> bool:
        """The paper's two modes: ordered liars vouch for what is false, chaotic ones say the
        opposite of what they found."""
        if me not in self._liars:
            return agrees
        return not agrees if self._mode == CHAOTIC else True
