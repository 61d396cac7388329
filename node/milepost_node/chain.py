"""From the blocks on disk back to the ledger state, checking every one of them again.

Replaying costs a fraction of a millisecond per block and transaction and finds whatever a disk
changed: each block must follow from the state before it, and each certificate must name its block.
Signatures were checked before anything was stored, and cost ten times as much as all the rest;
only those of the newest certificates are checked again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import verify_certificate
from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidBlock, InvalidInput
from milepost_consensus.journal import Journal
from milepost_consensus.members import Genesis
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_node.errors import StoreError
from milepost_node.store import REMEDY, Store, StoredBlock

CHECKED_CERTIFICATES: Final = 100
"""Of so many of the newest blocks the signatures are checked, as peers ask for them first."""


class Chain(NamedTuple):
    """What a node starts from."""

    state: LedgerState
    certificate: Certificate | None
    """That of the last block; None at height 0."""


def replay_chain(store: Store, genesis: Genesis) -> Chain:
    """The state after the stored blocks; raises StoreError (store-corrupt) if one does not fit."""
    chain = Chain(make_initial_state(genesis), None)
    top = store.get_height()
    for stored in store.read_chain():
        try:
            chain = _replay_block(
                chain.state, stored, signed=stored.height > top - CHECKED_CERTIFICATES
            )
        except InvalidInput as error:
            raise StoreError(
                f"chain.db is damaged: block {stored.height} does not follow from those before it"
                f" ({error}). {REMEDY}",
                slug="store-corrupt",
            ) from error
    return chain


def _replay_block(state: LedgerState, stored: StoredBlock, *, signed: bool) -> Chain:
    block = decode(Block, stored.block)
    certificate = decode(Certificate, stored.certificate)
    if signed:
        verify_certificate(certificate, block.header, state.validators, state.network)
    elif certificate.block_id != compute_block_id(block.header, state.network):
        raise InvalidBlock(f"the certificate names block {certificate.block_id.hex()[:16]}")
    return Chain(validate_block(state, block, now_ms=None), certificate)


def read_journal(store: Store, height: int) -> bytes | None:
    """The journal on disk, of a chain that is `height` blocks high.

    Raises StoreError (store-corrupt) for one that cannot be read, or that lies above the chain.
    """
    data = store.get_journal()
    if data is None:
        return None
    try:
        journal = decode(Journal, data)
    except InvalidInput as error:
        raise StoreError(
            f"the journal in chain.db is damaged: {error}. {REMEDY}", slug="store-corrupt"
        ) from error
    if journal.height > height + 1:
        raise StoreError(
            f"chain.db is damaged: its journal is of height {journal.height}, its last block of"
            f" height {height}. {REMEDY}",
            slug="store-corrupt",
        )
    return data
