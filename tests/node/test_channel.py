"""The lean connection between nodes, against servers that keep to HTTP and some that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from milepost_node.channel import MAX_BODY_BYTES, Channel
from milepost_node.errors import PeerError
from tests.support.nodes import wait_until

NO_CONTENT = b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n"


class Server:
    """Answers each request with the next of `answers`; None closes the connection instead."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        """Head and body of each."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append((head, await reader.readexactly(length)))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def open_channel(*answers: bytes | None) -> AsyncIterator[tuple[Server, Channel]]:
    server = Server(*answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    server.url = f"http://{host}:{port}"
    channel = Channel(server.url)
    try:
        yield server, channel
    finally:
        await channel.close()
        listening.close()
        await listening.wait_closed()


async def post(channel: Channel, body: bytes = b"body") -> int:
    return await channel.post("/v1/peer/messages", body, {"milepost-network": "ab"})


async def test_one_connection_carries_all_requests() -> None:
    refusal = b"HTTP/1.1 422 Unprocessable\r\nContent-Length: 5\r\n\r\noops!"
    async with open_channel(NO_CONTENT, refusal, NO_CONTENT) as (server, channel):
        assert [await post(channel, b"x" * n) for n in (0, 10, 200_000)] == [204, 422, 204]
        assert server.connections == 1
        assert [len(body) for _, body in server.requests] == [0, 10, 200_000]
        head = server.requests[0][0].decode()
        assert head.startswith("POST /v1/peer/messages HTTP/1.1\r\nhost: 127.0.0.1:")
        assert "\r\nmilepost-network: ab\r\n" in head


async def test_connection_that_the_peer_closed_is_opened_again() -> None:
    async with open_channel(NO_CONTENT, None, NO_CONTENT) as (server, channel):
        assert await post(channel) == 204
        with pytest.raises(PeerError):
            await post(channel)
        assert await post(channel) == 204
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\nok" % (MAX_BODY_BYTES + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
    ],
)
async def test_answer_after_which_the_connection_is_not_used_again(answer: bytes) -> None:
    async with open_channel(answer, NO_CONTENT) as (server, channel):
        assert await post(channel) == 200
        assert await post(channel) == 204
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/2 204\r\n\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_garbled_answer_is_a_failed_peer_and_nothing_worse(answer: bytes | None) -> None:
    async with open_channel(answer, NO_CONTENT) as (_, channel):
        with pytest.raises(PeerError):
            await post(channel)
        assert await post(channel) == 204


async def test_peer_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_node.channel.ANSWER_SECONDS", 0.05)
    async with open_channel(b"HTTP/1.1 2", NO_CONTENT) as (server, channel):
        with pytest.raises(PeerError, match="TimeoutError"):
            await post(channel)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "", "nonsense", "http://[", "ftp://127.0.0.1/", "http://\x00/"]
)
async def test_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(PeerError):
        await post(Channel(url))


async def test_cancelled_request_leaves_no_answer_for_the_next() -> None:
    async with open_channel(b"", NO_CONTENT) as (server, channel):
        first = asyncio.create_task(post(channel, b"first"))
        await wait_until(lambda: server.requests)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await post(channel, b"second") == 204
        assert server.connections == 2
