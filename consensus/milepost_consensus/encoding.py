"""The one canonical byte form of every ledger object.

A wire object is a frozen msgspec struct written as a MessagePack array.  MessagePack alone is not
canonical (integers and lengths have longer spellings), so `decode` encodes the result again and
refuses bytes that differ.  Allowed field types: unsigned integers below 2^63, bytes, ASCII text
and tuples of these or of other wire objects; never a float, a map or None.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from milepost_consensus.errors import InvalidEncoding

MAX_UINT = 2**63 - 1
Uint = Annotated[int, msgspec.Meta(ge=0, le=MAX_UINT)]
"""The only integers of wire objects; `decode` refuses any other."""
MAX_TEXT = 128
"""Longest text field in characters: names and labels, never prose."""
MAX_OBJECT_BYTES = 24 * 1024 * 1024
"""Largest encoded object that is decoded at all: a journal with two full blocks and their votes."""


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all objects that are hashed, signed or stored on chain."""


W = TypeVar("W", bound=Wire)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Wire], msgspec.msgpack.Decoder[Wire]] = {}


def encode(value: Wire) -> bytes:
    """The canonical bytes of a wire object."""
    return _encoder.encode(value)


def decode(kind: type[W], data: bytes) -> W:
    """Read canonical bytes; raises InvalidEncoding for anything that `encode` would not write."""
    if len(data) > MAX_OBJECT_BYTES:
        raise InvalidEncoding(
            f"{kind.__name__}: {len(data)} bytes, the limit is {MAX_OBJECT_BYTES}"
        )
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        value = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEncoding(f"{kind.__name__}: {error}") from error
    if encode(value) != data:
        raise InvalidEncoding(f"{kind.__name__}: the bytes are not the canonical encoding")
    assert isinstance(value, kind)
    return value


def validate_digest(name: str, value: bytes) -> None:
    """A digest field holds exactly 32 bytes."""
    if len(value) != 32:
        raise InvalidEncoding(f"{name} has {len(value)} bytes, a digest has 32")


def validate_text(name: str, value: str, *, empty: bool = False) -> None:
    """A text field is printable ASCII without control characters, at most MAX_TEXT long."""
    if not value and not empty:
        raise InvalidEncoding(f"{name} is empty")
    if len(value) > MAX_TEXT or not (value.isascii() and value.isprintable()):
        raise InvalidEncoding(f"{name} is not printable ASCII of at most {MAX_TEXT} characters")


def validate_uint(name: str, value: int, *, low: int = 0, high: int = MAX_UINT) -> None:
    """An integer field lies in [low, high]."""
    if not low <= value <= high:
        raise InvalidEncoding(f"{name} is {value}, allowed are {low} to {high}")
