"""Watches what comes in for messages that our key signed and we did not.

The guard of the key (keyguard) knows the mark and what follows from a misuse; here it is found: a
signed message above the mark, or another one than the remembered at its place.
"""

from __future__ import annotations

from milepost_consensus.blocks import Block
from milepost_consensus.events import KeyInUse, Message
from milepost_consensus.inbox import Inbox, is_same
from milepost_consensus.keyguard import KeyGuard, Place, Signing, get_place
from milepost_consensus.outbox import Outbox
from milepost_consensus.tally import PROPOSAL, ROUNDS_BEHIND
from milepost_consensus.votes import Proposal, Vote, verify_proposal, verify_vote


class KeyWatch:
    """Compares messages of one key with what the inbox remembers of it.

    A KeyInUse goes to the outbox when the guard says that the key is in use elsewhere.
    """

    def __init__(
        self, key: bytes, network: bytes, guard: KeyGuard, inbox: Inbox, outbox: Outbox
    ) -> None:
        self._key = key
        self._network = network
        self._guard = guard
        self._inbox = inbox
        self._outbox = outbox

    def examine(self, *messages: Message, height: int, round_: int) -> bool:
        """Whether one of the messages shows that our key signed what we do not know of.

        `height` and `round_` are at work.  Raises InvalidSignature if it only pretends to.  It is
        taken as evidence, nothing else.
        """
        for message in messages:
            if isinstance(message, Proposal) and self.examine(
                *message.polc, height=height, round_=round_
            ):
                return True
            if message.sender == self._key and self._is_unexplained(message, height, round_):
                if isinstance(message, Vote):
                    verify_vote(message, self._network)
                else:
                    verify_proposal(message, self._network)
                self._on_misuse(get_place(message), "is signed with")
                return True
        return False

    def examine_proposer(self, block: Block) -> None:
        """More than two thirds saw a proposal signed by the proposer that a final block names."""
        place = Place(block.header.height, block.header.round, PROPOSAL)
        if block.header.proposer == self._key and self._guard.is_foreign(place):
            self._on_misuse(place, "was proposed with")

    def _is_unexplained(self, message: Message, height: int, round_: int) -> bool:
        place, mark = get_place(message), self._guard.mark
        if self._guard.get_signing(height) is Signing.KEY_IN_USE:
            return False
        if self._guard.is_foreign(place):
            return True
        if mark is None or message.height != height or place < self._guard.known_from:
            return False
        first = self._inbox.get_first(message)
        forgotten = message.round < round_ - ROUNDS_BEHIND
        return not forgotten and (first is None or not is_same(first, message))

    def _on_misuse(self, place: Place, doing: str) -> None:
        history = self._guard.history
        if self._guard.on_misuse():
            self._outbox.add(
                KeyInUse(
                    f"A message of {place} {doing} this node's key, and this node did not sign it:"
                    f" {history}. Either another process uses the key, as from a copied home, or"
                    " the chain database is older than the signatures, as from a backup."
                )
            )
