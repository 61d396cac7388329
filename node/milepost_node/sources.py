"""Whom to ask for blocks: what each peer says about its height, and who is left alone for a while.

A claim is good for choosing whom to ask, and for nothing else.  Who claims blocks and does not
serve them, takes back what it claimed, or serves what is invalid is not asked for a while, and its
claim counts for nothing; who is slow is asked after the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from milepost_node.clock import read_monotonic
from milepost_node.peers import Peer, Peers

logger = logging.getLogger(__name__)

SHUN_SECONDS: Final = 60.0
"""How long a peer that did not tell the truth is not asked again."""
SLOW_SECONDS: Final = 60.0
"""How long a peer that let us wait, or gave less than it has, is asked after the others."""


class Sources:
    """The peers of one node as sources of blocks."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._claimed: dict[bytes, int] = {}
        self._shunned: dict[bytes, float] = {}
        self._slow: dict[bytes, float] = {}
        self._turn = 0

    def note_claim(self, peer: Peer, height: int) -> None:
        """A peer says at which height it is.  Chains do not shrink, so a smaller one is a lie."""
        if height < self._claimed.get(peer.id, 0):
            self.shun(peer, f"it claimed height {self._claimed[peer.id]}, and now {height}")
        else:
            self._claimed[peer.id] = height

    def get_claim(self, peer: Peer) -> int:
        """The height that a peer said it is at; 0 where it said nothing that is believed."""
        return self._claimed.get(peer.id, 0)

    def shun(self, peer: Peer, reason: str) -> None:
        """Leave a peer alone for a while, and forget what it claimed."""
        self._claimed.pop(peer.id, None)
        self._shunned[peer.id] = read_monotonic() + SHUN_SECONDS
        logger.warning("not asked for blocks", extra={"peer": peer.name, "reason": reason})

    def note_slow(self, peers: Iterable[Peer]) -> None:
        """Ask these after the others for a while."""
        until = read_monotonic() + SLOW_SECONDS
        self._slow.update((peer.id, until) for peer in peers)

    def pass_turn(self) -> None:
        """Let another peer be the first to be asked, whatever the others claim."""
        self._turn = (self._turn + 1) % max(1, len(self._peers.all))

    def get_usable(self, first: Sequence[Peer] = ()) -> list[Peer]:
        """Whom to ask, in this order: those in `first`, then whose turn it is; slow ones last."""
        now, everybody = read_monotonic(), self._peers.all
        turns = everybody[self._turn :] + everybody[: self._turn]
        return sorted(
            (peer for peer in turns if self._shunned.get(peer.id, now) <= now),
            key=lambda peer: (self._slow.get(peer.id, now) > now, peer not in first),
        )

    def get_ahead(self, height: int) -> list[Peer]:
        """Usable peers that claim more than a height."""
        return [peer for peer in self.get_usable() if self._claimed.get(peer.id, 0) > height]

    def get_credible_height(self) -> int:
        """The height that at least one honest peer claims, if no more than a third of all lie."""
        claims = sorted(self._claimed.values(), reverse=True)
        liars = len(self._peers.all) // 3
        return claims[liars] if len(claims) > liars else 0
