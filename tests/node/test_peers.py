"""Talking to peers that are slow, gone, foreign or hostile; real HTTP on 127.0.0.1."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import msgspec
import pytest

from milepost_consensus.members import VALIDATOR, Member
from milepost_consensus.votes import PREVOTE, Vote
from milepost_node.channel import Channel
from milepost_node.envelopes import decode_batch, make_envelope, open_envelope
from milepost_node.errors import PeerError
from milepost_node.handshake import Identity
from milepost_node.peers import BACKOFF_LAST_SECONDS, Peer, Peers, make_client
from tests.support.fake_nodes import FakeNode, Reply, Request, always, running
from tests.support.ledger import make_signer
from tests.support.nodes import wait_until

OWN = Identity("test", b"\x07" * 32)


def make_vote(number: int) -> Vote:
    return Vote(number, 0, PREVOTE, b"\x01" * 32, b"\x02" * 32, b"\x03" * 64)


def make_member(url: str, name: str = "peer") -> Member:
    return Member(make_signer(name).public, name, VALIDATOR, name, url)


@asynccontextmanager
async def connected(
    *answers: Callable[[Request], Reply],
) -> AsyncIterator[tuple[list[FakeNode], list[Peer]]]:
    """Fake nodes with these answers, and the peers that talk to them."""
    with running(*answers) as nodes:
        async with make_client() as client:
            yield (
                nodes,
                [
                    Peer(make_member(node.url, f"peer-{i}"), client, OWN, Channel(node.url))
                    for i, node in enumerate(nodes)
                ],
            )


@asynccontextmanager
async def sending(peer: Peer) -> AsyncIterator[None]:
    """The peer's sender runs."""
    task = asyncio.create_task(peer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def get_heights(request: Request) -> list[int]:
    """The heights of the votes in a batch."""
    messages = [open_envelope(envelope) for envelope in decode_batch(request.body)]
    assert all(isinstance(message, Vote) for message in messages)
    return [message.height for message in messages if isinstance(message, Vote)]


async def test_all_that_is_queued_goes_in_one_request() -> None:
    async with connected(always(204)) as ([node], [peer]):
        for number in range(1, 6):
            peer.enqueue(make_envelope(make_vote(number)))
        async with sending(peer):
            await wait_until(lambda: peer.reachable)
        assert [get_heights(request) for request in node.requests] == [[1, 2, 3, 4, 5]]


async def test_what_comes_while_a_request_is_under_way_is_gathered() -> None:
    answering = threading.Event()

    def answer(request: Request) -> Reply:
        answering.wait(30)
        return Reply(204, b"")

    async with connected(answer) as ([node], [peer]):
        async with sending(peer):
            peer.enqueue(make_envelope(make_vote(1)))
            await wait_until(lambda: node.requests)
            for number in (2, 3, 4):
                peer.enqueue(make_envelope(make_vote(number)))
                await asyncio.sleep(0)
            answering.set()
            await wait_until(lambda: len(node.requests) == 2)
        assert [get_heights(request) for request in node.requests] == [[1], [2, 3, 4]]


async def test_full_queue_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_node.peers.QUEUE_MESSAGES", 3)
    async with connected(always(204)) as ([node], [peer]):
        for number in range(1, 6):
            peer.enqueue(make_envelope(make_vote(number)))
        assert peer.dropped == 2
        async with sending(peer):
            await wait_until(lambda: peer.reachable)
        assert get_heights(node.requests[0]) == [3, 4, 5]


async def test_queue_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = make_envelope(make_vote(1))
    monkeypatch.setattr("milepost_node.peers.QUEUE_BYTES", 2 * len(envelope[1]))
    async with connected(always(204)) as (_, [peer]):
        for _ in range(5):
            peer.enqueue(envelope)
        assert peer.dropped == 3


async def test_lost_connection_is_tried_once_more_at_once() -> None:
    replies = [Reply(close=True), Reply(204, b"")]
    async with connected(lambda request: replies.pop(0)) as ([node], [peer]):
        peer.enqueue(make_envelope(make_vote(1)))
        async with sending(peer):
            await wait_until(lambda: not replies)
            await wait_until(lambda: peer.reachable)
        assert [get_heights(request) for request in node.requests] == [[1], [1]]


async def test_peer_that_fails_is_left_alone_and_comes_back_with_its_first_answer() -> None:
    failing = True

    def answer(request: Request) -> Reply:
        return Reply(500, b"") if failing else Reply(204, b"")

    async with connected(answer) as ([node], [peer]), sending(peer):
        peer.enqueue(make_envelope(make_vote(1)))
        await wait_until(lambda: len(node.requests) == 2)
        assert not peer.reachable
        for number in range(2, 5):
            peer.enqueue(make_envelope(make_vote(number)))
        failing = False
        # Any sign of life ends the pause; whatever queued up goes then.
        await peer.get("/v1/peer/blocks", limit_bytes=100)
        await wait_until(lambda: len(node.requests) == 4)
        assert get_heights(node.requests[3]) == [2, 3, 4]
        assert peer.reachable


async def test_pause_grows_up_to_a_limit() -> None:
    async with make_client() as client:
        peer = Peer(make_member("http://127.0.0.1:9"), client, OWN, Channel("http://127.0.0.1:9"))
        pauses = []
        for _ in range(12):
            peer.note_failure(PeerError("no"))
            pauses.append(peer.backoff)
        assert pauses == sorted(pauses)
        assert pauses[0] < pauses[1]
        assert pauses[-1] == BACKOFF_LAST_SECONDS
        peer.note_success()
        assert peer.backoff == 0


async def test_answers_are_bounded_and_checked() -> None:
    async with connected(
        always(200, b"x" * 1_000), always(409), always(404), always(close=True)
    ) as (_, [large, foreign, lacking, silent]):
        with pytest.raises(PeerError, match="more than 999 bytes"):
            await large.get("/x", limit_bytes=999)
        assert (await large.get("/x", limit_bytes=1_000))[0] == b"x" * 1_000
        with pytest.raises(PeerError) as caught:
            await foreign.get("/x", limit_bytes=1_000)
        assert caught.value.slug == "wrong-network"
        with pytest.raises(PeerError, match="HTTP 404"):
            await lacking.get("/x", limit_bytes=1_000)
        with pytest.raises(PeerError, match="failed"):
            await silent.get("/x", limit_bytes=1_000)
        assert large.reachable
        assert not silent.reachable


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "nonsense", "ftp://127.0.0.1"])
async def test_unusable_endpoint_is_a_peer_that_is_not_there(url: str) -> None:
    async with make_client() as client:
        peer = Peer(make_member(url), client, OWN, Channel(url))
        with pytest.raises(PeerError):
            await peer.get("/x", limit_bytes=10)
        async with sending(peer):
            peer.enqueue(make_envelope(make_vote(1)))
            await wait_until(lambda: peer.backoff > 0)
            assert not peer.reachable


