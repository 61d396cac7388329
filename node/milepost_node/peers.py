"""The other nodes: one bounded queue and one sender per peer, all messages one way.

A peer gets one POST at a time with all that is queued for it by then.  A peer that does not take
it is left alone for a growing while; meanwhile its queue drops the oldest messages.  Nothing waits
for a peer: the ledger repeats what matters, and whole blocks are fetched by `sync`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Final

import httpx

from milepost_consensus.members import Member
from milepost_node.channel import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    SLOWEST_BYTES,
    Channel,
    Poster,
)
from milepost_node.clock import read_monotonic, wait_for_event
from milepost_node.envelopes import Envelope, Message, encode_batch, is_full, make_envelope
from milepost_node.errors import PeerError
from milepost_node.handshake import MAX_REFUSAL_BYTES, Identity

logger = logging.getLogger(__name__)

QUEUE_MESSAGES: Final = 4_096
QUEUE_BYTES: Final = 64 * 1024 * 1024
"""What is kept for a peer that is slow or gone."""
BACKOFF_FIRST_SECONDS: Final = 0.25
BACKOFF_LAST_SECONDS: Final = 2.0
"""A try costs next to nothing, and the ledger stands still until enough of them succeed."""
MESSAGES: Final = "/v1/peer/messages"
HEIGHT_HEADER: Final = "milepost-height"
"""The height a node says it is at; good for a progress display and nothing else."""


def make_client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """The HTTP client for what nodes ask each other; messages go through channels."""
    return httpx.AsyncClient(
        transport=transport,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
        trust_env=False,
        follow_redirects=False,
    )


class Peer:
    """One other node: its queue, and whether it was there when last tried."""

    def __init__(
        self, member: Member, client: httpx.AsyncClient, own: Identity, poster: Poster
    ) -> None:
        self.id = member.id
        self.name = member.name
        self.reachable = False
        self.dropped = 0
        """Messages that were never sent because the queue was full."""
        self.endpoint = member.endpoint
        self._url = member.endpoint.rstrip("/")
        self._client = client
        self._poster = poster
        self._own = own
        self._headers = own.make_headers()
        self._queue: deque[Envelope] = deque()
        self._queued_bytes = 0
        self._work = asyncio.Event()
        self._back = asyncio.Event()
        self.backoff = 0.0
        """Seconds for which it is left alone after the next failure to send."""
        self.trouble = ""
        """Why it could not be reached when last tried."""
        self.stranger = ""
        """How it differs from a peer of this network; empty for one that does not."""
        self.answered_at: float | None = None
        """When it answered last, by the monotonic clock."""

    def enqueue(self, envelope: Envelope) -> None:
        """Queue a message; the oldest ones go where there is no room."""
        self._queue.append(envelope)
        self._queued_bytes += len(envelope[1])
        while len(self._queue) > QUEUE_MESSAGES or (
            self._queued_bytes > QUEUE_BYTES and len(self._queue) > 1
        ):
            self._queued_bytes -= len(self._queue.popleft()[1])
            self.dropped += 1
        self._work.set()

    async def run(self) -> None:
        """Send what is queued, for ever."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while batch := self._take():
                    if not await self._send(batch):
                        break
                    # Whatever the current step of the runtime queues goes into one batch.
                    await asyncio.sleep(0)
        finally:
            await self._poster.close()

    def _take(self) -> list[Envelope]:
        batch: list[Envelope] = []
        size = 0
        while self._queue and not is_full(len(batch), size):
            envelope = self._queue.popleft()
            size += len(envelope[1])
            batch.append(envelope)
        self._queued_bytes -= size
        return batch

    async def _send(self, batch: Sequence[Envelope]) -> bool:
        """Post one batch.  A failed one is tried once more: a kept connection may be stale."""
        body = encode_batch(batch)
        for _ in range(2):
            try:
                self._check(await self._poster.post(MESSAGES, body, self._headers))
            except PeerError as error:
                self.note_failure(error)
                continue
            self.note_success()
            return True
        self._back.clear()
        await wait_for_event(self._back, self.backoff)
        # What queued up meanwhile is the first to be sent.
        self._work.set()
        return False

    async def get(self, path: str, *, limit_bytes: int) -> tuple[bytes, int]:
        """The body at a path and the height the peer says it is at; raises PeerError.

        The peer must begin at once and keep up the pace: one that trickles would hold up whoever
        waits for it.
        """
        body = bytearray()
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS) as pace,
                self.stream(path, limit_bytes=limit_bytes) as response,
            ):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > limit_bytes:
                        raise PeerError(f"{self.name} answered with more than {limit_bytes} bytes")
                    due = pace.when()
                    assert due is not None
                    pace.reschedule(due + len(chunk) / SLOWEST_BYTES)
        except TimeoutError as error:
            self.note_failure(error)
            raise PeerError(f"{self.name} failed: {type(error).__name__}") from error
        claimed = response.headers.get(HEIGHT_HEADER, "")
        return bytes(body), int(claimed) if claimed.isdecimal() and len(claimed) < 19 else 0

    @asynccontextmanager
    async def stream(self, path: str, *, limit_bytes: int) -> AsyncIterator[httpx.Response]:
        """The answer at a path, its body still to come; raises PeerError.

        The whole has as long as a slow line needs for `limit_bytes`, however it trickles.
        """
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS + limit_bytes / SLOWEST_BYTES),
                self._client.stream("GET", self._url + path, headers=self._headers) as response,
            ):
                if response.status_code == httpx.codes.CONFLICT:
                    self.stranger = self._own.describe_refusal(await _read_refusal(response))
                self._check(response.status_code)
                yield response
        except PeerError as error:
            if error.slug == "wrong-network":
                self.note_failure(error)
            raise
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            self.note_failure(error)
            raise PeerError(f"{self.name} failed: {type(error).__name__}") from error
        self.note_success()

    def _check(self, status: int) -> None:
        if status == httpx.codes.CONFLICT:
            differs = self.stranger or "it is of another network"
            raise PeerError(f"{self.name} refuses this node: {differs}", slug="wrong-network")
        if status >= 300:
            raise PeerError(f"{self.name} answered HTTP {status}")

    def note_success(self) -> None:
        """The peer answered; what waits for it may go."""
        if not self.reachable:
            logger.info("peer reachable", extra={"peer": self.name})
        self.reachable = True
        self.answered_at = read_monotonic()
        self.trouble = self.stranger = ""
        self.backoff = 0.0
        self._back.set()

    def note_failure(self, error: Exception) -> None:
        """The peer did not answer, or not as a peer does.  Each new reason is logged once."""
        trouble = str(error) if isinstance(error, PeerError) else type(error).__name__
        if self.reachable or trouble != self.trouble:
            logger.warning("peer not reachable", extra={"peer": self.name, "reason": trouble})
        self.trouble = trouble
        self.reachable = False
        self.backoff = min(BACKOFF_LAST_SECONDS, max(BACKOFF_FIRST_SECONDS, 2 * self.backoff))


