"""The effects of one call in their order, with the journal before whatever it covers.

One journal is enough for all that is signed at a height in a call: it is written for the state at
the end, and stands where the first signed message goes out.
"""

from __future__ import annotations

from collections.abc import Callable

from milepost_consensus.encoding import encode
from milepost_consensus.events import Broadcast, Effect, Message, PersistJournal
from milepost_consensus.journal import Journal


class Outbox:
    """Collects effects; `make_journal` is asked for the journal when one is due."""

    def __init__(self, make_journal: Callable[[], Journal]) -> None:
        self._make_journal = make_journal
        self._effects: list[Effect] = []
        self._signed_at: int | None = None

    def add(self, *effects: Effect) -> None:
        """Effects that need no journal."""
        self._effects += effects

    def send_signed(self, message: Message) -> None:
        """Broadcast a message that was signed in this call."""
        if self._signed_at is None:
            self._signed_at = len(self._effects)
        self._effects.append(Broadcast(message))

    def cover(self) -> None:
        """Put the journal of this moment before the messages signed since the last time."""
        if self._signed_at is not None:
            journal = PersistJournal(encode(self._make_journal()))
            self._effects.insert(self._signed_at, journal)
            self._signed_at = None

    def take(self) -> list[Effect]:
        """All effects, covered; the outbox is empty again."""
        self.cover()
        effects, self._effects = self._effects, []
        return effects
