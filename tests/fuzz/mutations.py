"""Bytes that are almost right: a valid encoding, hurt in the ways in which decoders break."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

MSGPACK_PIECES = (
    b"\xdd\xff\xff\xff\xff",  # an array of four thousand million items
    b"\xdd\x00\x0f\xff\xff",
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",  # a map as large
    b"\xc6\xff\xff\xff\xff",  # bytes
    b"\xdb\xff\xff\xff\xff",  # text
    b"\xc9\xff\xff\xff\xff\x00",  # an extension
    b"\xd6\xff\x00\x00\x00\x00",  # a time
    b"\xd8\x01" + bytes(16),
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
    b"\xca\x7f\x80\x00\x00",  # infinity
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",  # 2^64 - 1
    b"\xcf\x00\x00\x00\x00\x00\x00\x00\x05",  # 5, at length
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",  # -2^63
    b"\xcc\x05",
    b"\xd0\xff",
    b"\xc0",
    b"\xc1",
    b"\xc2",
    b"\xc3",
    b"\xa1\xff",  # text that is not UTF-8
    b"\xa3\xed\xa0\x80",  # half of a surrogate pair
    b"\xd9\x01a",
    b"\xc4\x00",
    b"\x80",
    b"\x90",
    b"\x91" * 3_000,  # deep nesting
    b"\x81\xa1a" * 2_000,
)
TEXT_PIECES = (
    b"[" * 5_000,
    b'{"a":' * 3_000,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"1.5",
    b"-0",
    b"9223372036854775808",
    b"7" * 5_000,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"' + "\u202e".encode() + b'"',
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\n",
    b"#",
    b"..",
    b"inf",
    b"nan",
    b"1979-05-27T07:32:00Z",
    b"0x" + b"f" * 5_000,
    b'"""',
    b"[[limits]]",
    b"a." * 2_000 + b"a = 1",
)

Mutation = Callable[[random.Random, bytes], bytes]


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randint(0, max(0, len(data) - 1))


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _nudge(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return (
        data[:at]
        + bytes([(b + rng.choice((-1, 1))) % 256 for b in data[at : at + 1]])
        + (data[at + 1 :])
    )


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _drop(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.randint(1, 9) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    piece = data[at : at + rng.randint(1, 60)]
    return data[:at] + piece * rng.choice((2, 2, 3, 500)) + data[at + len(piece) :]


def _append(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.randint(1, 8))


def mutate(rng: random.Random, data: bytes, pieces: Sequence[bytes]) -> bytes:
    """The bytes with one to three wounds."""

    def put(rng: random.Random, data: bytes) -> bytes:
        at = _place(rng, data)
        return data[:at] + rng.choice(pieces) + data[at + rng.choice((0, 1, 1, 5)) :]

    wounds: tuple[Mutation, ...] = (_flip, _nudge, _cut, _drop, _repeat, _append, put, put)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(wounds)(rng, data)
    return data
