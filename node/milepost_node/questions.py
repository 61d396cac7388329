"""What the ledger asks one verifier to find out, and everything that the verifier can answer.

A question is a duty (does this interval retrace?) or an accusation (does this step?).  Its answer
is always one of three: that what the submitter committed follows, that it does not, or nothing.
The truth costs a retraining and is found only when `retraces` is asked; an honest verifier answers
with `tell_truth`, what `milepost_node.behaviours` describes may answer otherwise.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from milepost_consensus.crypto import ZERO_DIGEST, compute_digest
from milepost_consensus.payloads import Attest, PanelVote, Submit, Witness, get_interval_steps
from milepost_consensus.state import LedgerState
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_consensus.submissions import Accusation, Duty, Submission
from milepost_consensus.tolerance import TOLERANCE
from milepost_consensus.transactions import Answer
from milepost_node.blobs import BlobStore
from milepost_node.jobs import Retrace
from milepost_node.records import Records
from milepost_node.retracer import Retracer

logger = logging.getLogger(__name__)

FALSE_DISTANCE_PPB: Final = 10**9
"""What an invented accusation under profile `tolerance` claims: off by the whole movement."""


OnRetraced = Callable[[Submit, Retrace], None]


class CannotRetrain(Exception):
    """This machine does not repeat the run's arithmetic bit for bit: it has nothing to say."""


class NotYet(Exception):
    """The answer depends on something that is not on the chain yet: ask again later."""


@dataclass(frozen=True)
class Means:
    """What one verifier, `me`, finds answers with."""

    me: bytes
    records: Records
    retracer: Retracer
    blobs: BlobStore
    device_classes: tuple[str, ...] = ()
    """What this machine repeats bit for bit."""
    clique: tuple[str, ...] = ()
    """Submitters that a colluding verifier sides with, by name or operator."""
    on_retraced: OnRetraced = lambda submit, found: None
    """Hears of every interval that was retrained."""


class Question(ABC):
    """One thing that the ledger waits for this verifier to find out."""

    def __init__(self, means: Means, state: LedgerState, submission: Submission) -> None:
        self.means = means
        self.state = state
        self.submission = submission
        self.truth: bool | None = None
        """What `retraces` found; None before."""

    @abstractmethod
    async def retraces(self) -> bool:
        """Find out whether what the submitter committed follows.  Costs a retraining, once.

        Raises CannotRetrain, InvalidRequest (the record's fault), PeerError or WorkerError.
        """

    @abstractmethod
    async def vouch(self) -> Answer:
        """Say that it does, found out or not."""

    @abstractmethod
    async def accuse(self) -> Answer:
        """Say that it does not: by the first step that differs if one was found, else by an
        invented digest, the same that every other liar names."""

    async def tell_truth(self) -> Answer:
        """Find out and say so."""
        return await (self.vouch() if await self.retraces() else self.accuse())

    async def fetch_record(self) -> None:
        """Have all files of the record here, and a machine that repeats its arithmetic."""
        wanted = self.submission.submit.device_class
        if wanted not in self.means.device_classes:
            raise CannotRetrain(wanted)
        await self.means.records.fetch_record(
            self.submission.submit, holders=self.submission.holders
        )


