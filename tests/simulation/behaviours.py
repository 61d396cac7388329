"""How verifiers answer, honestly or not; the options name one behaviour for each validator.

honest     retraces, attests or points at the step that does not follow, sits on panels
ordered    agrees with every submitter, with the others of its kind
chaotic    answers by the toss of a coin, on panels too
accuser    accuses a step that follows, whenever it can, and insists on the panel
withholds  takes duties and says nothing
lazy       attests everything without the record, with a digest of work that it made up
copycat    says what somebody else has said, and agrees where nobody says anything in time
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from milepost_consensus.payloads import Attest, Witness, get_interval_count
from milepost_consensus.submissions import AGREES, Accusation, Duty, Submission
from milepost_consensus.transactions import Payload
from tests.simulation.truth import STEPS, Truth
from tests.support.ledger import make_hash

LAST_HEIGHTS: Final = 3
"""So long before the deadline a copycat waits for somebody to copy."""


class Case(NamedTuple):
    """A submission as one verifier sees it."""

    me: bytes
    submission: Submission
    truth: Truth
    height: int
    get_heard: Callable[[], Sequence[Payload]]
    """What others have said about it and the chain does not hold yet."""
    random: Random


class Honest:
    """And the base of those that are not."""

    needs_record = True
    """Whether it says nothing as long as it lacks the record."""

    def answer(self, case: Case, duty: Duty) -> Payload | None:
        """What it says about an interval that was dealt to it."""
        step = case.truth.get_poisoned_step(duty.interval)
        return self._attest(case, duty) if step is None else self._point_at(case, step)

    def recompute(self, case: Case, accusation: Accusation) -> bytes | None:
        """What it says, on the panel, to have got for an accused step."""
        return case.truth.recompute(accusation.step)

    def accuse(self, case: Case) -> Payload | None:
        """What it says unasked, once per submission."""
        return None

    def _attest(self, case: Case, duty: Duty, work_digest: bytes = b"") -> Attest:
        return Attest(
            submission=case.submission.id,
            interval=duty.interval,
            agrees=1,
            work_step=duty.work_step,
            work_digest=work_digest or case.truth.compute_work(duty.work_step, case.me),
            distance_ppb=0,
        )

    def _point_at(self, case: Case, step: int, recomputed: bytes = b"") -> Witness:
        recomputed = recomputed or case.truth.recompute(step)
        return case.truth.record.make_witness(case.submission.id, step, recomputed=recomputed)


class Ordered(Honest):
    """Agrees."""

    needs_record = False

    def answer(self, case: Case, duty: Duty) -> Payload | None:
        return self._attest(case, duty)

    def recompute(self, case: Case, accusation: Accusation) -> bytes | None:
        return accusation.leaf


class Lazy(Ordered):
    """Agrees, and has not even seen the states that its digest should cover."""

    def answer(self, case: Case, duty: Duty) -> Payload | None:
        return self._attest(case, duty, make_hash("made up", case.me, duty.interval))


class Chaotic(Honest):
    """Tosses a coin."""

    def answer(self, case: Case, duty: Duty) -> Payload | None:
        if case.random.random() < 0.5:
            return super().answer(case, duty)
        if case.truth.get_poisoned_step(duty.interval) is not None:
            return self._attest(case, duty)
        wrong = make_hash("chaos", case.me, duty.interval)
        return self._point_at(case, duty.interval * STEPS, wrong)

    def recompute(self, case: Case, accusation: Accusation) -> bytes | None:
        wrong = make_hash("chaos", accusation.step)
        return accusation.leaf if case.random.random() < 0.5 else wrong


class Accuser(Honest):
    """Accuses."""

    def recompute(self, case: Case, accusation: Accusation) -> bytes | None:
        return make_hash("false", accusation.step)

    def accuse(self, case: Case) -> Payload | None:
        step = case.random.randrange(get_interval_count(case.submission.submit)) * STEPS
        return self._point_at(case, step, make_hash("false", step))


class Withholds(Honest):
    """Says nothing."""

    def answer(self, case: Case, duty: Duty) -> Payload | None:
        return None

    def recompute(self, case: Case, accusation: Accusation) -> bytes | None:
        return None


class Copycat(Honest):
    """Copies."""

    needs_record = False

    def answer(self, case: Case, duty: Duty) -> Payload | None:
        for said in case.get_heard():
            if isinstance(said, Attest | Witness) and said.interval == duty.interval:
                if isinstance(said, Witness):
                    return said
                return self._attest(case, duty, said.work_digest)
        for accusation in case.submission.accusations:
            if accusation.interval == duty.interval:
                return self._point_at(case, accusation.step, accusation.answers[-1].recomputed)
        others = (each for each in case.submission.duties if each.interval == duty.interval)
        agreed = any(each.answer == AGREES for each in others)
        late = case.height + LAST_HEIGHTS >= case.submission.deadline
        return Lazy().answer(case, duty) if agreed or late else None

    def recompute(self, case: Case, accusation: Accusation) -> bytes | None:
        said = Counter(answer.recomputed for answer in accusation.answers)
        return max(said, key=lambda digest: (said[digest], digest))


BEHAVIOURS: Final[dict[str, Honest]] = {
    "honest": Honest(),
    "ordered": Ordered(),
    "chaotic": Chaotic(),
    "accuser": Accuser(),
    "withholds": Withholds(),
    "lazy": Lazy(),
    "copycat": Copycat(),
}
