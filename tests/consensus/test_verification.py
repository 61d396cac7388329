"""Scenarios of rule witness: what members do, and the verdict that follows."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from msgspec.structs import replace

from milepost_consensus.draft import get_terms
from milepost_consensus.election import compute_seed
from milepost_consensus.params import Params
from milepost_consensus.payloads import Hold, Witness
from milepost_consensus.verdicts import Verdict
from milepost_consensus.verification import advance
from tests.support.ledger import (
    Ledger,
    Record,
    make_genesis,
    make_hash,
    make_record,
    make_signer,
)

TRUTH = make_hash("what the step really yields")
SPIKE = 5
"""An interval that stands out in `make_spiky_record`, and with it its predecessor."""
SHORT = Params(hold_window=5, attest_window=6, witness_window=2, panel_window=4, max_extensions=2)


def make_spiky_record(name: str = "run", intervals: int = 12) -> Record:
    scores = [10**9 // (k + 1) * (6 if k == SPIKE else 1) for k in range(intervals)]
    return make_record(name, intervals=intervals, change_scores=scores)


def start(
    count: int = 9, params: Params = SHORT, record: Record | None = None
) -> tuple[Ledger, Record, bytes]:
    record = record or make_spiky_record()
    ledger = Ledger(make_genesis(count, params=params))
    return ledger, record, ledger.start(record)


def finish(ledger: Ledger, submission: bytes) -> Verdict:
    ledger.run_until(submission, "decided")
    return ledger.get_verdict(submission)


def get_assignees(ledger: Ledger, submission: bytes, interval: int) -> list[bytes]:
    return [d.verifier for d in ledger.get(submission).duties if d.interval == interval]


def accuse(
    ledger: Ledger,
    record: Record,
    submission: bytes,
    *,
    accuser: bytes,
    interval: int,
    recomputed: bytes = TRUTH,
) -> Witness:
    """A witness against the second step of an interval, in its own block."""
    step = interval * record.submit.steps_per_interval + 1
    witness = record.make_witness(submission, step, recomputed=recomputed)
    ledger.apply([ledger.sign(witness, accuser)])
    return witness


def vote_all(
    ledger: Ledger, submission: bytes, witness: Witness, recomputed: dict[bytes, bytes]
) -> None:
    ledger.apply(ledger.vote(submission, witness, d, v) for v, d in recomputed.items())


# Everybody honest --------------------------------------------------------------------------------


def test_when_all_agree_the_model_is_valid_and_fully_retraced() -> None:
    ledger, record, submission = start()
    assert ledger.get(submission).flagged == (SPIKE - 1, SPIKE)
    assert len(get_assignees(ledger, submission, SPIKE)) == 5
    ledger.attest_open(submission)
    assert ledger.get(submission).phase == "witnessing"
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("VALID", "FULL")
    assert verdict.reason == "all 12 intervals retrace"
    assert verdict.model_digest == record.submit.model_digest
    assert (verdict.refuted, verdict.overruled) == ((), ())
    assert [r.assigned for r in verdict.retraced] == [1, 1, 1, 1, 5, 5, 1, 1, 1, 1, 1, 1]
    assert all(r.assigned == r.agreed for r in verdict.retraced)
    assert (verdict.anchored_height, verdict.height) == (1, 8)


def test_a_verdict_is_for_ever() -> None:
    ledger, _, submission = start()
    ledger.attest_open(submission)
    finish(ledger, submission)
    decided, terms = ledger.get(submission), get_terms(ledger.state)
    assert advance(decided, terms, height=decided.deadline + 1_000) == (decided, None)


def test_the_timeline_follows_the_windows() -> None:
    ledger = Ledger(make_genesis(4, params=SHORT))
    submission = ledger.submit(make_record())
    assert (ledger.get(submission).phase, ledger.get(submission).deadline) == ("anchored", 1 + 5)
    ledger.hold(submission, 2)
    assert ledger.get(submission).phase == "anchored"
    third = ledger.state.validators[2].id
    ledger.apply([ledger.sign(Hold(submission), third)])
    assert (ledger.get(submission).phase, ledger.get(submission).held_height) == ("seeding", 3)
    held_id = ledger.state.last_id
    ledger.apply()
    seeded = ledger.get(submission)
    assert (seeded.phase, seeded.deadline) == ("retracing", 4 + 6)
    assert seeded.seed != held_id
    ledger.attest_open(submission)
    assert (ledger.get(submission).phase, ledger.get(submission).deadline) == ("witnessing", 5 + 2)
    ledger.run(1)
    assert ledger.get(submission).phase == "witnessing"
    ledger.run(1)
    assert (ledger.get(submission).phase, ledger.state.height) == ("decided", 7)


def test_slow_steps_stretch_the_window_and_a_fast_chain_does_not_shorten_it() -> None:
    record = make_record(intervals=6, steps_per_interval=10, step_us=200_000)
    ledger, _, submission = start(3, Params(attest_window=6, min_block_ms=100), record)
    load = max(
        sum(d.verifier == v for d in ledger.get(submission).duties) for v in ledger.verifiers
    )
    # load intervals of ten steps of 0.2 s, three times, in blocks of 0.1 s.
    assert ledger.get(submission).deadline == ledger.state.height + 6 + load * 10 * 2 * 3


def test_intervals_without_auditors_leave_the_verdict_sampled() -> None:
    ledger, _, submission = start(params=Params(auditors=0))
    ledger.attest_open(submission)
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("VALID", "SAMPLED")
    assert [r.interval for r in verdict.retraced] == [0, 4, 5, 11]
    assert verdict.reason == "4 of 12 intervals were retraced and agree"


def test_several_submissions_run_side_by_side() -> None:
    ledger = Ledger(make_genesis(7, params=SHORT))
    records = [make_spiky_record(f"run-{i}") for i in range(3)]
    ids = [ledger.submit(record) for record in records]
    for submission in ids:
        ledger.hold(submission)
    ledger.apply()
    assert len({ledger.get(submission).seed for submission in ids}) == 3
    assert len({ledger.get(submission).quorum for submission in ids}) == 3
    accuser = get_assignees(ledger, ids[1], SPIKE)[0]
    witness = accuse(ledger, records[1], ids[1], accuser=accuser, interval=SPIKE)
    for submission in ids:
        ledger.attest_open(submission)
    others = [v for v in ledger.verifiers if v != accuser]
    vote_all(ledger, ids[1], witness, dict.fromkeys(others, TRUTH))
    assert [finish(ledger, s).outcome for s in ids] == ["VALID", "INVALID", "VALID"]


def test_the_worked_example_of_the_rules() -> None:
    """docs/spec/rules.md, at its end."""
    ledger, record = Ledger(make_genesis(7, params=Params(witness_window=2))), make_spiky_record()
    submission = ledger.submit(record)
    ledger.hold(submission, 4)
    fifth = ledger.state.validators[4].id
    ledger.apply([ledger.sign(Hold(submission), fifth)])
    assert (ledger.get(submission).phase, ledger.get(submission).held_height) == ("seeding", 3)
    ledger.apply()
    assert ledger.get(submission).seed == compute_seed(ledger.state.mix, submission)
    ledger.apply()
    assert ledger.get(submission).flagged == (4, 5)
    assert len(ledger.get(submission).duties) == 20
    accuser = get_assignees(ledger, submission, 5)[-1]
    others = [v for v in ledger.verifiers if v != accuser]
    ledger.attest_open(submission, silent=[accuser])
    own = [d for d in ledger.get(submission).duties if d.verifier == accuser and d.interval != 5]
    witness = record.make_witness(submission, 21, recomputed=TRUTH)
    ledger.apply([*(ledger.attest(submission, d) for d in own), ledger.sign(witness, accuser)])
    assert (ledger.get(submission).phase, ledger.get(submission).deadline) == ("witnessing", 9)
    vote_all(ledger, submission, witness, dict.fromkeys(others[:3], TRUTH))
    assert ledger.get(submission).accusations[0].outcome == "upheld"
    ledger.apply()
    verdict = ledger.get_verdict(submission)
    assert (verdict.outcome, verdict.height, len(verdict.overruled)) == ("INVALID", 9, 4)


# Poison ------------------------------------------------------------------------------------------


def test_one_honest_verifier_among_four_liars_convicts() -> None:
    ledger, record, submission = start()
    honest, *liars = get_assignees(ledger, submission, SPIKE)
    assert len(liars) == 4
    witness = accuse(ledger, record, submission, accuser=honest, interval=SPIKE)
    ledger.attest_open(submission)
    answers = {v: witness.leaf if v in liars else TRUTH for v in ledger.verifiers if v != honest}
    vote_all(ledger, submission, witness, answers)
    verdict = finish(ledger, submission)
    assert verdict.outcome == "INVALID"
    assert [(r.interval, r.step) for r in verdict.refuted] == [(SPIKE, SPIKE * 4 + 1)]
    assert verdict.reason == (
        "interval 5 does not retrace: step 21 does not follow from the submitter's own state"
    )
    assert verdict.assurance == "FULL"
    row = verdict.retraced[SPIKE]
    assert (row.assigned, row.agreed, row.differed) == (5, 4, 1)
    assert verdict.overruled == tuple(sorted(liars))


def test_the_first_of_several_refuted_intervals_is_named() -> None:
    ledger, record, submission = start()
    witnesses = []
    for interval in (9, 5, 7):
        holder = get_assignees(ledger, submission, interval)[0]
        witnesses.append(accuse(ledger, record, submission, accuser=holder, interval=interval))
    ledger.attest_open(submission)
    for witness in witnesses:
        known = {
            a.verifier
            for acc in ledger.get(submission).accusations
            if acc.interval == witness.interval
            for a in acc.answers
        }
        vote_all(
            ledger,
            submission,
            witness,
            {v: TRUTH for v in ledger.verifiers if v not in known},
        )
    verdict = finish(ledger, submission)
    assert [r.interval for r in verdict.refuted] == [5, 7, 9]
    assert verdict.reason.startswith("interval 5 ")


def test_a_verifier_without_the_duty_may_accuse_until_the_witness_window_closes() -> None:
    ledger, record, submission = start()
    ledger.attest_open(submission)
    assert ledger.get(submission).phase == "witnessing"
    (holder,) = get_assignees(ledger, submission, 2)
    outsider = next(v for v in ledger.verifiers if v != holder)
    witness = accuse(ledger, record, submission, accuser=outsider, interval=2)
    others = [v for v in ledger.verifiers if v != outsider]
    vote_all(ledger, submission, witness, dict.fromkeys(others, TRUTH))
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.refuted[0].interval) == ("INVALID", 2)
    # Whoever attested the refuted interval is on record.
    assert verdict.overruled == (holder,)


def test_two_accusers_of_one_step_make_one_accusation() -> None:
    ledger, record, submission = start()
    first, second, *_ = get_assignees(ledger, submission, SPIKE)
    accuse(ledger, record, submission, accuser=first, interval=SPIKE)
    accuse(ledger, record, submission, accuser=second, interval=SPIKE)
    (accusation,) = ledger.get(submission).accusations
    assert accusation.accusers == (first, second)
    assert [a.verifier for a in accusation.answers] == [first, second]


def test_a_slow_accuser_answers_its_duty_after_the_step_is_settled() -> None:
    ledger, record, submission = start(5)
    first, second, *_ = get_assignees(ledger, submission, SPIKE)
    witness = accuse(ledger, record, submission, accuser=first, interval=SPIKE)
    others = [v for v in ledger.verifiers if v not in (first, second)]
    vote_all(ledger, submission, witness, dict.fromkeys(others, TRUTH))
    assert ledger.get(submission).accusations[0].outcome == "upheld"
    accuse(ledger, record, submission, accuser=second, interval=SPIKE)
    mine = [d for d in ledger.get(submission).duties if d.verifier == second]
    assert {d.answer for d in mine if d.interval == SPIKE} == {"differs"}
    assert ledger.get(submission).accusations[0].outcome == "upheld"


# Liars against a clean model ---------------------------------------------------------------------


def test_a_false_witness_is_refuted_and_the_clean_model_is_valid() -> None:
    ledger, record, submission = start()
    liar = get_assignees(ledger, submission, SPIKE)[0]
    witness = accuse(
        ledger, record, submission, accuser=liar, interval=SPIKE, recomputed=make_hash("lie")
    )
    ledger.attest_open(submission)
    others = [v for v in ledger.verifiers if v != liar]
    vote_all(ledger, submission, witness, dict.fromkeys(others, witness.leaf))
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("VALID", "FULL")
    assert verdict.overruled == (liar,)
    row = verdict.retraced[SPIKE]
    assert (row.assigned, row.agreed, row.differed) == (5, 4, 1)


def test_a_false_witness_of_the_only_auditor_passes_the_duty_on() -> None:
    ledger, record, submission = start(5)
    (liar,) = get_assignees(ledger, submission, 2)
    witness = accuse(
        ledger, record, submission, accuser=liar, interval=2, recomputed=make_hash("lie")
    )
    others = [v for v in ledger.verifiers if v != liar]
    vote_all(ledger, submission, witness, dict.fromkeys(others, witness.leaf))
    ledger.attest_open(submission)
    ledger.run_until(submission, "retracing", "decided")
    extended = ledger.get(submission)
    assert (extended.phase, extended.extensions) == ("retracing", 1)
    assert len(get_assignees(ledger, submission, 2)) == 2
    assert get_assignees(ledger, submission, 2)[1] != liar
    ledger.attest_open(submission)
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.overruled) == ("VALID", (liar,))


@pytest.mark.parametrize(("liars", "enough"), [(1, True), (2, False)])
def test_a_sub_quorum_of_five_needs_four_that_agree(liars: int, enough: bool) -> None:
    ledger, record, submission = start()
    accusers = get_assignees(ledger, submission, SPIKE)[:liars]
    for accuser in accusers:
        witness = accuse(
            ledger, record, submission, accuser=accuser, interval=SPIKE, recomputed=make_hash("lie")
        )
    others = [v for v in ledger.verifiers if v not in accusers]
    vote_all(ledger, submission, witness, dict.fromkeys(others, witness.leaf))
    ledger.attest_open(submission)
    ledger.run_until(submission, "retracing", "decided")
    assert (ledger.get(submission).phase == "decided") == enough
    if not enough:
        assert len(get_assignees(ledger, submission, SPIKE)) == 6
        ledger.attest_open(submission)
    assert finish(ledger, submission).outcome == "VALID"


def test_a_false_accuser_replaces_nobody() -> None:
    # Three verifiers, two of them silent or lying about interval 2: only one may take over.
    ledger, record, submission = start(3, record=make_record(intervals=6))
    (liar,) = get_assignees(ledger, submission, 2)
    silent, honest = (v for v in ledger.verifiers if v != liar)
    witness = accuse(
        ledger, record, submission, accuser=liar, interval=2, recomputed=make_hash("lie")
    )
    vote_all(ledger, submission, witness, dict.fromkeys((silent, honest), witness.leaf))
    ledger.attest_open(submission, silent=[silent])
    while not ledger.get(submission).extensions:
        ledger.apply()
    missed = [d.interval for d in ledger.get(submission).duties if d.answer == "missed"]
    added = {d.verifier for d in ledger.get(submission).duties if not d.answer}
    assert missed
    assert added == {honest}


def test_an_attest_taken_back_by_a_false_witness_does_not_count() -> None:
    ledger, record, submission = start(5)
    ledger.attest_open(submission)
    (liar,) = get_assignees(ledger, submission, 2)
    witness = accuse(
        ledger, record, submission, accuser=liar, interval=2, recomputed=make_hash("lie")
    )
    others = [v for v in ledger.verifiers if v != liar]
    vote_all(ledger, submission, witness, dict.fromkeys(others, witness.leaf))
    ledger.run_until(submission, "retracing")
    ledger.attest_open(submission)
    assert finish(ledger, submission).outcome == "VALID"


def test_without_honest_majority_of_all_verifiers_a_step_stays_unsettled() -> None:
    ledger, record, submission = start(6)
    liars = set(ledger.verifiers[:3])
    accuser = next(v for v in ledger.verifiers if v not in liars)
    witness = accuse(ledger, record, submission, accuser=accuser, interval=SPIKE)
    ledger.attest_open(submission)
    answers = {v: witness.leaf if v in liars else TRUTH for v in ledger.verifiers if v != accuser}
    vote_all(ledger, submission, witness, answers)
    # Everybody has answered and three of six is no majority: nothing to wait for.
    assert ledger.get(submission).accusations[0].outcome == "unsettled"
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("UNDECIDED", "ANCHORED")
    assert verdict.reason == (
        "the verifiers could not settle whether step 21 of interval 5 follows:"
        " no result reached 4 of 6"
    )


def test_an_upheld_accusation_convicts_whatever_else_is_unsettled() -> None:
    ledger, record, submission = start()
    first, second = get_assignees(ledger, submission, SPIKE)[:2]
    upheld = accuse(ledger, record, submission, accuser=first, interval=SPIKE)
    accuse(ledger, record, submission, accuser=second, interval=2)
    others = [v for v in ledger.verifiers if v != first]
    vote_all(ledger, submission, upheld, dict.fromkeys(others, TRUTH))
    ledger.attest_open(submission)
    verdict = finish(ledger, submission)
    assert [a.outcome for a in ledger.get(submission).accusations] == ["upheld", "unsettled"]
    assert verdict.outcome == "INVALID"
    assert [r.interval for r in verdict.refuted] == [SPIKE]


def test_whoever_answers_and_then_accuses_keeps_one_answer_and_is_overruled() -> None:
    ledger, record, submission = start(5)
    liar, other, *rest = ledger.verifiers
    witness = accuse(
        ledger, record, submission, accuser=other, interval=2, recomputed=make_hash("lie")
    )
    ledger.apply([ledger.vote(submission, witness, witness.leaf, liar)])
    ledger.apply([ledger.sign(witness, liar)])
    (accusation,) = ledger.get(submission).accusations
    assert accusation.accusers == (other, liar)
    assert [(a.verifier, a.recomputed) for a in accusation.answers] == [
        (other, make_hash("lie")),
        (liar, witness.leaf),
    ]
    vote_all(ledger, submission, witness, dict.fromkeys(rest, witness.leaf))
    ledger.attest_open(submission)
    ledger.run_until(submission, "retracing", "decided")
    ledger.attest_open(submission)
    assert finish(ledger, submission).overruled == tuple(sorted((liar, other)))


def test_a_wrong_panel_answer_is_overruled_too() -> None:
    ledger, record, submission = start(9)
    accuser = get_assignees(ledger, submission, SPIKE)[0]
    outsider = next(
        v for v in ledger.verifiers if v not in get_assignees(ledger, submission, SPIKE)
    )
    witness = accuse(ledger, record, submission, accuser=accuser, interval=SPIKE)
    answers = {v: TRUTH for v in ledger.verifiers if v != accuser}
    ledger.apply([ledger.vote(submission, witness, witness.leaf, outsider)])
    del answers[outsider]
    vote_all(ledger, submission, witness, answers)
    ledger.attest_open(submission)
    assert outsider in finish(ledger, submission).overruled


def test_an_extension_that_cannot_cover_everything_is_not_made() -> None:
    # Two agree, four must, and one verifier is left to ask.
    ledger, _, submission = start(6, Params(quorum_size=5))
    held = ledger.get(submission)
    missing = get_assignees(ledger, submission, SPIKE)[:3]
    duties = tuple(
        replace(d, answer="missed" if d.interval == SPIKE and d.verifier in missing else "agrees")
        for d in held.duties
    )
    stuck = replace(held, phase="panel", duties=duties)
    following, verdict = advance(stuck, get_terms(ledger.state), height=50)
    assert (following.phase, following.extensions) == ("decided", 0)
    assert verdict is not None
    assert verdict.reason == "too few verifiers retraced interval 5: 2 of the 4 needed"


def test_a_silent_panel_leaves_the_accusation_unsettled_at_its_deadline() -> None:
    ledger, record, submission = start()
    accuser = get_assignees(ledger, submission, SPIKE)[0]
    accuse(ledger, record, submission, accuser=accuser, interval=SPIKE)
    ledger.attest_open(submission)
    ledger.run_until(submission, "panel")
    opened = ledger.state.height
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.height) == ("UNDECIDED", opened + SHORT.panel_window)


def test_large_records_and_slow_steps_have_more_time_in_every_phase() -> None:
    record = make_spiky_record()
    submit = replace(record.submit, size_bytes=10**6, step_us=300_000)
    ledger, record, submission = start(
        params=replace(SHORT, min_block_ms=100), record=dataclasses.replace(record, submit=submit)
    )
    opened, retracing = ledger.state.height, ledger.get(submission)
    steps = Counter(duty.verifier for duty in retracing.duties)
    busiest = max(steps.values()) * submit.steps_per_interval
    assert retracing.deadline == opened + SHORT.attest_window + 9 * busiest
    accuser = get_assignees(ledger, submission, SPIKE)[0]
    accuse(ledger, record, submission, accuser=accuser, interval=SPIKE)
    ledger.attest_open(submission)
    panel = ledger.run_until(submission, "panel")
    assert panel.deadline == ledger.state.height + SHORT.panel_window + 9
    other = make_spiky_record("other")
    other = dataclasses.replace(other, submit=replace(other.submit, size_bytes=10**6))
    anchored = ledger.get(ledger.submit(other))
    assert anchored.deadline == anchored.anchored_height + SHORT.hold_window + 2


def test_a_submitter_on_the_panel_has_answered_by_its_commitment() -> None:
    genesis = make_genesis(5, params=SHORT)
    submitter = genesis.members[0]
    both = replace(submitter, roles=7)
    ledger = Ledger(type(genesis)("test", genesis.time_ms, SHORT, (both, *genesis.members[1:])))
    record = make_spiky_record()
    submission = ledger.start(record, submitter.name)
    assert submitter.id not in ledger.get(submission).quorum
    accuser = ledger.get(submission).quorum[0]
    witness = accuse(ledger, record, submission, accuser=accuser, interval=SPIKE)
    answers = {a.verifier: a.recomputed for a in ledger.get(submission).accusations[0].answers}
    assert answers == {submitter.id: witness.leaf, accuser: TRUTH}
    ledger.attest_open(submission)
    vote_all(ledger, submission, witness, dict.fromkeys(ledger.get(submission).quorum[1:3], TRUTH))
    verdict = finish(ledger, submission)
    assert verdict.outcome == "INVALID"
    assert submitter.id not in verdict.overruled


# Silence -----------------------------------------------------------------------------------------


def test_standbys_take_over_from_a_silent_verifier() -> None:
    params = Params(quorum_size=5, attest_window=6, sub_quorum_size=5)
    ledger, _, submission = start(9, params)
    before = ledger.get(submission)
    silent = before.quorum[0]
    assert len(before.standbys) == 4
    ledger.attest_open(submission, silent=[silent])
    while ledger.get(submission).extensions == 0:
        ledger.apply()
    extended = ledger.get(submission)
    assert ledger.state.height == before.deadline
    missed = [d for d in extended.duties if d.answer == "missed"]
    assert {d.verifier for d in missed} == {silent}
    added = extended.duties[len(before.duties) :]
    assert sorted(d.interval for d in added) == sorted(d.interval for d in missed)
    assert {d.verifier for d in added} <= set(before.standbys)
    ledger.attest_open(submission)
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("VALID", "FULL")


def test_without_standbys_the_quorum_takes_over() -> None:
    ledger, _, submission = start(4)
    assert ledger.get(submission).standbys == ()
    silent = ledger.get(submission).quorum[1]
    ledger.attest_open(submission, silent=[silent])
    while ledger.get(submission).extensions == 0:
        ledger.apply()
    pairs = [(d.interval, d.verifier) for d in ledger.get(submission).duties]
    assert len(set(pairs)) == len(pairs)
    assert all(d.verifier != silent for d in ledger.get(submission).duties if not d.answer)
    ledger.attest_open(submission)
    # All four of a flagged interval were asked; three agree and three are needed.
    assert finish(ledger, submission).outcome == "VALID"


def test_a_late_answer_to_a_missed_duty_may_still_be_a_witness() -> None:
    ledger, record, submission = start(5)
    (silent,) = get_assignees(ledger, submission, 2)
    ledger.attest_open(submission, silent=[silent])
    while ledger.get(submission).extensions == 0:
        ledger.apply()
    witness = accuse(ledger, record, submission, accuser=silent, interval=2)
    (duty,) = [d for d in ledger.get(submission).duties if (d.interval, d.verifier) == (2, silent)]
    assert duty.answer == "missed"
    ledger.attest_open(submission)
    others = [v for v in ledger.verifiers if v != silent]
    vote_all(ledger, submission, witness, dict.fromkeys(others, TRUTH))
    assert finish(ledger, submission).outcome == "INVALID"


@pytest.mark.parametrize("max_extensions", [0, 1, 2])
def test_when_everybody_is_silent_the_submission_is_undecided_in_bounded_time(
    max_extensions: int,
) -> None:
    params = Params(quorum_size=3, attest_window=6, witness_window=2, max_extensions=max_extensions)
    ledger, _, submission = start(9, params)
    opened = ledger.state.height
    verdict = finish(ledger, submission)
    assert verdict.outcome == "UNDECIDED"
    assert verdict.reason == "too few verifiers retraced interval 0: 0 of the 1 needed"
    assert (verdict.retraced, verdict.assurance) == ((), "ANCHORED")
    assert verdict.height == opened + 6 * (max_extensions + 1) + 2


def test_a_record_that_is_never_held_is_undecided() -> None:
    ledger = Ledger(make_genesis(7, params=SHORT))
    submission = ledger.submit(make_record())
    ledger.hold(submission, 4)
    verdict = finish(ledger, submission)
    assert verdict.outcome == "UNDECIDED"
    assert verdict.reason == ("not enough validators could hold the record: 4 of the 5 needed")
    assert (verdict.height, verdict.retraced) == (1 + 5, ())


def test_without_an_independent_verifier_the_submission_is_undecided() -> None:
    ledger = Ledger(make_genesis(3, params=SHORT))
    submission = ledger.submit(make_record())
    ledger.serve()  # nothing any more
    ledger.hold(submission)
    ledger.run_until(submission, "decided")
    verdict = ledger.get_verdict(submission)
    assert verdict.outcome == "UNDECIDED"
    assert verdict.reason.startswith("no verifier can be elected")


def test_verifiers_of_the_submitters_operator_are_not_elected() -> None:
    operators = ["of-submitter", "of-submitter", "c", "d", "e"]
    ledger = Ledger(make_genesis(5, params=SHORT, operators=operators))
    submission = ledger.start(make_record())
    own = {ledger.signers[m.id].public for m in ledger.state.genesis.members[:2]}
    elected = set(ledger.get(submission).quorum) | set(ledger.get(submission).standbys)
    assert elected == set(ledger.verifiers) - own


def test_reasons_fit_a_line() -> None:
    ledger, _, submission = start(1)
    ledger.run_until(submission, "decided")
    assert len(ledger.get_verdict(submission).reason) <= 128


def test_an_accusation_in_the_block_of_an_election_of_nobody_is_given_up() -> None:
    genesis = make_genesis(3, params=SHORT, operators=["of-submitter", "of-submitter", "c"])
    ledger, record = Ledger(genesis), make_spiky_record()
    submission = ledger.submit(record)
    own, _, other = (make_signer(f"node-{i}").public for i in range(3))
    ledger.serve(only=[other])
    ledger.hold(submission)
    while not ledger.get(submission).seed:
        ledger.apply()
    witness = record.make_witness(submission, 1, recomputed=TRUTH)
    ledger.apply([ledger.sign(witness, own)])
    assert ledger.get_verdict(submission).outcome == "UNDECIDED"
    assert [a.outcome for a in ledger.get(submission).accusations] == ["unsettled"]
