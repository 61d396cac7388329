"""What a key may still sign, and how somebody else who signs with it is noticed.

Two processes with one key, or one whose memory is older than its signatures, sign contradictions
without meaning to.  Everything that a key signs has a place, and places only grow; the highest one
signed for is the mark, kept in the journal.  Nothing is signed at or below the mark, and a message
of the own key above it, or another one than the remembered at its place, was signed by somebody
else or by a past of ours that the disk has forgotten: then this machine signs nothing any more.

Without a journal the mark is unknown, and the machine follows in quarantine until two heights in
a row were decided by votes that it heard itself.  docs/decisions/0005-key-in-use.md says why two
are enough, and what cannot be noticed.  At genesis nobody can have signed much: a machine that is
started there signs at once, unless it meets a signature of its own; then it signs above height 2.

A home that was restored from a backup may have been copied while its original went on.  It follows
through two turns of its key as proposer besides, and what the key signs meanwhile is somebody's
who uses it: the past of the key ends with the two heights.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from milepost_consensus.admission import MAX_ROUND
from milepost_consensus.tally import PROPOSAL
from milepost_consensus.votes import PRECOMMIT, PREVOTE, Proposal, Vote

LIVE_HEIGHTS: Final = 2
"""Heights in a row that end a quarantine: one to be level with the others, and a whole one."""


class Place(NamedTuple):
    """Where a message belongs.  An honest key signs at most one per place, in this order."""

    height: int
    round: int
    type: int

    def __str__(self) -> str:
        return f"height {self.height}, round {self.round} ({_NAMES[self.type]})"


ORIGIN: Final = Place(0, 0, PROPOSAL)
"""The mark of a key that is believed never to have signed."""
GENESIS_HEIGHTS: Final = 2
"""Where a key can have signed if, after that, the others were seen at genesis."""
_NAMES: Final = {PROPOSAL: "proposal", PREVOTE: "prevote", PRECOMMIT: "precommit"}


class Signing(StrEnum):
    """Whether the machine signs, and if not, why."""

    LISTENING = "listening"
    """It was not told to start yet."""
    ACTIVE = "active"
    QUARANTINE = "quarantine"
    """It does not know what its key signed, and follows until that no longer matters."""
    KEY_IN_USE = "key-in-use"
    """Somebody else signed with its key; for good."""


class KeyGuard:
    """The mark of one key.

    `mark` is None while it is unknown; `settled` tells that nothing fetched puts it in doubt.  What
    the key signed from `known_from` on is remembered by the machine, as long as it remembers
    anything of that height and round.
    """

    def __init__(
        self,
        mark: Place | None,
        *,
        known_from: Place,
        key_in_use: bool,
        restored_among: int = 0,
    ) -> None:
        """`restored_among` is the number of validators where the home comes from a backup."""
        self.mark = mark
        self.known_from = known_from
        self.settled = mark is not None and mark > ORIGIN
        self._started = False
        self._key_in_use = key_in_use
        self._restored_among = restored_among
        self._live_heights = 0
        self._past_height: int | None = None
        """Of a restored home: the last height at which the lost disk can have signed."""

    @property
    def history(self) -> str:
        """What an operator is told about the mark."""
        if self.mark is None or self.mark.round == MAX_ROUND:
            return "it signed nothing since it came without a journal"
        return f"the last that it knows to have signed is of {self.mark}"

    def get_signing(self, height: int) -> Signing:
        """Whether the machine signs at the height at work."""
        if self._key_in_use:
            return Signing.KEY_IN_USE
        if self.mark is None or self.mark >= Place(height, MAX_ROUND, PRECOMMIT):
            return Signing.QUARANTINE
        return Signing.ACTIVE if self._started else Signing.LISTENING

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._started

    @property
    def examines_fetched(self) -> bool:
        """Whether a signature of this key on a fetched block would be news."""
        is_new = self.mark == ORIGIN and self._started
        return self.settled or is_new or self._past_height is not None

    def is_foreign(self, place: Place) -> bool:
        """Whether what the key signed there was signed neither here nor by the lost disk."""
        if self.mark is not None:
            return place > self.mark
        return self._past_height is not None and place.height > self._past_height

    def start(self) -> bool:
        """The adapter has listened long enough for what others have of this key.

        Returns whether the key is new, which is to be remembered.
        """
        self._started = True
        return self.mark == ORIGIN and not self._key_in_use

    def may_sign(self, place: Place) -> bool:
        """Whether nothing at this place or after it can have been signed before."""
        active = self.get_signing(place.height) is Signing.ACTIVE
        return active and self.mark is not None and place > self.mark

    def on_signed(self, place: Place) -> None:
        """The machine signs for a place."""
        assert self.may_sign(place)
        self.mark = place
        self.settled = True

    def on_decided(self, height: int, *, live: bool) -> None:
        """A height is final; `live` if 2f + 1 others were heard at it and their votes decided it.

        As long as nothing was signed, a height that had to be fetched tells that the machine was
        not level with the others, so that counting begins again.
        """
        if self.settled:
            return
        self._live_heights = self._live_heights + 1 if live else 0
        restored = self._restored_among > 0
        if restored and self._live_heights == LIVE_HEIGHTS and self._past_height is None:
            self._past_height = height
        if self.mark == ORIGIN and self._started:
            self.settled = True  # it was there from the first height on
        elif self._live_heights < self._wanted_heights:
            self.mark = None
        elif self.mark is None:
            self._sign_above(height)

    @property
    def _wanted_heights(self) -> int:
        """Orders of turns change between epochs: in two for each, every key has had a turn."""
        return LIVE_HEIGHTS + 2 * self._restored_among

    def _pass_genesis(self) -> None:
        """The machine was at genesis when the others were, but its key was not new."""
        self._sign_above(GENESIS_HEIGHTS)
        self.settled = True

    def _sign_above(self, height: int) -> None:
        self.mark = Place(height, MAX_ROUND, PRECOMMIT)
        self.known_from = Place(height + 1, 0, PROPOSAL)

    def on_misuse(self) -> bool:
        """The key signed what this machine does not know; returns whether it is in use elsewhere.

        A machine that took itself for new learns from it that it is not.
        """
        if self.mark == ORIGIN:
            if self._started:
                self._pass_genesis()
            else:
                self.mark = None
            return False
        self._key_in_use = True
        return True


def get_place(message: Proposal | Vote) -> Place:
    """Where a message belongs."""
    type_ = message.type if isinstance(message, Vote) else PROPOSAL
    return Place(message.height, message.round, type_)
