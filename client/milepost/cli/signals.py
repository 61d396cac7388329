"""Ending in order: a supervisor's SIGTERM and a closed terminal mean the same as Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def treat_as_interrupt() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, so that child processes are ended."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
