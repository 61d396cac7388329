"""A kept connection to one peer for POSTs that expect no answer but a status.

Votes and proposals are most of a node's traffic, thirteen requests per height and node among
seven.  The general HTTP client spends a millisecond of processor time on each, ten times what the
few lines of HTTP/1.1 that are needed here cost.  Everything else between nodes uses that client.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import httpx

from milepost_node.errors import PeerError

CONNECT_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 3.0
"""Silence after which a peer is given up.  A connection that was cut repeats what it sent at ever
longer intervals: a new one is through sooner once the line is whole again."""
SLOWEST_BYTES: Final = 100_000
"""Per second; a peer that takes or gives less is given up."""
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 64 * 1024
"""Of an answer; a refusal explains itself in less."""


class Poster(Protocol):
    """Sends bodies to one peer, one at a time."""

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer; raises PeerError if there is none."""

    async def close(self) -> None: ...


class Channel:
    """A Poster over one kept TCP connection, opened again whenever it broke."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._path = self._host = ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        keep = False
        try:
            reader, writer = self._streams or await self._connect()
            async with asyncio.timeout(ANSWER_SECONDS + len(body) / SLOWEST_BYTES):
                writer.write(self._make_head(path, len(body), headers))
                writer.write(body)
                await writer.drain()
                status, keep = await _read_answer(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            # TimeoutError is an OSError; readers raise the other kinds for a garbled answer.
            raise PeerError(f"{type(error).__name__} while posting") from error
        finally:
            if not keep:
                await self.close()
        return status

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            url = httpx.URL(self._url)
        except httpx.InvalidURL as error:
            raise ValueError("the endpoint is not a URL") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the endpoint is not an HTTP URL")
        secure = url.scheme == "https"
        self._path, self._host = url.path.rstrip("/"), url.netloc.decode("ascii")
        async with asyncio.timeout(CONNECT_SECONDS):
            self._streams = await asyncio.open_connection(
                url.host,
                url.port or (443 if secure else 80),
                ssl=True if secure else None,
                limit=MAX_HEAD_BYTES,
            )
        return self._streams

    def _make_head(self, path: str, length: int, headers: dict[str, str]) -> bytes:
        lines = [
            f"POST {self._path}{path} HTTP/1.1",
            f"host: {self._host}",
            "content-type: application/msgpack",
            f"content-length: {length}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            # Not waited for: a peer that does not acknowledge must not hold up anybody.
            streams[1].transport.abort()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of an answer, and whether the connection can be used again."""
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal():
        raise ValueError("not an HTTP answer")
    status = int(rest[:3])
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    keep = version == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
    if status in (204, 304):
        return status, keep
    length = fields.get("content-length", "")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY_BYTES:
        # Of unknown or great length: the status is all we want, so leave the rest unread.
        return status, False
    await reader.readexactly(int(length))
    return status, keep
