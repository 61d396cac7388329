"""From the blocks on disk back to the ledger state, checking every one of them again.

Replaying costs a fraction of a millisecond per transaction and finds whatever a disk or a hand
changed: each block must follow from the state before it, and each certificate must name its block.
"""

from __future__ import annotations

from typing import NamedTuple

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.certificates import verify_certificate
from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import Genesis
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_node.errors import StoreError
from milepost_node.store import REMEDY, Store, StoredBlock


class Chain(NamedTuple):
    """What a node starts from."""

    state: LedgerState
    certificate: Certificate | None
    """That of the last block; None at height 0."""


def replay_chain(store: Store, genesis: Genesis) -> Chain:
    """The state after the stored blocks; raises StoreError (store-corrupt) if one does not fit."""
    chain = Chain(make_initial_state(genesis), None)
    for stored in store.read_chain():
        try:
            chain = _replay_block(chain.state, stored)
        except InvalidInput as error:
            raise StoreError(
                f"chain.db is damaged: block {stored.height} does not follow from those before it"
                f" ({error}). {REMEDY}",
                slug="store-corrupt",
            ) from error
    return chain


def _replay_block(state: LedgerState, stored: StoredBlock) -> Chain:
    block = decode(Block, stored.block)
    certificate = decode(Certificate, stored.certificate)
    verify_certificate(certificate, block.header, state.validators, state.network)
    return Chain(validate_block(state, block, now_ms=None), certificate)
