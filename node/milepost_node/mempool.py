"""Transactions that wait for a block: bounded, checked against the ledger, fair among senders.

The ledger rules decide what is valid (`rules.check_tx`); this module only keeps what passed, in
the order of arrival, and lets go of what a block carried, what expired and what no longer applies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidInput, InvalidTransaction
from milepost_consensus.params import MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS
from milepost_consensus.rules import check_tx
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import SUBMIT, Submit, Tx, compute_tx_id, decode_payload
from milepost_node.errors import InvalidRequest

MAX_TX_BYTES: Final = 1024 * 1024
"""A submission of 2,048 intervals has about 180 KiB."""
MAX_ANSWER_BYTES: Final = 8 * 1024
"""Any other transaction: a witness with the longest path has about 2.5 KiB."""
SUBMITS_PER_SENDER: Final = 16
"""Every submission costs all validators its storage and a validation."""
RECHECKED: Final = 256
"""Waiting transactions checked again after each block, oldest first: 0.1 ms each."""


class Mempool:
    """The waiting transactions of one node."""

    def __init__(self, network: bytes, *, limit: int, per_sender: int) -> None:
        self._network = network
        self._limit = limit
        self._per_sender = per_sender
        self._waiting: dict[bytes, Tx] = {}
        self._senders: Counter[bytes] = Counter()
        self._submits: Counter[bytes] = Counter()
        self._models: dict[bytes, bytes] = {}
        """Transaction id of the waiting submission of each model."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, tx_id: bytes) -> bool:
        return tx_id in self._waiting

    def add(self, state: LedgerState, tx: Tx) -> bool:
        """Take a transaction in; False if it was here already.

        Raises InvalidInput if the next block could not carry it, and InvalidRequest
        (mempool-full) if there is no room for it.
        """
        tx_id = compute_tx_id(tx, self._network)
        if tx_id in self._waiting:
            return False
        self.validate_room(tx)
        check_tx(state, tx)
        model = _get_model(tx)
        if model is not None:
            if model in self._models:
                raise InvalidTransaction(
                    f"model {model.hex()[:16]} is being submitted already", slug="duplicate"
                )
            self._models[model] = tx_id
            self._submits[tx.sender] += 1
        self._waiting[tx_id] = tx
        self._senders[tx.sender] += 1
        return True

    def validate_room(self, tx: Tx) -> None:
        """Raises InvalidRequest (too-large or mempool-full) if the transaction cannot be kept."""
        size_bytes = len(encode(tx))
        limit_bytes = MAX_TX_BYTES if tx.kind == SUBMIT else MAX_ANSWER_BYTES
        if size_bytes > limit_bytes:
            raise InvalidRequest(
                f"the transaction has {size_bytes} bytes, the limit is {limit_bytes}",
                slug="too-large",
            )
        if tx.kind == SUBMIT and self._submits[tx.sender] >= SUBMITS_PER_SENDER:
            raise InvalidRequest(
                f"{SUBMITS_PER_SENDER} submissions of this sender are waiting already",
                slug="mempool-full",
            )
        if len(self._waiting) >= self._limit or self._senders[tx.sender] >= self._per_sender:
            raise InvalidRequest(
                f"{len(self._waiting)} transactions are waiting, {self._senders[tx.sender]} of them"
                f" from this sender; the limits are {self._limit} and {self._per_sender}",
                slug="mempool-full",
            )

    def take(self) -> tuple[Tx, ...]:
        """What the next block may carry, oldest first; the proposer leaves out what does not fit.

        Nothing is removed: that happens when a block is decided.
        """
        chosen: list[Tx] = []
        size_bytes = 0
        for tx in self._waiting.values():
            size_bytes += len(tx.payload)
            if len(chosen) == MAX_BLOCK_TRANSACTIONS or size_bytes > MAX_BLOCK_BYTES:
                break
            chosen.append(tx)
        return tuple(chosen)

    def apply_block(self, block: Block, state: LedgerState) -> None:
        """Let go of what the block carried, of what expired, and of what applies no more."""
        self._drop(compute_tx_id(tx, self._network) for tx in block.txs)
        self._drop([tx_id for tx_id, tx in self._waiting.items() if tx.valid_until <= state.height])
        oldest = list(self._waiting.items())[:RECHECKED]
        self._drop([tx_id for tx_id, tx in oldest if not _applies(state, tx)])

    def get_submits(self) -> list[Submit]:
        """The submissions that wait."""
        wanted = [self._waiting[tx_id] for tx_id in self._models.values()]
        return [payload for tx in wanted if isinstance(payload := decode_payload(tx), Submit)]

    def _drop(self, tx_ids: Iterable[bytes]) -> None:
        for tx_id in tx_ids:
            tx = self._waiting.pop(tx_id, None)
            if tx is None:
                continue
            self._senders[tx.sender] -= 1
            if not self._senders[tx.sender]:
                del self._senders[tx.sender]
            model = _get_model(tx)
            if model is not None:
                del self._models[model]
                self._submits[tx.sender] -= 1


def _applies(state: LedgerState, tx: Tx) -> bool:
    try:
        check_tx(state, tx)
    except InvalidInput:
        return False
    return True


def _get_model(tx: Tx) -> bytes | None:
    """The digest of the model that a submission is about."""
    if tx.kind != SUBMIT:
        return None
    payload = decode_payload(tx)
    assert isinstance(payload, Submit)
    return payload.model_digest
