"""How far an upload is: a bar on a terminal, elsewhere a line whenever a tenth more is sent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from milepost.cli import output

QUIET_SECONDS: Final = 1.0
"""Between two lines: what is over at once needs none."""


def format_rate(sent_bytes: int, size_bytes: int, seconds: float) -> str:
    """How much is sent, how fast, and how long the rest takes at that speed."""
    rate = sent_bytes / seconds
    left = round((size_bytes - sent_bytes) / rate)
    return (
        f"{100 * sent_bytes // size_bytes:3} %  {sent_bytes / 1e6:.1f} of {size_bytes / 1e6:.1f} MB"
        f" · {rate / 1e6:.1f} MB/s · {left // 60}:{left % 60:02} left"
    )


class UploadLines:
    """One line per tenth of the upload, for logs."""

    def __init__(self, size_bytes: int, *, read_clock: Callable[[], float]) -> None:
        self._size_bytes = size_bytes
        self._read_clock = read_clock
        self._begin = self._told = read_clock()
        self._sent = 0
        self._tenths = 0

    def advance(self, count: int) -> None:
        self._sent += count
        tenths = 10 * self._sent // self._size_bytes
        now = self._read_clock()
        if self._tenths < tenths < 10 and now >= self._told + QUIET_SECONDS:
            self._tenths, self._told = tenths, now
            rate = format_rate(self._sent, self._size_bytes, now - self._begin)
            output.tell(f"Uploading    {rate}")


class UploadProgress:
    """What a person sees of an upload; a bar disappears when it is full."""

    def __init__(self, *, read_clock: Callable[[], float] = time.monotonic) -> None:
        self._read_clock = read_clock
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._lines: UploadLines | None = None

    def start(self, size_bytes: int) -> None:
        self.stop()
        if not size_bytes:
            return
        if not sys.stderr.isatty():
            self._lines = UploadLines(size_bytes, read_clock=self._read_clock)
            return
        self._bar = Progress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=size_bytes)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, count)
        elif self._lines is not None:
            self._lines.advance(count)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._lines = None
