"""Batches of messages between nodes: a MessagePack array of [kind, canonical bytes] pairs.

The envelope is transport and nothing else: every message inside is signed by its author, and may
have come through others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.submissions import Tx
from milepost_consensus.votes import Proposal, Vote

MAX_BATCH_BYTES: Final = 24 * 1024 * 1024
"""One proposal of the largest kind and a good deal beside it."""
MAX_BATCH_MESSAGES: Final = 4_096
_BATCH_FILL_BYTES: Final = 4 * 1024 * 1024
"""A batch is sent once it holds this much, so that one message more always fits."""

Message = Tx | Proposal | Vote
_KINDS: Final[dict[str, type[Tx] | type[Proposal] | type[Vote]]] = {
    "tx": Tx,
    "proposal": Proposal,
    "vote": Vote,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}

Envelope = tuple[str, bytes]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Envelope])


def make_envelope(message: Message) -> Envelope:
    """The kind and canonical bytes of a message."""
    return _NAMES[type(message)], encode(message)


def open_envelope(envelope: Envelope) -> Message:
    """The message inside; raises InvalidEncoding for what is none."""
    kind = _KINDS.get(envelope[0])
    if kind is None:
        raise InvalidEncoding(f"unknown message kind {envelope[0][:20]!r}")
    return decode(kind, envelope[1])


def encode_batch(envelopes: Iterable[Envelope]) -> bytes:
    """The body of one POST to a peer."""
    return _encoder.encode(list(envelopes))


def decode_batch(data: bytes) -> list[Envelope]:
    """The envelopes in a body; raises InvalidEncoding for anything else."""
    try:
        batch = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEncoding(f"not a batch of messages: {error}") from error
    if len(batch) > MAX_BATCH_MESSAGES:
        raise InvalidEncoding(f"{len(batch)} messages, a batch has at most {MAX_BATCH_MESSAGES}")
    return batch


def is_full(count: int, size_bytes: int) -> bool:
    """Whether a batch of so many messages and bytes should be sent before adding more."""
    return count >= MAX_BATCH_MESSAGES or size_bytes >= _BATCH_FILL_BYTES
