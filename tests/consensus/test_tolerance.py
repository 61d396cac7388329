"""Profile tolerance on the ledger: bounds, answers that fit their distances, one-bit panels."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import MAX_TOLERANCE_PPB, Params
from milepost_consensus.payloads import Attest, PanelVote, WorkRefutation, validate_submit
from milepost_consensus.rules import check_tx
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_consensus.submissions import AGREES, DIFFERS, REFUTED, UPHELD
from milepost_consensus.tolerance import format_tolerance
from milepost_consensus.transactions import Payload
from milepost_consensus.verdicts import qualify_assurance
from milepost_consensus.worklist import get_comparable
from tests.support.ledger import Ledger, Record, make_genesis, make_hash, make_record

BOUND = 100_000
RECORD = make_record(
    intervals=6, steps_per_interval=4, cut=1, profile="tolerance", tolerance_ppb=BOUND
)
BITWISE = make_record("bitwise", intervals=6, profile="exact")
PARAMS = Params(attest_window=6, witness_window=2, panel_window=4, auditors=2)


def start(record: Record = RECORD, *, params: Params = PARAMS) -> tuple[Ledger, bytes]:
    ledger = Ledger(make_genesis(7, params=params))
    return ledger, ledger.start(record)


def refuse(
    ledger: Ledger, payload: Payload, sender: bytes | str, slug: str = "bad-transaction"
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.sign(payload, sender))
    assert caught.value.slug == slug


def accept(ledger: Ledger, payload: Payload, sender: bytes | str) -> None:
    tx = ledger.sign(payload, sender)
    assert ledger.apply([tx]).txs == (tx,)


def make_attest(ledger: Ledger, submission: bytes, distance_ppb: int, *, agrees: int = 1) -> Attest:
    duty = ledger.get(submission).duties[0]
    work = make_hash("work")
    return Attest(submission, duty.interval, agrees, duty.work_step, work, distance_ppb)


# R8 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (RECORD, {"tolerance_ppb": 0}),
        (RECORD, {"tolerance_ppb": MAX_TOLERANCE_PPB + 1}),
        (RECORD, {"tolerance_ppb": -1}),
        (RECORD, {"steps_per_digest": 2}),
        (BITWISE, {"tolerance_ppb": 1}),
        (make_record(profile="class"), {"tolerance_ppb": BOUND}),
    ],
)
def test_a_bound_belongs_to_its_profile_and_has_limits(
    record: Record, changes: dict[str, int]
) -> None:
    validate_submit(record.submit)
    with pytest.raises(InvalidInput) as caught:
        validate_submit(replace(record.submit, **changes))
    assert caught.value.slug == "bad-tolerance"


def test_the_widest_bound_over_the_longest_interval_is_allowed_and_no_longer_one() -> None:
    def make(steps: int) -> None:
        record = make_record(
            intervals=2,
            steps_per_interval=steps,
            profile="tolerance",
            tolerance_ppb=MAX_TOLERANCE_PPB,
        )
        validate_submit(record.submit)

    make(10)
    with pytest.raises(InvalidInput, match=r"intervals of 11 steps.*noise") as caught:
        make(11)
    assert caught.value.slug == "bad-tolerance"


@pytest.mark.parametrize(
    "device_class", ["exact/1", "torch-2.13.0/x86_64/avx2/threads-1/kat-00", "tolerance"]
)
def test_its_device_class_is_its_own(device_class: str) -> None:
    if device_class == "tolerance":
        record = make_record(profile="class")
        wrong = replace(record.submit, device_class="tolerance/1")
    else:
        wrong = replace(RECORD.submit, device_class=device_class)
    with pytest.raises(InvalidInput) as caught:
        validate_submit(wrong)
    assert caught.value.slug == "bad-profile"


# R10, R11, R12 -----------------------------------------------------------------------------------


def test_an_attest_beyond_the_bound_contradicts_itself() -> None:
    ledger, submission = start()
    duty = ledger.get(submission).duties[0]
    for distance in (BOUND + 1, 10**9, MAX_DISTANCE_PPB):
        refuse(ledger, make_attest(ledger, submission, distance), duty.verifier)
    too_far = make_attest(ledger, submission, MAX_DISTANCE_PPB + 1)
    refuse(ledger, too_far, duty.verifier, "bad-encoding")
    accept(ledger, make_attest(ledger, submission, BOUND), duty.verifier)
    answered = ledger.get(submission).duties[0]
    assert (answered.answer, answered.distance_ppb) == (AGREES, BOUND)


def test_a_witness_within_the_bound_contradicts_itself() -> None:
    ledger, submission = start()
    good = RECORD.make_beyond(submission, 2)
    for distance in (0, BOUND):
        refuse(ledger, replace(good, distance_ppb=distance), "node-1")
    accept(ledger, replace(good, distance_ppb=BOUND + 1), "node-1")


def test_a_witness_speaks_of_the_whole_interval_in_the_one_way_there_is() -> None:
    ledger, submission = start()
    good = RECORD.make_beyond(submission, 5)
    assert good.step == RECORD.submit.steps - 1, "the last interval is shorter"
    earlier = RECORD.make_witness(submission, good.step - 1, recomputed=bytes(32))
    earlier = replace(
        earlier, recomputed=compute_beyond_digest(earlier.leaf), distance_ppb=good.distance_ppb
    )
    for wrong in (
        earlier,
        replace(good, recomputed=make_hash("my own digest")),
        replace(good, recomputed=good.leaf),
        replace(good, pre_state=make_hash("state")),
    ):
        refuse(ledger, wrong, "node-1")
    accept(ledger, good, "node-1")


def test_a_panel_says_within_or_beyond_and_nothing_else() -> None:
    ledger, submission = start()
    witness = RECORD.make_beyond(submission, 2)
    accept(ledger, witness, "node-1")
    vote = PanelVote(submission, 2, witness.step, witness.leaf)
    for wrong in (make_hash("x"), compute_beyond_digest(make_hash("other leaf"))):
        refuse(ledger, replace(vote, recomputed=wrong), "node-2")
    accept(ledger, vote, "node-2")
    accept(ledger, replace(vote, recomputed=witness.recomputed), "node-3")


def test_where_bits_are_compared_there_is_no_distance() -> None:
    ledger, submission = start(BITWISE)
    duty = ledger.get(submission).duties[0]
    refuse(ledger, make_attest(ledger, submission, 1), duty.verifier)
    witness = BITWISE.make_witness(submission, 9, recomputed=make_hash("x"))
    refuse(ledger, replace(witness, distance_ppb=1), "node-1")
    accept(ledger, witness, "node-1")
    accept(ledger, PanelVote(submission, 2, 9, make_hash("any digest")), "node-2")


def test_under_rule_majority_the_vote_says_what_its_distance_says() -> None:
    params = replace(PARAMS, rule="majority", audit_permille=1_000)
    ledger, submission = start(params=params)
    sender = ledger.get(submission).duties[0].verifier
    refuse(ledger, make_attest(ledger, submission, BOUND, agrees=0), sender)
    refuse(ledger, make_attest(ledger, submission, BOUND + 1, agrees=1), sender)
    accept(ledger, make_attest(ledger, submission, BOUND + 1, agrees=0), sender)
    assert ledger.get(submission).duties[0].answer == DIFFERS


# Verdicts (R17, R18, R20, R26, R27) --------------------------------------------------------------


def judge(ledger: Ledger, submission: bytes, *, beyond: int) -> None:
    """Interval 2 is accused; so many verifiers, the accuser included, say beyond."""
    witness = RECORD.make_beyond(submission, 2)
    accuser = next(d.verifier for d in ledger.get(submission).duties if d.interval == 2)
    ledger.apply([ledger.sign(witness, accuser)])
    ledger.attest_open(submission)
    others = [verifier for verifier in ledger.verifiers if verifier != accuser]
    ledger.apply(
        ledger.vote(
            submission, witness, witness.recomputed if n < beyond else witness.leaf, verifier
        )
        for n, verifier in enumerate(others, start=1)
    )
    while ledger.get(submission).phase != "decided":
        ledger.attest_open(submission)


def test_one_honest_verifier_shows_an_interval_beyond_the_bound() -> None:
    ledger, submission = start()
    judge(ledger, submission, beyond=7)
    verdict = ledger.get_verdict(submission)
    assert (verdict.outcome, verdict.assurance) == ("INVALID", "FULL")
    assert [(each.interval, each.step) for each in verdict.refuted] == [(2, 11)]
    assert "interval 2 does not retrace: it ends further than 1e-4" in verdict.reason
    (accusation,) = ledger.get(submission).accusations
    assert accusation.outcome == UPHELD
    # Who attested it is overruled, and not struck: its machine may stand nearer.
    assert verdict.overruled
    assert all(not standing.strikes for standing in ledger.state.standings.values())


def test_a_liar_is_outvoted_and_the_verdict_states_the_bound() -> None:
    ledger, submission = start()
    judge(ledger, submission, beyond=3)
    verdict = ledger.get_verdict(submission)
    assert (verdict.outcome, verdict.assurance, verdict.profile) == ("VALID", "FULL", "tolerance")
    assert verdict.tolerance_ppb == BOUND
    assert ledger.get(submission).accusations[0].outcome == REFUTED
    assert len(verdict.overruled) == 3
    assert all(not standing.strikes for standing in ledger.state.standings.values())


def test_where_bits_are_compared_the_verdict_has_no_bound() -> None:
    ledger, submission = start(BITWISE)
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    assert ledger.get_verdict(submission).tolerance_ppb == 0


def test_work_cannot_be_refuted_where_gradients_differ_in_bits() -> None:
    ledger, submission = start()
    duties = ledger.get(submission).duties
    lazy = duties[0]
    ledger.apply(
        ledger.attest(submission, duty, lazy=duty.verifier == lazy.verifier) for duty in duties
    )
    assert ledger.get(submission).phase == "witnessing"
    answered = ledger.get(submission).duties[0]
    refutation = RECORD.make_refutation(submission, answered)
    assert isinstance(refutation, WorkRefutation)
    refuse(ledger, refutation, "submitter", "nothing-to-refute")
    assert not any(get_comparable(ledger.state, verifier) for verifier in ledger.verifiers)


# Words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ppb", "text"),
    [
        (1, "1e-9"),
        (25, "2.5e-8"),
        (100, "1e-7"),
        (100_000, "1e-4"),
        (123_456, "1.23456e-4"),
        (10_000_000, "1e-2"),
    ],
)
def test_a_bound_is_written_as_people_write_it(ppb: int, text: str) -> None:
    assert format_tolerance(ppb) == text
    assert round(float(text) * 1e9) == ppb


@pytest.mark.parametrize(
    ("assurance", "ppb", "text"),
    [
        ("FULL", 0, "FULL"),
        ("FULL", BOUND, "FULL T(1e-4)"),
        ("FULL+REGISTERED", BOUND, "FULL+REGISTERED T(1e-4)"),
        ("ANCHORED", BOUND, "ANCHORED"),
    ],
)
def test_the_assurance_bears_its_bound(assurance: str, ppb: int, text: str) -> None:
    assert qualify_assurance(assurance, ppb) == text
