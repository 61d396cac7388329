"""Reading request bodies: bounded in bytes, in time and in what all of them hold together.

A body is counted while it arrives, whatever it declared.  It is never decompressed: nothing here
looks at a content encoding, so a body is what its bytes are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import ClientDisconnect, Request

from milepost_node.clock import read_monotonic
from milepost_node.errors import BrokenOff, InvalidRequest

FREE_BYTES: Final = 64 * 1024
"""The beginning of every body is not counted: votes come through however many large ones wait."""
HELD_BYTES: Final = 256 * 1024 * 1024
"""All unfinished bodies together, beyond their beginnings: ten batches of the largest kind."""
PATIENCE_SECONDS: Final = 10.0
SLOWEST_BYTES: Final = 100_000
"""Per second.  A body may keep us waiting for this rate and PATIENCE_SECONDS."""


class BodyBudget:
    """How many bytes of unfinished bodies one server may hold in memory."""

    def __init__(self, limit_bytes: int = HELD_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Raises InvalidRequest (busy) if so many bytes more do not fit."""
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise InvalidRequest(
                f"{self.held_bytes} bytes of unfinished requests are held here already; try again",
                slug="busy",
            )
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give back what was reserved."""
        self.held_bytes -= size_bytes


async def stream_body(request: Request, *, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body in pieces.

    Raises InvalidRequest (too-large) as soon as it exceeds the limit, and BrokenOff: too-slow when
    it keeps us waiting, bad-request if it ends before it is complete.
    """
    declared = request.headers.get("content-length", "0")
    pieces = request.stream()
    size, waited = 0, 0.0
    try:
        # A number of more digits than any size is not even read.
        known = declared.isdecimal() and len(declared) < 20
        _validate_size(int(declared) if known else 0, limit_bytes)
        while True:
            before = read_monotonic()
            async with asyncio.timeout(PATIENCE_SECONDS + size / SLOWEST_BYTES - waited):
                piece = await anext(pieces, None)
            # Only the sender's time counts against it, not what our disk takes.
            waited += read_monotonic() - before
            if piece is None:
                return
            size += len(piece)
            _validate_size(size, limit_bytes)
            yield piece
    except TimeoutError as error:
        raise BrokenOff(
            f"only {size} bytes arrived in {waited:.0f} s or more; {SLOWEST_BYTES} per second are"
            " waited for",
            slug="too-slow",
        ) from error
    except ClientDisconnect as error:
        raise BrokenOff("the request ended before its body was complete") from error


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """The whole body; raises like `stream_body`, and InvalidRequest (busy) if too much is held."""
    budget: BodyBudget = request.app.state.bodies
    body = bytearray()
    reserved = 0
    try:
        async for piece in stream_body(request, limit_bytes=limit_bytes):
            body += piece
            due = max(0, len(body) - FREE_BYTES) - reserved
            budget.reserve(due)
            reserved += due
        return bytes(body)
    finally:
        budget.release(reserved)


def _validate_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise InvalidRequest(
            f"the request's body has {size_bytes} bytes or more, the limit is {limit_bytes}",
            slug="too-large",
        )
