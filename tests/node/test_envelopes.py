"""Batches between peers: what goes in comes out, and nothing else is let through."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.votes import PREVOTE, Vote
from milepost_node.envelopes import (
    MAX_BATCH_MESSAGES,
    decode_batch,
    encode_batch,
    make_envelope,
    open_envelope,
)
from tests.support.ledger import Ledger, make_genesis, make_record

VOTE = Vote(3, 0, PREVOTE, b"\x01" * 32, b"\x02" * 32, b"\x03" * 64)


def test_messages_come_out_as_they_went_in() -> None:
    tx = Ledger(make_genesis(4)).sign(make_record().submit, "submitter")
    batch = decode_batch(encode_batch([make_envelope(VOTE), make_envelope(tx)]))
    assert [open_envelope(envelope) for envelope in batch] == [VOTE, tx]


def test_kind_and_bytes_must_fit() -> None:
    _, data = make_envelope(VOTE)
    for envelope in (("tx", data), ("proposal", data), ("other", data), ("vote", data + b"\x00")):
        with pytest.raises(InvalidEncoding):
            open_envelope(envelope)


def test_number_of_messages_is_limited() -> None:
    batch = [make_envelope(VOTE)] * (MAX_BATCH_MESSAGES + 1)
    with pytest.raises(InvalidEncoding, match="length <= 4096"):
        decode_batch(encode_batch(batch))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_refused(data: bytes) -> None:
    try:
        batch = decode_batch(data)
    except InvalidEncoding:
        return
    assert decode_batch(encode_batch(batch)) == batch


@given(
    st.recursive(
        st.none() | st.integers(-5, 2**40) | st.binary(max_size=9) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_value_is_a_batch_or_refused(value: object) -> None:
    try:
        batch = decode_batch(msgspec.msgpack.encode(value))
    except InvalidEncoding:
        return
    for envelope in batch:
        with pytest.raises(InvalidEncoding):
            open_envelope(envelope)
