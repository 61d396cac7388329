"""Files by what they are: a folder in which every file's name is the SHA-256 of its bytes.

A file appears under its name only complete, checked and flushed to disk (temporary file, fsync,
atomic rename).  Paths are made from 32 digest bytes and from nothing a user wrote.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from milepost_node.errors import BrokenOff, InvalidRequest, StoreError
from milepost_node.parts import SHARE, Parts

INCOMING: Final = "incoming"
"""Where files are until they are complete."""
DIGEST_HEX: Final = 64
PIECE_BYTES: Final = 256 * 1024
"""What is hashed and written at once; a file that arrives holds two of them in memory."""
ASIDE_BYTES: Final = 16 * 1024
"""Less is hashed and written before a thread would have begun."""
_HEX: Final = frozenset("0123456789abcdef")


def parse_digest(text: str) -> bytes:
    """The digest that 64 lowercase hex digits spell; raises InvalidRequest for anything else."""
    if len(text) != DIGEST_HEX or not _HEX.issuperset(text):
        raise InvalidRequest(
            "A file is named by its SHA-256: 64 lowercase hex digits.", slug="bad-digest"
        )
    return bytes.fromhex(text)


def get_blob_path(folder: Path, digest: bytes) -> Path:
    """Where the file with this digest lies, or would lie."""
    assert len(digest) == 32
    name = digest.hex()
    return folder / name[:2] / name


def store_bytes(folder: Path, data: bytes) -> bytes:
    """Store bytes made on this machine as a blob; returns their digest.  Raises StoreError."""
    digest = hashlib.sha256(data).digest()
    file = _open_incoming(folder)
    try:
        with _storing():
            file.write(data)
        _settle(file, get_blob_path(folder, digest))
    finally:
        _discard(file)
    return digest


@contextmanager
def _storing() -> Iterator[None]:
    """Turns what the disk refuses into errors of this package."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InvalidRequest("the disk of this node is full", slug="store-full") from error
        raise StoreError(f"a file could not be stored: {error.strerror}") from error


def _open_incoming(folder: Path) -> IO[bytes]:
    with _storing():
        return tempfile.NamedTemporaryFile(dir=folder / INCOMING, delete=False)


def _reopen(file: IO[bytes]) -> IO[bytes]:
    """The file that has taken the place of a temporary one."""
    with _storing():
        file.close()
        return open(file.name, "r+b")