async def test_claimed_height_must_look_like_one() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        claim = request.url.path.removeprefix("/")
        return httpx.Response(200, headers={"milepost-height": claim}, stream=httpx.ByteStream(b""))

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        peer = Peer(make_member("http://peer"), client, OWN, Channel("http://127.0.0.1:9"))
        for claim, expected in (("12", 12), ("-1", 0), ("9" * 30, 0), ("x", 0)):
            assert (await peer.get(f"/{claim}", limit_bytes=1))[1] == expected


async def test_peer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_node.peers.ANSWER_SECONDS", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.001)
            yield b"x"

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=trickle())

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        peer = Peer(make_member("http://peer"), client, OWN, Channel("http://peer"))
        # Not after the hours that so many bytes would take at this pace.
        async with asyncio.timeout(30):
            with pytest.raises(PeerError, match="TimeoutError"):
                await peer.get("/x", limit_bytes=10**9)


async def test_network_of_peers() -> None:
    members = [make_member(f"http://n{i}", f"n{i}") for i in range(3)]
    members.append(make_member("", "submitter"))
    async with make_client() as client:
        peers = Peers(members, own_id=members[0].id, own=OWN, client=client)
        assert [peer.name for peer in peers.all] == ["n1", "n2"]
        assert peers.find(members[0].id) is None
        last = peers.find(members[2].id)
        assert last is not None
        assert peers.get_preferred([members[2].id])[0] is last
        peers.all[0].note_success()
        assert peers.get_preferred([members[2].id])[0] is peers.all[0]
        assert peers.reachable_count == 1


async def test_batch_is_what_a_node_decodes() -> None:
    async with connected(always(204)) as ([node], [peer]):
        peer.enqueue(make_envelope(make_vote(1)))
        async with sending(peer):
            await wait_until(lambda: peer.reachable)
        assert node.requests[0].path == "/v1/peer/messages"
        assert msgspec.msgpack.decode(node.requests[0].body)[0][0] == "vote"
