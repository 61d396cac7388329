"""Lazy work that is refuted, and what it costs to be wrong or silent."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import Params
from milepost_consensus.payloads import WorkRefutation
from milepost_consensus.rules import check_tx
from milepost_consensus.standings import Standing
from milepost_consensus.submissions import Duty
from milepost_consensus.verdicts import Verdict
from tests.support.ledger import Ledger, Record, make_genesis, make_hash, make_record

SPIKE = 5
SHORT = Params(
    hold_window=5,
    attest_window=6,
    witness_window=3,
    panel_window=4,
    jail_heights=7,
    max_missed_duties=2,
    max_strikes=2,
)
TRUTH = make_hash("what the step really yields")


def make_spiky(name: str = "run", profile: str = "exact", **changes: object) -> Record:
    scores = [10**9 // (k + 1) * (6 if k == SPIKE else 1) for k in range(12)]
    return make_record(
        name,
        intervals=12,
        change_scores=scores,
        profile=profile,
        tolerance_ppb=100_000 if profile == "tolerance" else 0,
        **changes,  # type: ignore[arg-type]
    )


def start(
    count: int = 9, params: Params = SHORT, record: Record | None = None
) -> tuple[Ledger, Record, bytes]:
    record = record or make_spiky()
    ledger = Ledger(make_genesis(count, params=params))
    return ledger, record, ledger.start(record)


def finish(ledger: Ledger, submission: bytes) -> Verdict:
    ledger.run_until(submission, "decided")
    return ledger.get_verdict(submission)


def attest(ledger: Ledger, submission: bytes, *, lazy: Iterable[bytes] = ()) -> None:
    """All open duties are answered, some without retraining."""
    guilty = frozenset(lazy)
    ledger.apply(
        ledger.attest(submission, duty, lazy=duty.verifier in guilty)
        for duty in ledger.get(submission).duties
        if not duty.answer
    )


def get_duty(ledger: Ledger, submission: bytes, interval: int, seat: int = 0) -> Duty:
    return [d for d in ledger.get(submission).duties if d.interval == interval][seat]


def get_standing(ledger: Ledger, member: bytes) -> Standing:
    return ledger.state.standings[member]


def refuse(ledger: Ledger, payload: WorkRefutation, sender: bytes | str, slug: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.sign(payload, sender))
    assert caught.value.slug == slug


# Lazy work ---------------------------------------------------------------------------------------


def test_a_lazy_attest_is_refuted_replaced_and_costs_a_strike() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, SPIKE)
    lazy, honest = duty.verifier, get_duty(ledger, submission, SPIKE, 1).verifier
    attest(ledger, submission, lazy=[lazy])
    assert ledger.get(submission).phase == "witnessing"
    ledger.apply([ledger.sign(record.make_refutation(submission, duty), honest)])
    struck = get_standing(ledger, lazy)
    assert (struck.strikes, struck.lies) == (1, 1)
    assert struck.jailed_until == ledger.state.height + SHORT.jail_heights
    answers = {d.interval: d.answer for d in ledger.get(submission).duties if d.verifier == lazy}
    # Who lied about one interval is believed about none.
    assert set(answers.values()) == {"lazy"}
    assert len(answers) > 1
    extended = ledger.run_until(submission, "retracing")
    added = [d for d in extended.duties if not d.answer]
    # Four of five still agree on the flagged one; what lacks is what it retraced alone.
    assert sorted(d.interval for d in added) == sorted(set(answers) - {SPIKE - 1, SPIKE})
    assert lazy not in {d.verifier for d in added}
    attest(ledger, submission)
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("VALID", "FULL")
    assert all(d.answer == "lazy" for d in ledger.get(submission).duties if d.verifier == lazy)
    assert get_standing(ledger, lazy).strikes == 1


def test_two_lazy_seats_of_a_sub_quorum_are_dealt_again() -> None:
    ledger, record, submission = start()
    pair = [get_duty(ledger, submission, SPIKE, seat) for seat in (0, 1)]
    attest(ledger, submission, lazy=[d.verifier for d in pair])
    ledger.apply([ledger.sign(record.make_refutation(submission, d), "submitter") for d in pair])
    extended = ledger.run_until(submission, "retracing")
    added = [d for d in extended.duties if d.interval == SPIKE and not d.answer]
    assert len(added) == 1  # four of five are needed, three are left


def test_without_replacements_lazy_work_leaves_the_submission_undecided() -> None:
    ledger, record, submission = start(params=replace(SHORT, max_extensions=0))
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    ledger.apply([ledger.sign(record.make_refutation(submission, duty), "submitter")])
    verdict = finish(ledger, submission)
    assert (verdict.outcome, verdict.assurance) == ("UNDECIDED", "ANCHORED")


def test_work_is_refuted_only_when_no_duty_is_open_and_not_after_the_verdict() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, 0)
    ledger.apply([ledger.attest(submission, duty, lazy=True)])
    refutation = record.make_refutation(submission, duty)
    refuse(ledger, refutation, ledger.verifiers[0], "closed")
    attest(ledger, submission)
    check_tx(ledger.state, ledger.sign(refutation, ledger.verifiers[0]))
    finish(ledger, submission)
    refuse(ledger, refutation, ledger.verifiers[0], "closed")


def test_the_panel_is_no_hiding_place_for_lazy_work() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    witness = record.make_witness(submission, 4 * SPIKE + 1, recomputed=TRUTH)
    accuser = next(v for v in ledger.verifiers if v != duty.verifier)
    ledger.apply([ledger.sign(witness, accuser)])
    ledger.run_until(submission, "panel")
    refutation = record.make_refutation(submission, duty)
    check_tx(ledger.state, ledger.sign(refutation, ledger.verifiers[0]))


def test_an_honest_attest_cannot_be_refuted() -> None:
    ledger, record, submission = start()
    attest(ledger, submission)
    for duty in ledger.get(submission).duties:
        refutation = record.make_refutation(submission, duty)
        refuse(ledger, refutation, "submitter", "nothing-to-refute")


@pytest.mark.parametrize("part", ["gradient", "pre", "batch", "post", "loss", "path"])
def test_a_refutation_opens_the_committed_step_and_nothing_else(part: str) -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    right = record.make_refutation(submission, duty)
    wrong = right.path[::-1] if part == "path" else getattr(right, part)[::-1]
    refuse(ledger, replace(right, **{part: wrong}), "submitter", "bad-path")


def test_a_refutation_is_about_the_step_that_the_duty_names() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    other = replace(duty, work_step=1)  # of the first half, which no duty names
    refuse(ledger, record.make_refutation(submission, other), "submitter", "bad-path")


@pytest.mark.parametrize(
    "changes",
    [
        *({part: b""} for part in ("gradient", "pre", "batch", "post", "loss")),
        {"path": (bytes(32),) * 65},
    ],
)
def test_malformed_refutations_are_refused(changes: dict[str, object]) -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    with pytest.raises(InvalidInput):
        check_tx(
            ledger.state,
            ledger.sign(replace(record.make_refutation(submission, duty), **changes), "submitter"),
        )


def test_one_refutation_is_enough() -> None:
    ledger, record, submission = start()
    mine = next(d for d in ledger.get(submission).duties if d.flagged)
    attest(ledger, submission, lazy=[mine.verifier])
    ledger.apply([ledger.sign(record.make_refutation(submission, mine), "submitter")])
    for duty in ledger.get(submission).duties:
        if duty.verifier == mine.verifier:
            refutation = record.make_refutation(submission, duty)
            refuse(ledger, refutation, ledger.verifiers[0], "already-said")


def test_only_what_was_attested_is_refuted() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, SPIKE)
    step = record.make_witness(submission, 4 * SPIKE, recomputed=TRUTH)
    ledger.apply([ledger.sign(step, duty.verifier)])
    attest(ledger, submission)
    refutation = record.make_refutation(submission, duty)
    refuse(ledger, refutation, "submitter", "nothing-to-refute")
    idle = next(v for v in ledger.verifiers if v != get_duty(ledger, submission, 0).verifier)
    foreign = record.make_refutation(submission, get_duty(ledger, submission, 0))
    foreign = replace(foreign, verifier=idle)
    refuse(ledger, foreign, "submitter", "nothing-to-refute")


def test_a_stranger_to_the_submission_refutes_nothing() -> None:
    record = make_spiky()
    genesis = make_genesis(9, params=SHORT, submitters=("submitter", "other"))
    ledger = Ledger(genesis)
    submission = ledger.start(record)
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    refuse(ledger, record.make_refutation(submission, duty), "other", "not-a-member")


def test_a_lazy_verifier_that_accuses_stays_lazy() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, SPIKE)
    attest(ledger, submission, lazy=[duty.verifier])
    ledger.apply([ledger.sign(record.make_refutation(submission, duty), "submitter")])
    witness = record.make_witness(submission, 4 * SPIKE, recomputed=TRUTH)
    ledger.apply([ledger.sign(witness, duty.verifier)])
    assert get_duty(ledger, submission, SPIKE).answer == "lazy"


def test_a_lazy_verifier_cannot_answer_again() -> None:
    ledger, record, submission = start()
    duty = get_duty(ledger, submission, 0)
    attest(ledger, submission, lazy=[duty.verifier])
    ledger.apply([ledger.sign(record.make_refutation(submission, duty), "submitter")])
    ledger.run_until(submission, "retracing")
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.attest(submission, duty))
    assert caught.value.slug == "already-said"


# Wrong words -------------------------------------------------------------------------------------


def accuse_falsely(ledger: Ledger, record: Record, submission: bytes, liar: bytes) -> Verdict:
    """The liar accuses a right step; everybody else answers honestly."""
    if record.submit.tolerance_ppb:
        witness = record.make_beyond(submission, SPIKE)
    else:
        witness = record.make_witness(submission, 4 * SPIKE + 1, recomputed=TRUTH)
    ledger.apply([ledger.sign(witness, liar)])
    ledger.attest_open(submission)
    honest = [v for v in ledger.verifiers if v != liar]
    ledger.apply(ledger.vote(submission, witness, witness.leaf, v) for v in honest)
    while ledger.get(submission).phase != "decided":
        ledger.attest_open(submission)
    return ledger.get_verdict(submission)


@pytest.mark.parametrize(
    ("profile", "strikes"), [("exact", 1), ("rounded", 0), ("class", 0), ("tolerance", 0)]
)
def test_the_overruled_are_struck_once_where_arithmetic_is_exact(
    profile: str, strikes: int
) -> None:
    record = make_spiky(profile=profile)
    ledger = Ledger(make_genesis(9, params=SHORT))
    ledger.serve(record.submit.device_class)
    submission = ledger.start(record)
    liar = get_duty(ledger, submission, SPIKE).verifier
    verdict = accuse_falsely(ledger, record, submission, liar)
    assert (verdict.outcome, verdict.overruled) == ("VALID", (liar,))
    standing = get_standing(ledger, liar)
    assert (standing.strikes, standing.lies) == (strikes, strikes)
    assert all(not get_standing(ledger, v).strikes for v in ledger.verifiers if v != liar)


def test_a_struck_liar_is_not_elected_until_its_time_is_over() -> None:
    ledger, record, submission = start()
    liar = get_duty(ledger, submission, SPIKE).verifier
    accuse_falsely(ledger, record, submission, liar)
    following = ledger.start(make_spiky("next"))
    assert liar not in (*ledger.get(following).quorum, *ledger.get(following).standbys)
    ledger.attest_open(following)
    finish(ledger, following)
    ledger.run(SHORT.jail_heights)
    assert liar in ledger.get(ledger.start(make_spiky("later"))).quorum


def test_each_key_forces_a_bounded_number_of_panels() -> None:
    ledger, record, submission = start()
    liar = get_duty(ledger, submission, SPIKE).verifier
    for number in range(SHORT.max_strikes):
        assert get_standing(ledger, liar).lies == number
        accuse_falsely(ledger, record, submission, liar)
        record = make_spiky(f"run {number}")
        submission = ledger.start(record)
    witness = record.make_witness(submission, 4 * SPIKE, recomputed=TRUTH)
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.sign(witness, liar))
    assert caught.value.slug == "too-many-strikes"
    other = next(v for v in ledger.verifiers if v != liar)
    check_tx(ledger.state, ledger.sign(witness, other))


def test_turns_missed_by_a_machine_that_was_down_silence_nobody() -> None:
    params = replace(SHORT, max_missed_turns=1)
    ledger = Ledger(make_genesis(9, params=params))
    ledger.apply(round_=5)
    ledger.apply(round_=5)
    struck = [v for v in ledger.verifiers if get_standing(ledger, v).strikes]
    assert struck
    assert all(get_standing(ledger, v).lies == 0 for v in struck)


# Silence -----------------------------------------------------------------------------------------


def run_silently(ledger: Ledger, record: Record, silent: bytes) -> None:
    submission = ledger.start(record)
    ledger.attest_open(submission, silent=[silent])
    while ledger.get(submission).phase != "decided":
        ledger.attest_open(submission, silent=[silent])


def test_silence_in_a_row_of_submissions_is_a_strike() -> None:
    ledger = Ledger(make_genesis(9, params=SHORT))
    silent = ledger.verifiers[3]
    run_silently(ledger, make_spiky("a"), silent)
    assert (get_standing(ledger, silent).missed_duties, get_standing(ledger, silent).strikes) == (
        1,
        0,
    )
    run_silently(ledger, make_spiky("b"), silent)
    struck = get_standing(ledger, silent)
    assert (struck.missed_duties, struck.strikes, struck.lies) == (0, 1, 0)
    assert struck.jailed_until > ledger.state.height
    others = [get_standing(ledger, v) for v in ledger.verifiers if v != silent]
    assert all((each.missed_duties, each.strikes) == (0, 0) for each in others)


def test_an_answer_ends_the_row() -> None:
    ledger = Ledger(make_genesis(9, params=SHORT))
    silent = ledger.verifiers[3]
    run_silently(ledger, make_spiky("a"), silent)
    submission = ledger.start(make_spiky("b"))
    mine = [d for d in ledger.get(submission).duties if d.verifier == silent]
    assert len(mine) > 1
    ledger.apply([ledger.attest(submission, mine[0])])
    while ledger.get(submission).phase != "decided":
        ledger.attest_open(submission, silent=[silent])
    assert get_standing(ledger, silent).missed_duties == 0
    run_silently(ledger, make_spiky("c"), silent)
    assert get_standing(ledger, silent).strikes == 0


def test_silence_about_a_tolerance_is_a_fault_as_every_machine_can_measure() -> None:
    ledger = Ledger(make_genesis(9, params=SHORT))
    silent = ledger.verifiers[3]
    for name in "ab":
        run_silently(ledger, make_spiky(name, profile="tolerance"), silent)
    assert get_standing(ledger, silent).strikes == 1


def test_silence_about_a_device_class_is_no_fault() -> None:
    ledger = Ledger(make_genesis(9, params=SHORT))
    ledger.serve("test")
    silent = ledger.verifiers[3]
    for name in "abc":
        run_silently(ledger, make_spiky(name, profile="class"), silent)
    assert (get_standing(ledger, silent).missed_duties, get_standing(ledger, silent).strikes) == (
        0,
        0,
    )