def _settle(file: IO[bytes], path: Path) -> bool:
    """Flush a temporary file to disk and give it its name; returns whether the name is new."""
    with _storing():
        file.flush()
        os.fsync(file.fileno())
        path.parent.mkdir(exist_ok=True)
        known = path.exists()
        os.replace(file.name, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return not known


def _discard(file: IO[bytes]) -> None:
    """Close a temporary file and remove it, unless it has been given its name."""
    # Closing may try to write once more; what matters went wrong before.
    with suppress(OSError):
        file.close()
    Path(file.name).unlink(missing_ok=True)


class _Pieces:
    """Hashes and writes what arrives, in a thread, while the next piece arrives."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self._waiting = bytearray()
        self._work: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Take some more bytes; waits only while the piece before is being written."""
        self._waiting += chunk
        if len(self._waiting) >= PIECE_BYTES:
            await self._pass_on()

    def resume(self) -> None:
        """Hash what is in the file already, and go on behind it."""
        with _storing():
            self._file.seek(0)
            while piece := self._file.read(PIECE_BYTES):
                self._hasher.update(piece)

    async def finish(self) -> bytes:
        """The digest of everything, once it is written."""
        if len(self._waiting) >= ASIDE_BYTES:
            await self._pass_on()
        await self._join()
        self._write(self._waiting)
        return self._hasher.digest()

    async def rest(self) -> None:
        """Wait until no thread uses the file; what it could not write is not told again."""
        if self._work is not None:
            await asyncio.wait([self._work])
            self._work.exception()

    async def _pass_on(self) -> None:
        await self._join()
        piece, self._waiting = self._waiting, bytearray()
        self._work = asyncio.get_running_loop().run_in_executor(None, self._write, piece)

    async def _join(self) -> None:
        if self._work is not None:
            # A request that is given up stops waiting, the thread goes on: `rest` waits for it.
            await asyncio.shield(self._work)

    def _write(self, piece: bytearray) -> None:
        self._hasher.update(piece)
        with _storing():
            self._file.write(piece)


class BlobStore:
    """The blob folder of one node, with a limit on all of it together."""

    def __init__(self, folder: Path, *, store_bytes: int) -> None:
        self._folder = folder
        self._store_bytes = store_bytes
        self._incoming = folder / INCOMING
        self._incoming.mkdir(parents=True, exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()
        self._used = sum(size for _, size, _ in self._scan())
        self._arriving = 0
        """Bytes of files that are not complete yet."""
        self._parts = Parts(self._incoming, limit_bytes=store_bytes // SHARE)

    @property
    def used_bytes(self) -> int:
        """Size of all blobs together."""
        return self._used

    @property
    def limit_bytes(self) -> int:
        """What it may be at most."""
        return self._store_bytes

    def get_path(self, digest: bytes) -> Path:
        """Where the blob lies, or would lie."""
        return get_blob_path(self._folder, digest)

    def has(self, digest: bytes) -> bool:
        """Whether the complete blob is here."""
        return self.get_path(digest).is_file()

    def get_missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Those of `digests` that are not here, in their order."""
        return [digest for digest in digests if not self.has(digest)]

    def get_begun(self, digests: Iterable[bytes]) -> dict[bytes, int]:
        """How many bytes are here of those that somebody could go on with."""
        return self._parts.get_sizes(digests)

    def read(self, digest: bytes, *, limit_bytes: int) -> bytes:
        """The bytes of a small blob; raises InvalidRequest if it is missing or larger."""
        try:
            with self.get_path(digest).open("rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError as error:
            raise InvalidRequest(
                f"file {digest.hex()[:16]} is not on this node", slug="not-found"
            ) from error
        if len(data) > limit_bytes:
            raise InvalidRequest(
                f"file {digest.hex()[:16]} is larger than {limit_bytes} bytes", slug="too-large"
            )
        return data

    async def write(
        self, digest: bytes, chunks: AsyncIterable[bytes], *, limit_bytes: int, begun: int = 0
    ) -> None:
        """Take a blob from a stream, which leaves out the first `begun` bytes: they are here.

        Raises InvalidRequest (too-large, store-full, bad-digest, part-lost) or StoreError, and
        whatever `chunks` raises.  Then nothing is left behind, but of a stream that raises
        BrokenOff a part to go on with.
        """
        size = 0
        file = _open_incoming(self._folder)
        pieces = _Pieces(file)
        try:
            if begun:
                with _storing():
                    self._parts.take(digest, begun, Path(file.name))
                file = _reopen(file)
                pieces = _Pieces(file)
                self._arriving += begun
                size = begun
                await asyncio.to_thread(pieces.resume)
            async for chunk in chunks:
                size += len(chunk)
                self._arriving += len(chunk)
                self._validate_size(size, limit_bytes)
                await pieces.add(chunk)
            found = await pieces.finish()
            if found != digest:
                raise InvalidRequest(
                    f"{size} bytes arrived whose SHA-256 is {found.hex()[:16]}..., not"
                    f" {digest.hex()[:16]}...",
                    slug="bad-digest",
                )
            if await asyncio.to_thread(_settle, file, self.get_path(digest)):
                self._used += size
        except BrokenOff:
            await pieces.rest()
            with _storing():
                self._parts.keep(file, digest)
            raise
        finally:
            try:
                await pieces.rest()
            finally:
                self._arriving -= size
                _discard(file)

    def _validate_size(self, size_bytes: int, limit_bytes: int) -> None:
        if size_bytes > limit_bytes:
            raise InvalidRequest(f"the file has more than {limit_bytes} bytes", slug="too-large")
        if self._used + self._arriving + self._parts.used_bytes > self._store_bytes:
            self._parts.clear()
        if self._used + self._arriving > self._store_bytes:
            raise InvalidRequest(
                f"this node keeps {self._store_bytes} bytes of files and is full",
                slug="store-full",
            )

    def adopt(self, digest: bytes) -> None:
        """Count a blob that the worker process stored."""
        self._used += self.get_path(digest).stat().st_size

    def delete(self, digests: Iterable[bytes]) -> int:
        """Remove blobs; returns how many there were."""
        count = 0
        for digest in digests:
            path = self.get_path(digest)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            self._used -= size
            count += 1
        return count

    def evict(self, may_go: Callable[[bytes], bool], *, down_to_bytes: int) -> int:
        """Remove blobs that may go, the oldest first, until no more than that is left."""
        going = sorted(
            (written, digest, size) for digest, size, written in self._scan() if may_go(digest)
        )
        chosen, left = [], self._used
        for _, digest, size in going:
            if left <= down_to_bytes:
                break
            chosen.append(digest)
            left -= size
        return self.delete(chosen)

    def sweep(self, keep: Collection[bytes], *, before: float) -> int:
        """Remove blobs not in `keep` last written before `before` (seconds since the epoch).

        Parts of that age go too, and are not counted.
        """
        self._parts.sweep(before=before)
        old = [
            digest for digest, _, written in self._scan() if written < before and digest not in keep
        ]
        count = self.delete(old)
        self._used = sum(size for _, size, _ in self._scan())
        return count

    def _scan(self) -> Iterable[tuple[bytes, int, float]]:
        """(digest, size, time of writing) of every blob."""
        for folder in self._folder.iterdir():
            if folder == self._incoming or not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                if len(entry.name) == DIGEST_HEX and _HEX.issuperset(entry.name):
                    status = entry.stat()
                    yield bytes.fromhex(entry.name), status.st_size, status.st_mtime
