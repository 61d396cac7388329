"""Catching up: fetch final blocks from peers, one range after the other.

What a peer says about its height counts for nothing: only blocks whose certificate verifies move
this node, and each block goes through the machine like any other event.  A peer that serves
something else is passed over for a while.  In quiet times one peer is asked now and then, which
also tells who is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import MAX_OBJECT_BYTES, decode
from milepost_consensus.errors import InvalidEncoding, InvalidInput
from milepost_consensus.events import BlockFetched
from milepost_node.clock import read_monotonic, wait_for_event
from milepost_node.errors import PeerError
from milepost_node.peers import Peer, Peers

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.5
"""Between two questions to peers, one peer at a time."""
SEARCH_SECONDS: Final = 0.5
"""The same while a peer is not there, as at the start of a network."""
PAGE_BLOCKS: Final = 100
PAGE_BYTES: Final = 8 * 1024 * 1024
"""A serving node stops a page here, though it always sends one block."""
MAX_PAGE_BYTES: Final = PAGE_BYTES + 2 * MAX_OBJECT_BYTES
SHUN_SECONDS: Final = 60.0
"""How long a peer that served an invalid block is not asked again."""

_pages = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


class Sync:
    """Keeps this node at the height of its peers."""

    def __init__(
        self,
        peers: Peers,
        *,
        get_height: Callable[[], int],
        deliver: Callable[[BlockFetched], Awaitable[None]],
    ) -> None:
        """`deliver` returns once the machine took the block and it is on disk, or raises
        InvalidInput."""
        self._peers = peers
        self._get_height = get_height
        self._deliver = deliver
        self._wanted: Peer | None = None
        self._wake = asyncio.Event()
        self._shunned: dict[bytes, float] = {}
        self._turn = 0
        self._claimed: dict[bytes, int] = {}
        self.syncing = True
        """Whether the node is known to miss blocks, or has not asked yet."""

    @property
    def behind(self) -> int:
        """Blocks still to come if the peers speak the truth about their heights."""
        return max(0, max(self._claimed.values(), default=0) - self._get_height())

    def request(self, sender: bytes) -> None:
        """Catch up now, first from the peer that was seen to be ahead."""
        peer = self._peers.find(sender)
        if peer is not None and self._wanted is None:
            self._wanted = peer
            self._wake.set()

    async def run(self) -> None:
        """Ask everybody once, then one peer at a time, for ever."""
        await self.catch_up()
        while self._peers.all:
            complete = self._peers.reachable_count == len(self._peers.all)
            pause = POLL_SECONDS if complete else SEARCH_SECONDS
            await wait_for_event(self._wake, pause)
            self._wake.clear()
            wanted, self._wanted = self._wanted, None
            await self.pull(wanted or self._get_next())

    async def catch_up(self) -> None:
        """Ask all peers where they are and fetch what this node lacks."""
        await asyncio.gather(*(self._ask(peer) for peer in self._peers.all))
        for peer in sorted(self._peers.all, key=lambda peer: -self._claimed.get(peer.id, 0)):
            if self._claimed.get(peer.id, 0) > self._get_height():
                await self.pull(peer)
        self.syncing = False

    def _get_next(self) -> Peer:
        self._turn = (self._turn + 1) % len(self._peers.all)
        return self._peers.all[self._turn]

    async def _ask(self, peer: Peer) -> None:
        """Learn whether a peer is there and what height it claims."""
        try:
            await self._fetch(peer, limit=1)
        except (PeerError, InvalidInput) as error:
            logger.debug("peer not asked", extra={"peer": peer.name, "reason": str(error)})

    async def pull(self, peer: Peer) -> None:
        """Take blocks from a peer until it has no more for us."""
        if self._shunned.get(peer.id, 0.0) > read_monotonic():
            return
        try:
            while page := await self._fetch(peer, limit=PAGE_BLOCKS):
                before = self._get_height()
                for event in page:
                    # Consensus may have decided the same height in the meantime.
                    if event.block.header.height == self._get_height() + 1:
                        await self._deliver(event)
                if self._get_height() == before:
                    break
                self.syncing = len(page) == PAGE_BLOCKS
                logger.info("caught up", extra={"height": self._get_height(), "peer": peer.name})
        except PeerError as error:
            logger.debug("peer gave no blocks", extra={"peer": peer.name, "reason": str(error)})
        except InvalidInput as error:
            self._shunned[peer.id] = read_monotonic() + SHUN_SECONDS
            logger.warning(
                "peer served an invalid block", extra={"peer": peer.name, "reason": str(error)}
            )
        self.syncing = False

    async def _fetch(self, peer: Peer, *, limit: int) -> list[BlockFetched]:
        """The blocks that follow ours, as the peer has them; raises PeerError, InvalidEncoding."""
        first = self._get_height() + 1
        body, claimed = await peer.get(
            f"/v1/peer/blocks?from={first}&limit={limit}", limit_bytes=MAX_PAGE_BYTES
        )
        self._claimed[peer.id] = claimed
        try:
            page = _pages.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidEncoding(f"not a page of blocks: {error}") from error
        return [
            BlockFetched(decode(Block, block), decode(Certificate, certificate))
            for block, certificate in page[:limit]
        ]