async def _read_refusal(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_REFUSAL_BYTES:
            break
    return bytes(body)


class Peers:
    """All other members that have an endpoint."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        own_id: bytes,
        own: Identity,
        client: httpx.AsyncClient,
        open_poster: Callable[[str], Poster] = Channel,
    ) -> None:
        self._own_id = own_id
        self._own = own
        self._client = client
        self._open_poster = open_poster
        self._by_id: dict[bytes, Peer] = {}
        self.all: tuple[Peer, ...] = ()
        self.update(members)

    def update(self, members: Iterable[Member]) -> tuple[list[Peer], list[Peer]]:
        """Follow a change of the membership; returns the peers that came and those that went.

        A member that moved to another endpoint is a peer that went and one that came.
        """
        wanted = {
            member.id: member
            for member in members
            if member.endpoint and member.roles and member.id != self._own_id
        }
        gone = [
            peer
            for peer in self.all
            if peer.id not in wanted or peer.endpoint != wanted[peer.id].endpoint
        ]
        for peer in gone:
            del self._by_id[peer.id]
        came = [
            Peer(member, self._client, self._own, self._open_poster(member.endpoint))
            for member in wanted.values()
            if member.id not in self._by_id
        ]
        self._by_id.update((peer.id, peer) for peer in came)
        self.all = tuple(self._by_id.values())
        return came, gone

    def broadcast(self, message: Message) -> None:
        """Queue a message for everybody."""
        envelope = make_envelope(message)
        for peer in self.all:
            peer.enqueue(envelope)

    def find(self, member_id: bytes) -> Peer | None:
        """The peer with this key, if it has an endpoint."""
        return self._by_id.get(member_id)

    def get_preferred(self, first: Sequence[bytes]) -> list[Peer]:
        """All peers in the order in which to ask for something: reachable ones before the others,
        among equals those in `first`, else by chance, so that not everybody asks the same one."""
        shuffled = SystemRandom().sample(self.all, len(self.all))
        return sorted(shuffled, key=lambda peer: (not peer.reachable, peer.id not in first))

    @property
    def reachable_count(self) -> int:
        """How many peers answered when last tried."""
        return sum(peer.reachable for peer in self.all)
