"""Submissions and transactions: what is well formed in itself, and whose signature covers what."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import MAX_UINT, decode, encode
from milepost_consensus.errors import InvalidInput, InvalidSignature, InvalidTransaction
from milepost_consensus.params import MAX_INTERVALS, MAX_STEP_US
from milepost_consensus.payloads import (
    Hold,
    Submit,
    Witness,
    compute_submission_id,
    get_interval_count,
    get_interval_steps,
    validate_submit,
    validate_witness,
)
from milepost_consensus.step_digests import compute_state_digest, compute_step_digest
from milepost_consensus.transactions import (
    PAYLOADS,
    Tx,
    compute_tx_id,
    decode_payload,
    make_tx,
    verify_tx,
)
from tests.support.ledger import make_hash, make_record, make_signer

NETWORK = make_hash("network")
SUBMIT = make_record(intervals=6, steps_per_interval=4).submit


def test_intervals_cover_all_steps_once() -> None:
    for cut in range(4):
        submit = make_record(intervals=5, steps_per_interval=4, cut=cut).submit
        validate_submit(submit)
        ranges = [get_interval_steps(submit, k) for k in range(get_interval_count(submit))]
        assert [t for each in ranges for t in each] == list(range(submit.steps))
        assert len(ranges[-1]) == 4 - cut


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "Köln"},
        {"device_class": "x\x00"},
        {"profile": "magic"},
        {"profile": "exact"},
        {"profile": "exact", "device_class": "rounded/1"},
        {"profile": "rounded", "device_class": "exact/1"},
        {"profile": "class", "device_class": "exact/1"},
        {"profile": "class", "device_class": "rounded"},
        {"records": 0},
        {"size_bytes": 0},
        {"steps_per_interval": 0},
        {"steps": 0},
        {"steps": 25},
        {"steps": 20},
        {"step_us": MAX_STEP_US + 1},
        {"snapshots": SUBMIT.snapshots[1:]},
        {"snapshots": (*SUBMIT.snapshots, bytes(32))},
        {"snapshots": (bytes(31), *SUBMIT.snapshots[1:])},
        {"step_roots": SUBMIT.step_roots[1:]},
        {"step_roots": (b"", *SUBMIT.step_roots[1:])},
        {"change_scores": SUBMIT.change_scores[1:]},
        {"change_scores": (-1, *SUBMIT.change_scores[1:])},
        {"change_scores": (MAX_UINT + 1, *SUBMIT.change_scores[1:])},
        {"rate_sums": (*SUBMIT.rate_sums, 1)},
        {"recipe": b""},
        {"dataset_root": bytes(33)},
        {"manifest": b"x"},
        {"model_digest": make_hash("another")},
        {"optimizer_digest": make_hash("another")},
    ],
)
def test_malformed_submissions_are_refused(changes: dict[str, object]) -> None:
    validate_submit(SUBMIT)
    with pytest.raises(InvalidInput):
        validate_submit(replace(SUBMIT, **changes))


def test_the_number_of_intervals_is_limited() -> None:
    most = make_record(intervals=MAX_INTERVALS, steps_per_interval=1).submit
    validate_submit(most)
    more = make_record(intervals=MAX_INTERVALS + 1, steps_per_interval=1).submit
    with pytest.raises(InvalidInput, match="intervals"):
        validate_submit(more)


def test_malformed_witnesses_are_refused() -> None:
    good = make_record().make_witness(make_hash("s"), 5, recomputed=make_hash("r"))
    validate_witness(good)
    for changes in (
        {"leaf": b""},
        {"recomputed": b"short"},
        {"pre_state": b""},
        {"path": (b"x",)},
        {"path": (bytes(32),) * 65},
        {"recomputed": good.leaf},
    ):
        with pytest.raises(InvalidInput):
            validate_witness(replace(good, **changes))


def test_a_transaction_carries_its_payload_and_signature() -> None:
    signer = make_signer("a")
    for payload in (
        SUBMIT,
        Hold(make_hash("s")),
        make_record().make_witness(make_hash("s"), 5, recomputed=make_hash("r")),
    ):
        tx = make_tx(payload, signer=signer, valid_until=9, network=NETWORK)
        verify_tx(tx, NETWORK)
        assert PAYLOADS[tx.kind] is type(payload)
        assert decode_payload(tx) == payload
        assert decode(Tx, encode(tx)) == tx


def test_every_field_of_a_transaction_is_signed() -> None:
    tx = make_tx(Hold(make_hash("s")), signer=make_signer("a"), valid_until=9, network=NETWORK)
    for changes in (
        {"kind": "attest"},
        {"sender": make_signer("b").public},
        {"valid_until": 10},
        {"payload": encode(Hold(make_hash("t")))},
        {"signature": b""},
    ):
        with pytest.raises(InvalidSignature):
            verify_tx(replace(tx, **changes), NETWORK)
    with pytest.raises(InvalidSignature):
        verify_tx(tx, make_hash("other network"))


def test_the_id_of_a_transaction_ignores_its_signature_and_nothing_else() -> None:
    tx = make_tx(Hold(make_hash("s")), signer=make_signer("a"), valid_until=9, network=NETWORK)
    assert compute_tx_id(replace(tx, signature=b"other"), NETWORK) == compute_tx_id(tx, NETWORK)
    assert compute_tx_id(replace(tx, valid_until=8), NETWORK) != compute_tx_id(tx, NETWORK)
    assert compute_tx_id(tx, make_hash("other network")) != compute_tx_id(tx, NETWORK)


def test_unknown_kinds_and_foreign_payloads_are_refused() -> None:
    tx = make_tx(Hold(make_hash("s")), signer=make_signer("a"), valid_until=9, network=NETWORK)
    with pytest.raises(InvalidTransaction, match="unknown"):
        decode_payload(replace(tx, kind="coin"))
    for kind in PAYLOADS:
        if PAYLOADS[kind] is not Hold:
            with pytest.raises(InvalidInput):
                decode_payload(replace(tx, kind=kind))


def test_a_submission_is_identified_by_who_says_what_where() -> None:
    a, b = make_signer("a").public, make_signer("b").public
    ids = {
        compute_submission_id(a, SUBMIT, NETWORK),
        compute_submission_id(b, SUBMIT, NETWORK),
        compute_submission_id(a, replace(SUBMIT, name="other"), NETWORK),
        compute_submission_id(a, SUBMIT, make_hash("other network")),
    }
    assert len(ids) == 4


def test_state_and_step_digests_are_the_documented_concatenations() -> None:
    m, o = make_hash("m"), make_hash("o")
    assert compute_state_digest(258, m, o) == compute_digest(
        "state", bytes([0, 0, 0, 0, 0, 0, 1, 2]) + m + o
    )
    parts = [make_hash(i) for i in range(4)]
    assert compute_step_digest(
        pre=parts[0], batch=parts[1], gradient=parts[2], loss=b"\x00\x00\x80\x3f", post=parts[3]
    ) == compute_digest("step", parts[0] + parts[1] + parts[2] + b"\x00\x00\x80\x3f" + parts[3])


def test_payload_types_are_told_apart_by_kind_only_once() -> None:
    answers = {"hold", "attest", "witness", "refute-work", "panel-vote"}
    governance = {"evidence", "member-update", "onion-refresh", "serve"}
    assert set(PAYLOADS) == {"register", "submit"} | answers | governance
    assert len(set(PAYLOADS.values())) == len(PAYLOADS)
    assert PAYLOADS["submit"] is Submit
    assert PAYLOADS["witness"] is Witness
