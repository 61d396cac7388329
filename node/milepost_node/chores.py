"""What a validator owes the network beside its votes: evidence of what it saw, and fresh onions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from milepost_consensus.beacon import Onion
from milepost_consensus.events import Message
from milepost_consensus.governance import make_evidence
from milepost_consensus.payloads import OnionRefresh
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import EVIDENCE, ONION_REFRESH
from milepost_node.answers import Answers

logger = logging.getLogger(__name__)

REFRESH_SHARE: Final = 8
"""The next onion is promised once an eighth of the present one is left: hours of turns before it is
needed."""


class Chores:
    """The governance transactions of one node, sent until the ledger has them."""

    def __init__(
        self,
        own_id: bytes,
        onion: Onion,
        *,
        get_state: Callable[[], LedgerState],
        answers: Answers,
    ) -> None:
        self._own_id = own_id
        self._onion = onion
        self._get_state = get_state
        self._answers = answers

    def on_equivocation(self, first: Message, second: Message) -> None:
        """Prove to the network that a validator signed two contradicting messages."""
        if self._is_validator() and first.sender != self._own_id:
            evidence = make_evidence(first, second, self._get_state().network)
            self._answers.put((EVIDENCE, first.sender, first.height, 0), evidence)

    def on_decided(self) -> None:
        """Promise the next onion in time."""
        standing = self._get_state().standings.get(self._own_id)
        if standing is None or standing.next_left or not self._is_validator():
            return
        if standing.onion_left < self._onion.links // REFRESH_SHARE:
            key = (ONION_REFRESH, self._own_id, standing.generation, 0)
            if key not in self._answers:
                logger.info("promising the next onion", extra={"left": standing.onion_left})
                following = standing.generation + 1
                head = self._onion.get_head(following)
                self._answers.put(key, OnionRefresh(following, head, self._onion.links))

    def _is_validator(self) -> bool:
        return any(member.id == self._own_id for member in self._get_state().validators)
