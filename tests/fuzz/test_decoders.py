"""Every wire type, and the batches that carry them, against bytes that nobody honest wrote."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import strategies as st

from milepost_consensus.encoding import MAX_OBJECT_BYTES, Wire, decode, encode
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.members import Genesis
from milepost_consensus.params import MAX_BLOCK_TRANSACTIONS, MAX_MEMBERS
from milepost_consensus.transactions import Tx
from milepost_consensus.views import from_view, to_view
from milepost_consensus.votes import Proposal, Vote
from milepost_node.envelopes import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    MAX_PROPOSAL_BYTES,
    MAX_VOTE_BYTES,
    Envelope,
    decode_batch,
    encode_batch,
    open_envelope,
)
from tests.fuzz.mutations import MSGPACK_PIECES, mutate
from tests.fuzz.properties import (
    THOROUGH,
    assert_bounded,
    refuse_or_return,
    run_property,
)
from tests.fuzz.values import get_lists, get_wire_types, make_values, make_zero
from tests.support.validators import Validators

KINDS = get_wire_types()
VALUES: dict[type[Wire], st.SearchStrategy[Wire]] = {kind: make_values(kind) for kind in KINDS}
SEEDS = st.integers(0, 2**32)
MUTANTS = 12
"""Of each value that is drawn."""
ODDITIES: list[object] = [
    None, True, -1, 2**63, 2**64, 10**5_000, 1.5, float("nan"), float("inf"), "", "\ud800", "é",
    "zz", "AB", "a" * 100_000, b"", [], [[]], [0] * 50, {}, {"\ud800": 1}, {1: 2},
    {"x" * 100_000: 0}, {None: None},
]  # fmt: skip


def test_the_types_are_found_at_all() -> None:
    assert {Genesis, Proposal, Tx, Vote} <= set(KINDS)


def check_bytes(kind: type[Wire], data: bytes) -> None:
    value = refuse_or_return(lambda data: decode(kind, data), data)
    if value is not None:
        assert encode(value) == data, "two byte strings for one value"


@pytest.mark.parametrize("times", THOROUGH)
def test_what_was_encoded_comes_back_and_hurt_bytes_are_refused(times: int) -> None:
    def check(drawn: tuple[Wire, int]) -> None:
        value, seed = drawn
        data = encode(value)
        assert decode(type(value), data) == value
        assert from_view(type(value), to_view(value)) == value
        rng = random.Random(seed)
        for _ in range(MUTANTS):
            check_bytes(type(value), mutate(rng, data, MSGPACK_PIECES))

    values = st.sampled_from(KINDS).flatmap(lambda kind: VALUES[kind])
    run_property(check, st.tuples(values, SEEDS), examples=70, times=times)


@pytest.mark.parametrize("times", THOROUGH)
def test_rubbish_and_values_of_other_types_are_refused(times: int) -> None:
    def check(drawn: tuple[type[Wire], bytes, Wire]) -> None:
        kind, rubbish, other = drawn
        check_bytes(kind, rubbish)
        check_bytes(kind, encode(other))

    others = st.sampled_from(KINDS).flatmap(lambda kind: VALUES[kind])
    inputs = st.tuples(st.sampled_from(KINDS), st.binary(max_size=400), others)
    run_property(check, inputs, examples=100, times=times)


@pytest.mark.parametrize("times", THOROUGH)
def test_views_that_nobody_wrote_are_refused(times: int) -> None:
    def check(drawn: tuple[Wire, int]) -> None:
        value, seed = drawn
        rng = random.Random(seed)
        view: object = to_view(value)
        for _ in range(MUTANTS):
            hurt = hurt_view(rng, view)
            found = refuse_or_return(lambda _: from_view(type(value), hurt), b"")  # noqa: B023
            if found is not None:
                assert to_view(found) == hurt

    values = st.sampled_from(KINDS).flatmap(lambda kind: VALUES[kind])
    run_property(check, st.tuples(values, SEEDS), examples=40, times=times)


def hurt_view(rng: random.Random, view: object) -> object:
    """A view with one thing in it replaced, missing or too much."""
    if isinstance(view, dict) and view and rng.random() < 0.9:
        name = rng.choice(sorted(view))
        rest = {key: value for key, value in view.items() if key != name}
        kept: dict[object, object] = {**view} if rng.random() < 0.05 else {**rest}
        if len(kept) == len(view):
            kept[rng.choice(("extra", "\ud800", "x" * 50_000))] = 1
        elif rng.random() < 0.9:
            kept[name] = hurt_view(rng, view[name])
        return kept
    if isinstance(view, list) and view and rng.random() < 0.7:
        at = rng.randrange(len(view))
        return [*view[:at], hurt_view(rng, view[at]), *view[at + 1 :]]
    return rng.choice(ODDITIES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_memory_is_bounded_by_the_size_of_the_input(kind: type[Wire]) -> None:
    zero = make_zero(kind)
    for name, inner in get_lists(kind):
        items = (make_zero(inner),) * 15_000
        data = msgspec.msgpack.encode(msgspec.structs.replace(zero, **{name: items}))
        for hurt in (data, data[:-1], data + b"\x00"):
            assert_bounded(lambda data: decode(kind, data), hurt)
    whole = encode(zero)
    for at in range(len(whole)):
        for piece in MSGPACK_PIECES[:7]:
            assert_bounded(lambda data: decode(kind, data), whole[:at] + piece + whole[at + 1 :])


# Batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", THOROUGH)
def test_batches(times: int) -> None:
    def check(drawn: tuple[list[Envelope], int]) -> None:
        batch, seed = drawn
        data = encode_batch(batch)
        assert decode_batch(data) == batch
        rng = random.Random(seed)
        for _ in range(MUTANTS):
            found = refuse_or_return(decode_batch, mutate(rng, data, MSGPACK_PIECES))
            for envelope in found or ():
                refuse_or_return(lambda _: open_envelope(envelope), b"")  # noqa: B023

    messages = st.one_of(
        st.tuples(st.just("vote"), VALUES[Vote].map(encode)),
        st.tuples(st.just("tx"), VALUES[Tx].map(encode)),
        st.tuples(st.just("proposal"), VALUES[Proposal].map(encode)),
        st.tuples(st.text(max_size=20), st.binary(max_size=50)),
    )
    inputs = st.tuples(st.lists(messages, max_size=4), SEEDS)
    run_property(check, inputs, examples=60, times=times)


def test_a_batch_of_millions_of_messages_costs_nothing() -> None:
    count = MAX_BATCH_BYTES // 4 - 2
    data = b"\xdd" + count.to_bytes(4, "big") + b"\x92\xa0\xc4\x00" * count
    assert len(data) <= MAX_BATCH_BYTES
    with pytest.raises(InvalidEncoding, match="length"):
        decode_batch(data)
    assert_bounded(decode_batch, data[: 4 * 10**6])
    few = [("", b"")] * MAX_BATCH_MESSAGES
    assert decode_batch(encode_batch(few)) == few


def test_lists_that_no_block_or_proposal_has_are_not_decoded() -> None:
    validators = Validators(4)
    block, _ = validators.make_block()
    proposal = validators.make_proposal(block)
    tx = Tx("", b"", 0, b"")
    vote = Vote(0, 0, 0, b"", b"")
    for items, limit, make in (
        (tx, MAX_BLOCK_TRANSACTIONS, lambda many: msgspec.structs.replace(block, txs=many)),
        (vote, MAX_MEMBERS, lambda many: msgspec.structs.replace(proposal, polc=many)),
    ):
        most, over = (make((items,) * count) for count in (limit, limit + 1))
        assert decode(type(most), encode(most)) == most
        with pytest.raises(InvalidEncoding, match="length"):
            decode(type(over), encode(over))


def test_messages_larger_than_any_of_their_kind_are_not_decoded() -> None:
    for name, limit in (("vote", MAX_VOTE_BYTES), ("proposal", MAX_PROPOSAL_BYTES)):
        with pytest.raises(InvalidEncoding, match="limit"):
            open_envelope((name, bytes(limit + 1)))
    assert MAX_PROPOSAL_BYTES < MAX_BATCH_BYTES < MAX_OBJECT_BYTES + 1
    largest = Vote(2**63 - 1, 2**63 - 1, 2**63 - 1, bytes(32), bytes(32), bytes(64))
    assert len(encode(largest)) <= MAX_VOTE_BYTES
