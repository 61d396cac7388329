"""Canonical bytes: one value has one spelling, and everything else is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.encoding import (
    MAX_OBJECT_BYTES,
    MAX_TEXT,
    MAX_UINT,
    Uint,
    Wire,
    decode,
    encode,
    validate_digest,
    validate_text,
    validate_uint,
)
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.votes import Vote


class Inner(Wire, frozen=True):
    """A nested object."""

    data: bytes
    number: Uint


class Sample(Wire, frozen=True):
    """One field of every allowed kind."""

    number: Uint
    text: str
    data: bytes
    inner: Inner
    many: tuple[Inner, ...]
    numbers: tuple[Uint, ...]


UINTS = st.integers(0, MAX_UINT)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
INNERS = st.builds(Inner, st.binary(max_size=300), UINTS)
SAMPLES = st.builds(
    Sample,
    UINTS,
    TEXTS,
    st.binary(max_size=300),
    INNERS,
    st.lists(INNERS, max_size=4).map(tuple),
    st.lists(UINTS, max_size=20).map(tuple),
)
SMALL = Sample(5, "a", b"xy", Inner(b"", 0), (), ())


@given(SAMPLES)
def test_decode_gives_back_what_was_encoded(value: Sample) -> None:
    assert decode(Sample, encode(value)) == value


@given(SAMPLES, st.data())
def test_changed_bytes_are_refused_or_mean_another_value(
    value: Sample, data: st.DataObject
) -> None:
    good = bytearray(encode(value))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(Sample, bytes(good))
    except InvalidEncoding:
        return
    assert other != value
    assert encode(other) == bytes(good)


@pytest.mark.parametrize(
    ("canonical", "longer"),
    [
        (b"\x05", b"\xcc\x05"),
        (b"\x05", b"\xcd\x00\x05"),
        (b"\x05", b"\xcf\x00\x00\x00\x00\x00\x00\x00\x05"),
        (b"\x05", b"\xd0\x05"),
        (b"\xa1a", b"\xd9\x01a"),
        (b"\xa1a", b"\xda\x00\x01a"),
        (b"\xc4\x02xy", b"\xc5\x00\x02xy"),
        (b"\x92\xc4\x00\x00", b"\xdc\x00\x02\xc4\x00\x00"),
    ],
)
def test_longer_spellings_of_the_same_value_are_refused(canonical: bytes, longer: bytes) -> None:
    good = encode(SMALL)
    bad = good.replace(canonical, longer, 1)
    assert bad != good
    with pytest.raises(InvalidEncoding, match="canonical"):
        decode(Sample, bad)


def test_trailing_bytes_and_surplus_or_missing_fields_are_refused() -> None:
    good = encode(SMALL)
    assert good[0] == 0x96
    for bad in (good + b"\x00", b"\x97" + good[1:] + b"\x00", b"\x95" + good[1:-1], b"", good[:-1]):
        with pytest.raises(InvalidEncoding):
            decode(Sample, bad)


def test_text_in_place_of_bytes_is_refused() -> None:
    with pytest.raises(InvalidEncoding):
        decode(Inner, msgspec.msgpack.encode(["text", 1]))


@pytest.mark.parametrize("number", [-1, -(2**63), MAX_UINT + 1, 2**64 - 1])
def test_integers_outside_the_unsigned_range_are_refused(number: int) -> None:
    with pytest.raises(InvalidEncoding):
        decode(Inner, encode(Inner(b"", number)))
    with pytest.raises(InvalidEncoding):
        decode(Vote, encode(Vote(number, 0, 1, bytes(32), bytes(32))))


def test_floats_nil_and_maps_are_refused() -> None:
    oddities: list[object] = [1.0, None, {}, True]
    for odd in oddities:
        with pytest.raises(InvalidEncoding):
            decode(Inner, msgspec.msgpack.encode([b"", odd]))


def test_oversized_input_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidEncoding, match="limit"):
        decode(Inner, bytes(MAX_OBJECT_BYTES + 1))


def test_invalid_utf8_is_refused() -> None:
    bad = encode(SMALL).replace(b"\xa1a", b"\xa1\xff", 1)
    with pytest.raises(InvalidEncoding):
        decode(Sample, bad)


def test_fields_are_validated_at_their_limits() -> None:
    validate_digest("d", bytes(32))
    validate_text("t", "x" * MAX_TEXT)
    validate_text("t", "", empty=True)
    validate_uint("u", MAX_UINT)
    with pytest.raises(InvalidEncoding, match="31"):
        validate_digest("d", bytes(31))
    for text in ("", "x" * (MAX_TEXT + 1), "line\nbreak", "Köln", "\x7f"):
        with pytest.raises(InvalidEncoding):
            validate_text("t", text)
    for number in (-1, MAX_UINT + 1):
        with pytest.raises(InvalidEncoding):
            validate_uint("u", number)
    with pytest.raises(InvalidEncoding, match="5 to 9"):
        validate_uint("u", 10, low=5, high=9)
