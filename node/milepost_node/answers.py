"""What this node has to say to the ledger, signed and repeated until it is there.

An answer is a payload under the key of the task it came from.  It is signed when it is put in,
signed anew when its transaction expired, and forgotten as soon as the rules refuse it: then either
a block carried it or it came too late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from milepost_consensus.crypto import Signer
from milepost_consensus.errors import InvalidInput
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import Answer, Governance, Tx, compute_tx_id, make_tx
from milepost_node.clock import read_monotonic
from milepost_node.mempool import Mempool

logger = logging.getLogger(__name__)

VALID_FOR: Final = 200
"""Heights that an answer may wait for a block before it is signed anew."""
REPEAT_SECONDS: Final = 2.0
"""An answer that no block carries is sent again this often."""

Payload = Answer | Governance
Key = tuple[str, bytes, int, int]
"""Kind of task, what it is about, and two numbers, such as interval and step, that tell tasks of
one kind apart (0 where they do not apply)."""


class _Sent(NamedTuple):
    payload: Payload
    tx: Tx
    sent_at: float


class Answers:
    """The unsettled answers of one node.

    `send` hands a transaction to mempool and peers and raises InvalidInput if the rules refuse it.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        get_state: Callable[[], LedgerState],
        send: Callable[[Tx], None],
        mempool: Mempool,
    ) -> None:
        self._signer = signer
        self._get_state = get_state
        self._send = send
        self._mempool = mempool
        self._unsettled: dict[Key, _Sent] = {}

    def __len__(self) -> int:
        return len(self._unsettled)

    def __contains__(self, key: object) -> bool:
        return key in self._unsettled

    def put(self, key: Key, payload: Payload) -> None:
        """Say it, and keep saying it until it is settled."""
        state = self._get_state()
        tx = make_tx(
            payload,
            signer=self._signer,
            valid_until=state.height + VALID_FOR,
            network=state.network,
        )
        self._unsettled[key] = _Sent(payload, tx, read_monotonic())
        self._try(key, tx)

    def settle(self) -> None:
        """After a decision: sign anew what no longer waits, and forget what the rules refuse."""
        network = self._get_state().network
        for key, sent in list(self._unsettled.items()):
            if compute_tx_id(sent.tx, network) not in self._mempool:
                self.put(key, sent.payload)

    def repeat(self) -> None:
        """Send again what has waited for a while: a peer may have missed it."""
        now = read_monotonic()
        for key, sent in list(self._unsettled.items()):
            if now - sent.sent_at >= REPEAT_SECONDS:
                self._unsettled[key] = sent._replace(sent_at=now)
                self._try(key, sent.tx)

    def _try(self, key: Key, tx: Tx) -> None:
        try:
            self._send(tx)
        except InvalidInput as error:
            if error.slug != "mempool-full":
                del self._unsettled[key]
                logger.debug("answer settled", extra={"task": key[0], "slug": error.slug})
