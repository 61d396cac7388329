"""Batches of messages between nodes: a MessagePack array of [kind, canonical bytes] pairs.

The envelope is transport and nothing else: every message inside is signed by its author, and may
have come through others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.params import MAX_BLOCK_BYTES, MAX_MEMBERS
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import Proposal, Vote
from milepost_node.mempool import MAX_TX_BYTES

MAX_BATCH_BYTES: Final = 24 * 1024 * 1024
"""One proposal of the largest kind and a good deal beside it."""
MAX_BATCH_MESSAGES: Final = 4_096
_BATCH_FILL_BYTES: Final = 4 * 1024 * 1024
"""A batch is sent once it holds this much, so that one message more always fits."""

MAX_VOTE_BYTES: Final = 256
"""A vote has 167 bytes and three integers of at most nine."""
MAX_PROPOSAL_BYTES: Final = MAX_BLOCK_BYTES + MAX_MEMBERS * MAX_VOTE_BYTES + 4 * 1024
"""The largest block, a prevote of every member, and the proposal's own fields."""

Message = Tx | Proposal | Vote
_KINDS: Final[dict[str, tuple[type[Tx] | type[Proposal] | type[Vote], int]]] = {
    "tx": (Tx, MAX_TX_BYTES),
    "proposal": (Proposal, MAX_PROPOSAL_BYTES),
    "vote": (Vote, MAX_VOTE_BYTES),
}
_NAMES: Final = {kind: name for name, (kind, _) in _KINDS.items()}

Envelope = tuple[str, bytes]
Batch = Annotated[list[Envelope], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)]
"""The limit holds before anything is decoded: four bytes of input make a tuple of a hundred."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def make_envelope(message: Message) -> Envelope:
    """The kind and canonical bytes of a message."""
    return _NAMES[type(message)], encode(message)


def open_envelope(envelope: Envelope) -> Message:
    """The message inside; raises InvalidEncoding for what is none, or larger than any."""
    name, data = envelope
    if name not in _KINDS:
        raise InvalidEncoding(f"unknown message kind {name[:20]!r}")
    kind, limit_bytes = _KINDS[name]
    if len(data) > limit_bytes:
        raise InvalidEncoding(f"a {name} of {len(data)} bytes, the limit is {limit_bytes}")
    return decode(kind, data)


def encode_batch(envelopes: Iterable[Envelope]) -> bytes:
    """The body of one POST to a peer."""
    return _encoder.encode(list(envelopes))


def decode_batch(data: bytes) -> list[Envelope]:
    """The envelopes in a body; raises InvalidEncoding for anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEncoding(f"not a batch of messages: {error}") from error


def is_full(count: int, size_bytes: int) -> bool:
    """Whether a batch of so many messages and bytes should be sent before adding more."""
    return count >= MAX_BATCH_MESSAGES or size_bytes >= _BATCH_FILL_BYTES
