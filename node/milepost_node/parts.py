"""Beginnings of files whose senders were cut off, kept so that they can go on where they were.

A part is named after the whole file that it is to become.  Nobody has checked its bytes: whoever
goes on with it may find at the end that somebody else's beginning was wrong, and sends all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from milepost_node.errors import InvalidRequest

SUFFIX: Final = ".part"
LEAST_BYTES: Final = 1024 * 1024
"""Less is sent again before somebody has asked how much is there."""
SHARE: Final = 16
"""All parts together may take this part of the store: anybody may leave one behind."""


class Parts:
    """The parts in one folder.  The oldest go where all would take more than `limit_bytes`."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._sizes: dict[bytes, int] = {}
        """In the order in which they came."""

    @property
    def used_bytes(self) -> int:
        """Size of all parts together."""
        return sum(self._sizes.values())

    def get_sizes(self, digests: Iterable[bytes]) -> dict[bytes, int]:
        """How much is here of those files of which something is."""
        return {digest: self._sizes[digest] for digest in digests if digest in self._sizes}

    def keep(self, file: IO[bytes], digest: bytes) -> None:
        """Take a file that will not be written any further, if it is worth it."""
        file.flush()
        size = os.fstat(file.fileno()).st_size
        if size < max(LEAST_BYTES, self._sizes.get(digest, 0) + 1) or size > self._limit_bytes:
            return
        os.replace(file.name, self._get_path(digest))
        self._sizes.pop(digest, None)
        self._sizes[digest] = size
        while self.used_bytes > self._limit_bytes:
            self._drop(next(iter(self._sizes)))

    def take(self, digest: bytes, count: int, path: Path) -> None:
        """Move the first `count` bytes of a file to a path, where they are the sender's alone.

        Raises InvalidRequest (part-lost) if fewer are here.
        """
        if self._sizes.get(digest, 0) < count:
            raise InvalidRequest(
                f"the first {count} bytes of {digest.hex()[:16]} are not here (any more): send the"
                " whole file",
                slug="part-lost",
            )
        del self._sizes[digest]
        os.replace(self._get_path(digest), path)
        os.truncate(path, count)

    def sweep(self, *, before: float) -> None:
        """Remove parts last written before `before` (seconds since the epoch)."""
        for digest in list(self._sizes):
            if self._get_path(digest).stat().st_mtime < before:
                self._drop(digest)

    def clear(self) -> None:
        """Remove all of them."""
        for digest in list(self._sizes):
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        del self._sizes[digest]
        self._get_path(digest).unlink(missing_ok=True)

    def _get_path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}{SUFFIX}"
