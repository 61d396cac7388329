"""The ledger where a step digest covers several steps (F10, E10, R11, R26)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from milepost_consensus.election import compute_work_step
from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import MAX_STEPS_PER_DIGEST, Params
from milepost_consensus.payloads import (
    WorkRefutation,
    get_stride_count,
    get_stride_place,
    validate_submit,
    validate_work_refutation,
)
from milepost_consensus.rules import check_tx
from milepost_consensus.step_digests import count_strides, get_stride
from tests.support.ledger import Ledger, Record, make_genesis, make_hash, make_record

SHORT = Params(hold_window=5, attest_window=6, witness_window=3, panel_window=4)
EVERY, STRIDE = 10, 4
TRUTH = make_hash("what the stride really yields")


def start() -> tuple[Ledger, Record, bytes]:
    record = make_record(steps_per_interval=EVERY, steps_per_digest=STRIDE, cut=5, profile="exact")
    ledger = Ledger(make_genesis(9, params=SHORT))
    return ledger, record, ledger.start(record)


def test_an_interval_is_cut_into_strides() -> None:
    steps = range(20, 30)
    assert count_strides(steps, STRIDE) == 3
    cut = [get_stride(steps, STRIDE, place) for place in range(3)]
    assert cut == [range(20, 24), range(24, 28), range(28, 30)]
    submit = make_record(steps_per_interval=EVERY, steps_per_digest=STRIDE, cut=5).submit
    assert [get_stride_count(submit, k) for k in range(6)] == [3, 3, 3, 3, 3, 2]
    assert [get_stride_place(submit, 5, step) for step in range(50, 55)] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("stride", [0, MAX_STEPS_PER_DIGEST + 1, EVERY + 1])
def test_impossible_strides_are_refused(stride: int) -> None:
    submit = make_record(steps_per_interval=EVERY, steps_per_digest=STRIDE).submit
    validate_submit(submit)
    with pytest.raises(InvalidInput, match="steps_per_digest"):
        validate_submit(replace(submit, steps_per_digest=stride))


def test_work_steps_end_a_stride_of_the_second_half() -> None:
    submit = make_record(steps_per_interval=EVERY, steps_per_digest=STRIDE, cut=5).submit
    for interval, expected in ((0, {7, 9}), (5, {54})):
        drawn = {compute_work_step(make_hash(i), submit, interval, bytes(32)) for i in range(60)}
        assert drawn == expected


def test_a_stride_is_accused_by_its_first_step_and_settled_by_the_panel() -> None:
    ledger, record, submission = start()
    place, step = 1, 2 * EVERY + STRIDE
    witness = record.make_witness(submission, step, recomputed=TRUTH)
    assert witness.leaf == record.leaves[2][place]
    for inside in (step + 1, step + 3):
        with pytest.raises(InvalidInput, match=f"begins at step {inside}"):
            check_tx(ledger.state, ledger.sign(replace(witness, step=inside), ledger.verifiers[0]))
    ledger.apply([ledger.sign(witness, ledger.verifiers[0])])
    ledger.apply(ledger.vote(submission, witness, TRUTH, v) for v in ledger.verifiers[1:6])
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    verdict = ledger.get_verdict(submission)
    assert (verdict.outcome, verdict.refuted[0].interval) == ("INVALID", 2)
    assert verdict.refuted[0].step == step


def test_lazy_work_is_refuted_by_the_parts_of_a_stride() -> None:
    ledger, record, submission = start()
    duty = ledger.get(submission).duties[0]
    ledger.apply(
        ledger.attest(submission, each, lazy=each is duty) for each in ledger.get(submission).duties
    )
    refutation = record.make_refutation(submission, duty)
    stride = get_stride_place(record.submit, duty.interval, duty.work_step)
    covered = get_stride(range(duty.interval * EVERY, 60), STRIDE, stride)
    assert len(refutation.loss) in (4 * STRIDE, 4 * (EVERY % STRIDE))
    assert len(refutation.batch) == 8 * len(refutation.loss)
    assert duty.work_step in covered
    short = replace(refutation, batch=refutation.batch[32:], loss=refutation.loss[4:])
    with pytest.raises(InvalidInput):
        check_tx(ledger.state, ledger.sign(short, "submitter"))
    ledger.apply([ledger.sign(refutation, "submitter")])
    assert ledger.get(submission).duties[0].answer == "lazy"


SPOILT: dict[str, Callable[[WorkRefutation], WorkRefutation]] = {
    "no step": lambda good: replace(good, batch=b"", loss=b""),
    "half a loss": lambda good: replace(good, loss=good.loss[:-2]),
    "a loss too few": lambda good: replace(good, loss=good.loss[:-4]),
    "a batch too many": lambda good: replace(good, batch=good.batch + bytes(32)),
    "too many steps": lambda good: replace(good, batch=bytes(32 * 65), loss=bytes(4 * 65)),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_refutations_have_as_many_batches_as_losses(kind: str) -> None:
    ledger, record, submission = start()
    good = record.make_refutation(submission, ledger.get(submission).duties[0])
    validate_work_refutation(good)
    with pytest.raises(InvalidInput, match="a stride at most 64 steps"):
        validate_work_refutation(SPOILT[kind](good))
