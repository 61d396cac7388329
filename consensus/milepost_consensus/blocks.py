"""Blocks, their headers, and the certificates that make them final.

A block's id is the digest of its header; the header commits to the transactions, to the ledger
state after the block and to the validators.  The certificate (more than two thirds precommits)
stands beside the block: it cannot be inside what it signs.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import Uint, Wire, encode
from milepost_consensus.merkle import compute_root
from milepost_consensus.params import MAX_BLOCK_TRANSACTIONS
from milepost_consensus.transactions import Tx, compute_tx_id

VERSION = 1


class Header(Wire, frozen=True):
    """What a certificate finalises.  All digests 32 bytes; `time_ms` since the Unix epoch."""

    version: Uint
    height: Uint
    round: Uint
    """The round in which this block was first proposed."""
    time_ms: Uint
    prev_id: bytes
    proposer: bytes
    reveal: bytes
    """The proposer's contribution to the beacon; empty where it owes none."""
    mix: bytes
    """The beacon after this block."""
    tx_root: bytes
    state_root: bytes
    """Root of the ledger state after this block."""
    validators_hash: bytes
    """Of those who may sign this block."""
    next_validators_hash: bytes
    """Of those who may sign the next one."""


class Block(Wire, frozen=True):
    """A header and the transactions it commits to."""

    header: Header
    txs: Annotated[tuple[Tx, ...], msgspec.Meta(max_length=MAX_BLOCK_TRANSACTIONS)]
    """No longer list is even decoded: eight megabytes hold a million empty transactions, and
    seconds of hashing."""


class Certificate(Wire, frozen=True):
    """Precommits of more than two thirds of the validators for one block.

    `signers` are indices into the ordered validator set, strictly ascending, one per signature.
    """

    height: Uint
    round: Uint
    block_id: bytes
    signers: tuple[Uint, ...]
    signatures: tuple[bytes, ...]


def compute_block_id(header: Header, network: bytes) -> bytes:
    """The digest that votes and the next header name."""
    return compute_digest("block", encode(header), network)


def compute_tx_root(txs: tuple[Tx, ...], network: bytes) -> bytes:
    """Merkle root over transaction id and signature of each transaction, in block order.

    Signatures are covered: one block id must never stand for a block that is valid and another
    that is not.
    """
    return compute_root([compute_tx_id(tx, network) + tx.signature for tx in txs])
