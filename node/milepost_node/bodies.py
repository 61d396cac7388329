"""Reading request bodies: never more than a limit, counted while they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from milepost_node.errors import InvalidRequest


async def stream_body(request: Request, *, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body in pieces; raises InvalidRequest (too-large) as soon as it exceeds the limit, and
    (bad-request) if it ends before it is complete."""
    declared = request.headers.get("content-length", "0")
    size = 0
    try:
        _validate_size(int(declared) if declared.isdecimal() else 0, limit_bytes)
        async for piece in request.stream():
            size += len(piece)
            _validate_size(size, limit_bytes)
            yield piece
    except ClientDisconnect as error:
        raise InvalidRequest("the request ended before its body was complete") from error


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """The whole body; raises like `stream_body`."""
    body = bytearray()
    async for piece in stream_body(request, limit_bytes=limit_bytes):
        body += piece
    return bytes(body)


def _validate_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise InvalidRequest(
            f"the request's body has {size_bytes} bytes or more, the limit is {limit_bytes}",
            slug="too-large",
        )
