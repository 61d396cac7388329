"""Catching up: fetch final blocks from peers, one range after the other.

What a peer says about its height counts for nothing: only blocks whose certificate verifies move
this node, and each block goes through the machine like any other event.  No peer can hold it up:
a peer that is silent, slow or empty-handed is overtaken by the next after a short while, and one
that lied is left alone (`sources`).  While a page is applied the next one is on its way.  In quiet
times one peer is asked now and then, which also tells who is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Final, NamedTuple

import msgspec

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidEncoding, InvalidInput
from milepost_consensus.events import BlockFetched
from milepost_consensus.params import MAX_BLOCK_BYTES
from milepost_node.clock import wait_for_event
from milepost_node.errors import PeerError
from milepost_node.peers import Peer, Peers
from milepost_node.sources import Sources

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.5
"""Between two questions to peers, one peer at a time."""
SEARCH_SECONDS: Final = 0.5
"""The same while a peer is not there, as at the start of a network."""
ASK_SECONDS: Final = 5.0
"""A node that starts waits this long for peers to say where they are."""
PATIENCE_SECONDS: Final = 3.0
"""A page that takes longer is asked of the next peer as well."""
PAGE_BLOCKS: Final = 100
BATCH_BLOCKS: Final = 25
"""Blocks that go to the disk in one commit: waiting for the disk would be most of the work."""
BATCH_TRANSACTIONS: Final = 500
"""The same for full blocks, which take long enough to apply."""
PAGE_BYTES: Final = MAX_BLOCK_BYTES
"""A serving node stops a page here, though it always sends one block."""
MAX_PAGE_BYTES: Final = PAGE_BYTES + 1024 * 1024
"""The largest block with the certificate of a thousand validators has room."""

_Pairs = Annotated[list[tuple[bytes, bytes]], msgspec.Meta(max_length=PAGE_BLOCKS)]
_pages = msgspec.msgpack.Decoder(_Pairs)


class Page(NamedTuple):
    """Blocks of consecutive heights that a peer served; nothing in them is verified yet."""

    source: Peer
    blocks: Sequence[BlockFetched]

    @property
    def last(self) -> int:
        return self.blocks[-1].block.header.height


class Sync:
    """Keeps this node at the height of its peers."""

    def __init__(
        self,
        peers: Peers,
        *,
        get_height: Callable[[], int],
        deliver: Callable[..., Awaitable[None]],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`deliver` gets one or more BlockFetched; it returns once the machine took them and they
        are on disk, or raises InvalidInput."""
        self._peers = peers
        self._get_height = get_height
        self._deliver = deliver
        self._patience_seconds = patience_seconds
        self._sources = Sources(peers)
        self._wanted: list[Peer] = []
        self._wake = asyncio.Event()
        self.syncing = True
        """Whether the node is known to miss many blocks, or has not asked yet."""

    @property
    def behind(self) -> int:
        """Blocks still to come, as far as peers can be believed without seeing the blocks."""
        return max(0, self._sources.get_credible_height() - self._get_height())

    def get_claim(self, peer: Peer) -> int:
        """The height that a peer says it is at, 0 where it said none."""
        return self._sources.get_claim(peer)

    def request(self, sender: bytes) -> None:
        """Catch up now, first from the peer that was seen to be ahead."""
        peer = self._peers.find(sender)
        if peer is not None and peer not in self._wanted:
            self._wanted.append(peer)
            self._wake.set()

    async def run(self) -> None:
        """Ask everybody once, then one peer at a time, for ever."""
        await self.catch_up()
        while self._peers.all:
            complete = self._peers.reachable_count == len(self._peers.all)
            pause = POLL_SECONDS if complete else SEARCH_SECONDS
            await wait_for_event(self._wake, pause)
            self._wake.clear()
            await self.look()

    async def catch_up(self) -> None:
        """Ask all peers where they are and fetch what this node lacks."""
        if self._peers.all:
            asked = {asyncio.create_task(self._fetch(p, limit=1)): p for p in self._peers.all}
            _, late = await asyncio.wait(asked, timeout=ASK_SECONDS)
            self._sources.note_slow(asked[task] for task in late)
            await _cancel(asked)
        await self._pull(None)

    async def look(self) -> None:
        """Ask those that were seen to be ahead and one more, by turns, and fetch what is new."""
        wanted, self._wanted = self._wanted, []
        self._sources.pass_turn()
        # Who is seen ahead and has nothing must not be all that this node ever hears.
        candidates = self._sources.get_usable(wanted)
        await self._pull(await self._race(candidates, answers=len(wanted) + 1))

    async def _pull(self, page: Page | None) -> None:
        """Take blocks, beginning with a page, until nobody has more.

        It ends: every turn moves this node, or makes one more peer known to have nothing for it.
        """
        while True:
            if page is None:
                ahead = self._sources.get_ahead(self._get_height())
                page = await self._race(ahead, answers=len(ahead))
            if page is None:
                break
            self.syncing = self.syncing or self.behind > PAGE_BLOCKS
            page = await self._take(page)
            logger.info("caught up", extra={"height": self._get_height()})
        self.syncing = self.behind > PAGE_BLOCKS

    async def _take(self, page: Page) -> Page | None:
        """Apply a page while the next one is fetched; returns that, or None if there is none."""
        # Another peer's turn: nobody gets to set the pace alone.
        self._sources.pass_turn()
        candidates = self._sources.get_usable(self._sources.get_ahead(page.last))
        coming = asyncio.create_task(self._race(candidates, answers=1, first=page.last + 1))
        try:
            for batch in _split(page.blocks):
                # Consensus may have decided the same heights in the meantime.
                height = self._get_height()
                news = [event for event in batch if event.block.header.height > height]
                if news:
                    await self._deliver(*news)
            return await coming
        except InvalidInput as error:
            self._sources.shun(page.source, f"it served an invalid block: {error}")
            return None
        finally:
            await _cancel([coming])

    async def _race(
        self, candidates: Sequence[Peer], *, answers: int, first: int | None = None
    ) -> Page | None:
        """The first page that comes, of the blocks from `first` on, by default those that we lack.

        The candidates are asked in turn, the next one as soon as another failed, had nothing or
        took long.  None once so many answers said that there is nothing.
        """
        waiting, empty = deque(candidates), 0
        running: dict[asyncio.Task[Page | None], Peer] = {}
        try:
            while empty < answers and (waiting or running):
                if waiting:
                    peer = waiting.popleft()
                    running[asyncio.create_task(self._fetch(peer, first=first))] = peer
                patience = self._patience_seconds if waiting else None
                done, late = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    self._sources.note_slow(running[task] for task in late)
                for task in done:
                    del running[task]
                    with suppress(PeerError):
                        if (page := task.result()) is not None:
                            return page
                        empty += 1
            return None
        finally:
            await _cancel(running)

    async def _fetch(
        self, peer: Peer, *, first: int | None = None, limit: int = PAGE_BLOCKS
    ) -> Page | None:
        """The blocks from a height on as a peer has them, or None; raises PeerError."""
        first = self._get_height() + 1 if first is None else first
        try:
            body, claimed = await peer.get(
                f"/v1/peer/blocks?from={first}&limit={limit}", limit_bytes=MAX_PAGE_BYTES
            )
            blocks = _read_page(body, first, limit)
        except PeerError as error:
            logger.debug("peer gave no blocks", extra={"peer": peer.name, "reason": str(error)})
            raise
        except InvalidInput as error:
            self._sources.shun(peer, f"it served no page of blocks: {error}")
            raise PeerError(f"{peer.name} served no page of blocks") from error
        if claimed >= first and not blocks:
            self._sources.shun(peer, f"it claims height {claimed} and serves no block {first}")
            raise PeerError(f"{peer.name} does not serve what it claims")
        self._sources.note_claim(peer, claimed)
        if len(blocks) < min(limit, claimed - first + 1) and len(body) < PAGE_BYTES // 2:
            # Page by page of one block each, a peer could take days over a chain.
            self._sources.note_slow([peer])
        return Page(peer, blocks) if blocks else None


def _split(blocks: Sequence[BlockFetched]) -> Iterator[list[BlockFetched]]:
    """The blocks in batches for one commit each."""
    batch, count = list[BlockFetched](), 0
    for event in blocks:
        batch.append(event)
        count += len(event.block.txs)
        if len(batch) == BATCH_BLOCKS or count >= BATCH_TRANSACTIONS:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _read_page(body: bytes, first: int, limit: int) -> list[BlockFetched]:
    """At most `limit` blocks of the heights from `first` on; raises InvalidEncoding."""
    try:
        pairs = _pages.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEncoding(f"not a page of blocks: {error}") from error
    if len(pairs) > limit:
        raise InvalidEncoding(f"{len(pairs)} blocks, asked for were {limit}")
    blocks = [BlockFetched(decode(Block, b), decode(Certificate, c)) for b, c in pairs]
    for height, fetched in enumerate(blocks, first):
        if fetched.block.header.height != height:
            raise InvalidEncoding(f"block {fetched.block.header.height} in the place of {height}")
    return blocks


async def _cancel(tasks: Iterable[asyncio.Task[Page | None]]) -> None:
    """End tasks that nobody waits for any more."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
