"""HTTP connections that cannot be kept or filled for nothing.

The server bounds how many connections there are, not how long one may take to say what it wants or
how much it may say before that.  A request here has its head complete within HEAD_SECONDS, of at
most MAX_HEAD_BYTES and MAX_HEADERS lines; bodies are bounded where they are read (bodies.py).
An answer is taken at SLOWEST_BYTES per second, or the rest of it is thrown away.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from milepost_node.bodies import PATIENCE_SECONDS, SLOWEST_BYTES

HEAD_SECONDS: Final = 10.0
"""From the first byte of a request, or from the connection, to the end of its headers."""
MAX_HEAD_BYTES: Final = 32 * 1024
"""Counted by whole reads of the socket, without the one in which a head begins."""
MAX_HEADERS: Final = 64


class BoundedProtocol(HttpToolsProtocol):
    """One connection of the server."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = True
        """Whether no body is being read, so that what comes is a head or the beginning of one."""
        self._turns = 0
        """Messages that began and that ended."""
        self._head_timer: asyncio.TimerHandle | None = None
        """Runs while a head is due, or the rest of a body that was answered already."""
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head and self._head_timer is None:
            self._start_head()
        turns = self._turns
        super().data_received(data)
        if self._in_head and turns == self._turns and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._turns += 1
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            # The parser stops here, and the connection is closed like after any broken request.
            raise httptools.HttpParserError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # The time for the next head starts with its first byte: idle connections may be kept.
        self._in_head = True
        self._turns += 1
        self._stop_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        unfinished = not self._in_head and self.cycle.response_complete
        if unfinished and not self.transport.is_closing():
            self._start_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        waiting_bytes = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(
            PATIENCE_SECONDS + waiting_bytes / SLOWEST_BYTES, self.transport.abort
        )

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _start_head(self) -> None:
        self._stop_head()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_late)

    def _stop_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._in_head:
            self.send_400_response("The head of the request took too long.")
        else:
            self.transport.close()
