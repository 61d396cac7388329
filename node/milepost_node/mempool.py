"""Transactions that wait for a block: bounded, checked against the ledger, fair among senders.

The ledger rules decide what is valid (`rules.check_tx`); this module only keeps what passed, in
the order of arrival, and lets go of what a block carried, what expired and what no longer applies.

What one member can make others keep is bounded by what the ledger asks of it: one answer waits per
duty, witness, panel and hold, however often it is signed anew, and few transactions of any other
kind.  When all is full, whoever has least waiting takes the place of whoever has most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidInput, InvalidTransaction
from milepost_consensus.params import MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS
from milepost_consensus.payloads import Attest, Hold, PanelVote, Submit, Witness
from milepost_consensus.rules import check_tx
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import (
    ATTEST,
    HOLD,
    PANEL_VOTE,
    SUBMIT,
    WITNESS,
    Payload,
    Tx,
    compute_tx_id,
    decode_payload,
)
from milepost_node.errors import InvalidRequest

MAX_TX_BYTES: Final = 1024 * 1024
"""A submission of 2,048 intervals has about 180 KiB."""
MAX_ANSWER_BYTES: Final = 8 * 1024
"""Any other transaction: a witness with the longest path has about 2.5 KiB."""
SUBMITS_PER_SENDER: Final = 16
"""Every submission costs all validators its storage and a validation.  The same number holds for
every other kind that is no answer to something on the chain."""
RECHECKED: Final = 256
"""Waiting transactions checked again after each block, oldest first: 0.1 ms each."""
RECHECKED_BYTES: Final = 1024 * 1024
"""The same in bytes of payload: the largest submission takes more than a millisecond."""

Subject = tuple[bytes | str | int, ...]


class Mempool:
    """The waiting transactions of one node."""

    def __init__(self, network: bytes, *, limit: int, per_sender: int) -> None:
        self._network = network
        self._limit = limit
        self._per_sender = per_sender
        self._waiting: dict[bytes, Tx] = {}
        self._senders: Counter[bytes] = Counter()
        self._unasked: Counter[tuple[bytes, str]] = Counter()
        """Waiting transactions that are no answers, by sender and kind."""
        self._models: dict[bytes, Submit] = {}
        """The waiting submission of each model."""
        self._subjects: set[Subject] = set()
        """What answers are waiting."""

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
        payload = decode_payload(tx)
        if isinstance(payload, Submit):
            if payload.model_digest in self._models:
                raise InvalidTransaction(
                    f"model {payload.model_digest.hex()[:16]} is being submitted already",
                    slug="duplicate",
                )
            self._models[payload.model_digest] = payload
        subject = _get_subject(tx.sender, payload)
        if subject is None:
            self._unasked[tx.sender, tx.kind] += 1
        elif subject in self._subjects:
            # Not a verdict on the transaction: it may come again once the other has gone.
            raise InvalidRequest(
                f"another {tx.kind} of this sender about the same is waiting already",
                slug="mempool-full",
            )
        else:
            self._subjects.add(subject)
        if len(self._waiting) >= self._limit:
            self._drop([self._get_newest(self._senders.most_common(1)[0][0])])
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
        if self._unasked[tx.sender, tx.kind] >= SUBMITS_PER_SENDER:
            raise InvalidRequest(
                f"{SUBMITS_PER_SENDER} transactions of kind {tx.kind} of this sender are waiting"
                " already",
                slug="mempool-full",
            )
        waiting = self._senders[tx.sender]
        most = max(self._senders.values(), default=0)
        crowded = len(self._waiting) >= self._limit and waiting + 1 >= most
        if crowded or waiting >= self._per_sender:
            raise InvalidRequest(
                f"{len(self._waiting)} transactions are waiting, {waiting} of them"
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
        self._drop([tx_id for tx_id, tx in self._get_oldest() if not _applies(state, tx)])

    def get_submits(self) -> list[Submit]:
        """The submissions that wait."""
        return list(self._models.values())

    def _get_oldest(self) -> list[tuple[bytes, Tx]]:
        """The transactions whose turn it is to be checked again."""
        oldest: list[tuple[bytes, Tx]] = []
        size_bytes = 0
        for tx_id, tx in self._waiting.items():
            size_bytes += len(tx.payload)
            if len(oldest) == RECHECKED or (oldest and size_bytes > RECHECKED_BYTES):
                break
            oldest.append((tx_id, tx))
        return oldest

    def _get_newest(self, sender: bytes) -> bytes:
        """The id of what a sender sent last."""
        return next(i for i in reversed(self._waiting) if self._waiting[i].sender == sender)

    def _drop(self, tx_ids: Iterable[bytes]) -> None:
        for tx_id in tx_ids:
            tx = self._waiting.pop(tx_id, None)
            if tx is None:
                continue
            self._senders[tx.sender] -= 1
            if not self._senders[tx.sender]:
                del self._senders[tx.sender]
            payload = decode_payload(tx)
            if isinstance(payload, Submit):
                del self._models[payload.model_digest]
            subject = _get_subject(tx.sender, payload)
            if subject is not None:
                self._subjects.remove(subject)
                continue
            self._unasked[tx.sender, tx.kind] -= 1
            if not self._unasked[tx.sender, tx.kind]:
                del self._unasked[tx.sender, tx.kind]


def _applies(state: LedgerState, tx: Tx) -> bool:
    try:
        check_tx(state, tx)
    except InvalidInput:
        return False
    return True


def _get_subject(sender: bytes, payload: Payload) -> Subject | None:
    """What an answer is about, which the ledger hears once from each sender; None for others."""
    match payload:
        case Hold(submission):
            return (sender, HOLD, submission)
        case Attest() | Witness():
            kind = ATTEST if isinstance(payload, Attest) else WITNESS
            return (sender, kind, payload.submission, payload.interval)
        case PanelVote():
            return (sender, PANEL_VOTE, payload.submission, payload.interval, payload.step)
        case _:
            return None