class IntervalQuestion(Question):
    """Does an interval retrace?"""

    def __init__(
        self, means: Means, state: LedgerState, submission: Submission, duty: Duty
    ) -> None:
        super().__init__(means, state, submission)
        self.duty = duty
        self._found: Retrace | None = None

    async def retraces(self) -> bool:
        if self._found is None:
            self._found = await self._retrace()
            self.truth = self._found.agrees
        return self._found.agrees

    async def _retrace(self) -> Retrace:
        await self.fetch_record()
        found = await self.means.retracer.retrace_interval(
            self.submission.submit,
            self.duty.interval,
            verifier=self.means.me,
            work_step=self.duty.work_step,
        )
        self.means.on_retraced(self.submission.submit, found)
        if found.pre_state != ZERO_DIGEST:
            self.means.blobs.adopt(found.pre_state)
        logger.info(
            "interval retraced",
            extra={
                "submission": self.submission.id,
                "interval": self.duty.interval,
                "agrees": found.agrees,
                "differs_in": found.part,
                "distance_ppb": found.distance_ppb,
                "milliseconds": found.milliseconds,
            },
        )
        return found

    async def vouch(self) -> Answer:
        return self.attest(agrees=True)

    async def accuse(self) -> Answer:
        if self.state.params.rule == "majority":
            return self.attest(agrees=False)
        found = self._found
        if found is None or found.agrees:
            steps = get_interval_steps(self.submission.submit, self.duty.interval)
            bounded = self.submission.submit.profile == TOLERANCE
            return await self.point_at(steps[-1] if bounded else steps[0])
        return Witness(
            submission=self.submission.id,
            interval=self.duty.interval,
            step=found.step,
            leaf=found.leaf,
            path=found.path,
            pre_state=found.pre_state,
            recomputed=found.recomputed,
            distance_ppb=found.distance_ppb,
        )

    def attest(self, *, agrees: bool, work_digest: bytes = b"") -> Attest:
        """An answer with this work digest; by default the true one, or without one a made-up."""
        found = self._found
        return Attest(
            submission=self.submission.id,
            interval=self.duty.interval,
            agrees=int(agrees),
            work_step=self.duty.work_step,
            work_digest=work_digest or (found.work_digest if found else self._make_up_work()),
            distance_ppb=self._tell_distance(agrees=agrees),
        )

    def _tell_distance(self, *, agrees: bool) -> int:
        """The distance that goes with an answer: the one found, or one that fits what is said."""
        if self.submission.submit.profile != TOLERANCE:
            return 0
        if self._found is not None and self._found.agrees == agrees:
            return self._found.distance_ppb
        return 0 if agrees else FALSE_DISTANCE_PPB

    def _make_up_work(self) -> bytes:
        interval = self.duty.interval.to_bytes(8, "big")
        return compute_digest("false-work", self.means.me + self.submission.id + interval)

    async def point_at(
        self, step: int, *, pre_state: bytes = ZERO_DIGEST, recomputed: bytes = b""
    ) -> Witness:
        """An accusation of a step without retraining; the digest is invented if none is given."""
        submit, interval = self.submission.submit, self.duty.interval
        await self.means.records.fetch_record(submit, holders=self.submission.holders)
        committed = await self.means.retracer.get_step_commitment(submit, interval, step)
        return Witness(
            submission=self.submission.id,
            interval=interval,
            step=step,
            leaf=committed.leaf,
            path=committed.path,
            pre_state=pre_state,
            recomputed=recomputed or compute_false_digest(submit, committed.leaf),
            distance_ppb=self._tell_distance(agrees=False),
        )


class StepQuestion(Question):
    """Does an accused step follow from the submitter's own state?"""

    def __init__(
        self, means: Means, state: LedgerState, submission: Submission, accusation: Accusation
    ) -> None:
        super().__init__(means, state, submission)
        self.accusation = accusation
        self._recomputed = b""

    async def retraces(self) -> bool:
        if not self._recomputed:
            self._recomputed = await self._recompute()
            self.truth = self._recomputed == self.accusation.leaf
        return self._recomputed == self.accusation.leaf

    async def _recompute(self) -> bytes:
        submit, accusation = self.submission.submit, self.accusation
        await self.fetch_record()
        pre_state = await self.means.records.fetch_state(
            submit, accusation.pre_state, accusers=accusation.accusers
        )
        recomputed = await self.means.retracer.recompute_step(
            submit, accusation.interval, accusation.step, pre_state=pre_state
        )
        logger.info(
            "step recomputed",
            extra={
                "submission": self.submission.id,
                "interval": accusation.interval,
                "step": accusation.step,
                "agrees": recomputed == accusation.leaf,
            },
        )
        return recomputed

    async def vouch(self) -> Answer:
        return self.vote(self.accusation.leaf)

    async def accuse(self) -> Answer:
        differs = self._recomputed not in (b"", self.accusation.leaf)
        return self.vote(
            self._recomputed
            if differs
            else compute_false_digest(self.submission.submit, self.accusation.leaf)
        )

    def vote(self, recomputed: bytes) -> PanelVote:
        """Say that the step yields this digest."""
        accusation = self.accusation
        return PanelVote(self.submission.id, accusation.interval, accusation.step, recomputed)


def compute_false_digest(submit: Submit, committed: bytes) -> bytes:
    """A step digest that nobody computed.  All liars name the same, which helps them most; under
    profile `tolerance` it is the only one that the ledger takes."""
    if submit.profile == TOLERANCE:
        return compute_beyond_digest(committed)
    return compute_digest("false-step", committed)
