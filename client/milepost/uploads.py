"""Bringing files to one node: the large ones first, over a few connections at the same time.

A node flushes every file to its disk before it answers, so one connection waits more than it sends
where files are small.  Each connection reads its file in pieces: memory stays the same whatever
the size.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from milepost.api import Node
from milepost.errors import Refused

CONNECTIONS: Final = 3
Blob = tuple[Path | bytes, int]
"""What a blob is read from, and its size."""


class _Stopped(Exception):
    """Another connection failed, or somebody pressed Ctrl-C; the rest need not be sent."""


def upload(
    node: Node,
    blobs: Mapping[bytes, Blob],
    on_bytes: Callable[[int], None] = lambda count: None,
    *,
    begun: Mapping[bytes, int] | None = None,
) -> None:
    """Send blobs by digest; `on_bytes` hears of each piece sent, from one thread at a time.

    Of some the node has the first bytes, as many as `begun` says, from an upload that broke off.

    Raises the first NodeFailed or Refused; then nothing more is sent, and what the node has stored
    stays there.
    """
    stop = threading.Event()
    turn = threading.Lock()
    due: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for digest in sorted(blobs, key=lambda digest: blobs[digest][1], reverse=True):
        due.put(digest)

    def hear(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        with turn:
            on_bytes(count)

    def send() -> None:
        while not stop.is_set():
            try:
                digest = due.get_nowait()
            except queue.Empty:
                return
            try:
                _put(node, digest, blobs[digest][0], hear, (begun or {}).get(digest, 0))
            except _Stopped:
                return
            except BaseException:
                if stop.is_set():
                    return
                stop.set()
                raise

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="upload") as pool:
        try:
            senders = [pool.submit(send) for _ in range(min(CONNECTIONS, len(blobs)))]
            for sender in senders:
                sender.result()
        finally:
            stop.set()


def _put(
    node: Node, digest: bytes, content: Path | bytes, hear: Callable[[int], None], begun: int
) -> None:
    try:
        node.put_blob(digest, content, hear, begun=begun)
    except Refused as error:
        # The beginning is gone, or was somebody else's and wrong.
        if not begun or error.slug not in ("part-lost", "bad-digest"):
            raise
        node.put_blob(digest, content, hear)
