"""Dismissed accusations: what only proven liars claim costs nobody a step."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.answers import apply_witness
from milepost_consensus.draft import get_terms
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.panels import (
    dismiss_accusations,
    find_contradicted,
    get_due_accusations,
    get_settled_digest,
)
from milepost_consensus.params import Params
from milepost_consensus.payloads import PanelVote, Witness
from milepost_consensus.rules import check_tx
from milepost_consensus.submissions import Accusation, PanelAnswer, Submission
from milepost_consensus.verdicts import Verdict
from milepost_consensus.worklist import get_accusations
from tests.support.ledger import Ledger, Record, make_genesis, make_hash, make_record

LIE, TRUTH = make_hash("lie"), make_hash("what the step really yields")
PARAMS = Params(hold_window=5, attest_window=20, witness_window=4, panel_window=6, max_extensions=2)
FALSE, TRUE = 2, 4
"""The interval of the first false accusation, and one that really does not follow."""


def start(count: int = 7, profile: str = "exact") -> tuple[Ledger, Record, bytes]:
    record = make_record(intervals=6, profile=profile)
    ledger = Ledger(make_genesis(count, params=PARAMS))
    ledger.serve(record.submit.device_class)
    return ledger, record, ledger.start(record)


def make_witness(
    record: Record, submission: bytes, interval: int, recomputed: bytes = LIE
) -> Witness:
    step = interval * record.submit.steps_per_interval + 1
    return record.make_witness(submission, step, recomputed=recomputed)


def accuse(ledger: Ledger, witness: Witness, *accusers: bytes) -> Accusation:
    """The accusation after a block in which all of these made it."""
    ledger.apply(ledger.sign(witness, accuser) for accuser in accusers)
    return get(ledger, witness)


def get(ledger: Ledger, witness: Witness) -> Accusation:
    (found,) = (
        a
        for a in ledger.get(witness.submission).accusations
        if (a.interval, a.step) == (witness.interval, witness.step)
    )
    return found


def vote(ledger: Ledger, witness: Witness, recomputed: bytes, *voters: bytes) -> None:
    ledger.apply(ledger.vote(witness.submission, witness, recomputed, v) for v in voters)


def unmask(ledger: Ledger, record: Record, submission: bytes, liar: bytes) -> Witness:
    """The liar accuses a step that follows and all others say so."""
    witness = make_witness(record, submission, FALSE)
    accuse(ledger, witness, liar)
    vote(ledger, witness, witness.leaf, *(v for v in ledger.verifiers if v != liar))
    assert get(ledger, witness).outcome == "refuted"
    return witness


def finish(ledger: Ledger, submission: bytes) -> Verdict:
    while True:
        ledger.attest_open(submission)
        if ledger.run_until(submission, "retracing", "decided").phase == "decided":
            return ledger.get_verdict(submission)


def test_the_first_panel_closes_what_the_liars_accuse_besides() -> None:
    ledger, record, submission = start()
    first, second, *honest = ledger.verifiers
    others = [make_witness(record, submission, k) for k in (3, 5)]
    refuted = make_witness(record, submission, FALSE)
    accuse(ledger, refuted, first, second)
    ledger.apply([ledger.sign(others[0], first), ledger.sign(others[1], second)])
    assert [get(ledger, each).outcome for each in others] == ["", ""]
    vote(ledger, refuted, refuted.leaf, *honest)
    assert get(ledger, refuted).outcome == "refuted"
    assert [get(ledger, each).outcome for each in others] == ["dismissed"] * 2
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("VALID", "FULL")
    assert verdict.overruled == tuple(sorted((first, second)))


def test_what_a_proven_liar_accuses_later_is_dismissed_in_its_block() -> None:
    ledger, record, submission = start()
    liar, honest, *_ = ledger.verifiers
    unmask(ledger, record, submission, liar)
    later = make_witness(record, submission, TRUE)
    assert accuse(ledger, later, liar).outcome == "dismissed"
    assert get_accusations(ledger.state, honest) == ()
    late = PanelVote(submission, later.interval, later.step, later.leaf)
    with pytest.raises(InvalidTransaction, match=f"panel on step {later.step} is closed") as caught:
        check_tx(ledger.state, ledger.sign(late, honest))
    assert caught.value.slug == "closed"


def test_a_false_vote_on_the_panel_unmasks_like_an_accusation() -> None:
    ledger, record, submission = start()
    liar, accuser, *honest = ledger.verifiers
    witness = make_witness(record, submission, FALSE)
    accuse(ledger, witness, accuser)
    vote(ledger, witness, LIE, liar)
    vote(ledger, witness, witness.leaf, *honest)
    assert find_contradicted(ledger.get(submission)) == {liar, accuser}
    assert accuse(ledger, make_witness(record, submission, TRUE), liar).outcome == "dismissed"


def test_vouching_for_an_upheld_step_unmasks_too() -> None:
    ledger, record, submission = start()
    liar, *honest = ledger.verifiers
    witness = make_witness(record, submission, TRUE, TRUTH)
    accuse(ledger, witness, honest[0])
    vote(ledger, witness, witness.leaf, liar)
    vote(ledger, witness, TRUTH, *honest[1:])
    assert get(ledger, witness).outcome == "upheld"
    assert find_contradicted(ledger.get(submission)) == {liar}
    assert accuse(ledger, make_witness(record, submission, FALSE), liar).outcome == "dismissed"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_accuser_that_was_not_proven_wrong_keeps_it_open(order: tuple[int, int]) -> None:
    ledger, record, submission = start()
    accusers = ledger.verifiers[:2]
    unmask(ledger, record, submission, accusers[0])
    witness = make_witness(record, submission, TRUE, TRUTH)
    found = accuse(ledger, witness, *(accusers[place] for place in order))
    assert found.outcome == ""
    vote(ledger, witness, TRUTH, *ledger.verifiers[2:])
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.refuted[0].interval) == ("INVALID", TRUE)


def test_one_panel_answer_that_was_not_proven_wrong_keeps_it_open() -> None:
    """A liar accuses what really does not follow; who has looked by then is not overheard."""
    ledger, record, submission = start()
    liar, looked, *others = ledger.verifiers
    true = make_witness(record, submission, TRUE, TRUTH)
    accuse(ledger, true, liar)
    vote(ledger, true, TRUTH, looked)
    unmask(ledger, record, submission, liar)
    assert get(ledger, true).outcome == ""
    vote(ledger, true, TRUTH, *others)
    assert finish(ledger, submission).outcome == "INVALID"


def test_an_honest_witness_opens_it_again_with_the_answers_already_given() -> None:
    ledger, record, submission = start()
    liar, looked, honest, *others = ledger.verifiers
    true = make_witness(record, submission, TRUE, TRUTH)
    accuse(ledger, true, liar)
    vote(ledger, true, true.leaf, looked)
    unmask(ledger, record, submission, liar)
    before = get(ledger, true)
    assert before.outcome == "dismissed"
    after = accuse(ledger, true, honest)
    assert after.outcome == ""
    assert after.accusers == (liar, honest)
    assert after.answers == (*before.answers, PanelAnswer(honest, TRUTH))
    assert get_due_accusations(ledger.get(submission)) == (after,)
    vote(ledger, true, TRUTH, *others)
    verdict = finish(ledger, submission)
    assert verdict.outcome == "INVALID"
    assert {liar, looked} <= {*verdict.overruled}
    assert honest not in verdict.overruled


def test_another_proven_liar_opens_nothing_for_longer_than_its_block() -> None:
    ledger, record, submission = start()
    first, second, *honest = ledger.verifiers
    refuted = make_witness(record, submission, FALSE)
    accuse(ledger, refuted, first, second)
    vote(ledger, refuted, refuted.leaf, *honest)
    witness = make_witness(record, submission, TRUE)
    assert accuse(ledger, witness, first).outcome == "dismissed"
    again = accuse(ledger, witness, second)
    assert (again.outcome, again.accusers) == ("dismissed", (first, second))


def test_a_settled_step_takes_no_more_votes_when_a_witness_joins() -> None:
    ledger, record, submission = start()
    liar, late, *_ = ledger.verifiers
    refuted = make_witness(record, submission, FALSE)
    accuse(ledger, refuted, liar)
    vote(ledger, refuted, refuted.leaf, *ledger.verifiers[2:])
    joined = apply_witness(
        ledger.get(submission),
        refuted,
        get_terms(ledger.state),
        sender=late,
        height=ledger.state.height + 1,
    )
    assert [(a.outcome, a.accusers) for a in joined.accusations] == [("refuted", (liar, late))]


@pytest.mark.parametrize("profile", ["rounded", "class"])
def test_other_profiles_hear_everybody(profile: str) -> None:
    """An honest machine may have got other bits on the first panel."""
    ledger, record, submission = start(profile=profile)
    unlucky, *others = ledger.verifiers
    unmask(ledger, record, submission, unlucky)
    witness = make_witness(record, submission, TRUE, TRUTH)
    assert accuse(ledger, witness, unlucky).outcome == ""
    vote(ledger, witness, TRUTH, *others)
    assert finish(ledger, submission).outcome == "INVALID"


def test_a_dismissed_accusation_takes_the_answer_of_its_duty_with_it() -> None:
    ledger, record, submission = start()
    (liar,) = (d.verifier for d in ledger.get(submission).duties if d.interval == TRUE)
    unmask(ledger, record, submission, liar)
    assert accuse(ledger, make_witness(record, submission, TRUE), liar).outcome == "dismissed"
    ledger.attest_open(submission)
    extended = ledger.run_until(submission, "retracing", "decided")
    assert (extended.phase, extended.extensions) == ("retracing", 1)
    added = [d.verifier for d in extended.duties if d.interval == TRUE and not d.answer]
    assert len(added) == 1
    assert liar not in added
    assert finish(ledger, submission).outcome == "VALID"


def test_liars_alone_leave_nothing_unsettled() -> None:
    """A silent panel would have made it UNDECIDED."""
    ledger, record, submission = start()
    liar = ledger.verifiers[0]
    unmask(ledger, record, submission, liar)
    for interval in (0, 1, 3, 4, 5):
        accuse(ledger, make_witness(record, submission, interval), liar)
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.overruled) == ("VALID", (liar,))


def make_submission(*accusations: Accusation, phase: str, profile: str = "exact") -> Submission:
    submit = make_record(profile=profile).submit
    return Submission(
        make_hash("id"), make_hash("sender"), submit, 1, phase=phase, accusations=accusations
    )


def make_accusation(step: int, outcome: str = "", *answers: PanelAnswer) -> Accusation:
    return Accusation(step // 4, step, make_hash("leaf"), bytes(32), (b"a",), answers, outcome)


def test_under_exact_one_accusation_is_due_at_a_time_until_the_panel() -> None:
    closed, first, second = make_accusation(1, "refuted"), make_accusation(6), make_accusation(9)
    for phase in ("retracing", "witnessing"):
        made = make_submission(closed, first, second, phase=phase)
        assert get_due_accusations(made) == (first,)
        rounded = make_submission(closed, first, second, phase=phase, profile="rounded")
        assert get_due_accusations(rounded) == (first, second)
    assert get_due_accusations(make_submission(closed, first, second, phase="panel")) == (
        first,
        second,
    )


def test_only_a_settled_panel_proves_anything() -> None:
    answers = (PanelAnswer(b"x", LIE), PanelAnswer(b"y", TRUTH), PanelAnswer(b"z", TRUTH))
    for outcome, digest in (
        ("refuted", make_hash("leaf")),
        ("upheld", TRUTH),
        ("unsettled", None),
        ("dismissed", None),
        ("", None),
    ):
        assert get_settled_digest(make_accusation(1, outcome, *answers)) == digest
        made = make_submission(make_accusation(1, outcome, *answers), phase="witnessing")
        expected = {"refuted": {b"a", b"x", b"y", b"z"}, "upheld": {b"x"}}.get(outcome, set())
        assert find_contradicted(made) == expected


def test_nothing_to_dismiss_changes_nothing() -> None:
    made = make_submission(make_accusation(1), phase="witnessing")
    assert dismiss_accusations(made) is made
    decided = replace(made, accusations=(make_accusation(1, "refuted"), make_accusation(5, "upheld",
        PanelAnswer(b"y", TRUTH))))  # fmt: skip
    assert dismiss_accusations(decided) is decided
