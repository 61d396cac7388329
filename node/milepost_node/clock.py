"""The only place where a node reads time, and how its parts wait."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress


def read_wall_ms() -> int:
    """Milliseconds since the Unix epoch, for block times and what people read."""
    return time.time_ns() // 1_000_000


def read_monotonic() -> float:
    """Seconds that never go back, for waiting times."""
    return time.monotonic()


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after so many seconds."""
    # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
