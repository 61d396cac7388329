"""Files in an S3-compatible object store, or in a folder of another disk, under their digests.

What comes from there is checked like what comes from a peer: the store may be shared, and nobody
here answers for it.  Which files it holds is read once, when the node starts, and remembered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost_node.errors import ArchiveError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ObjectStore

PIECE_BYTES: Final = 1024 * 1024
"""What is read at a time."""
PART_BYTES: Final = 8 * 1024 * 1024
PARTS: Final = 2
"""Parts of a large file on their way at once; memory holds no more of it."""
TIMEOUT: Final = timedelta(seconds=30)
"""An attempt at one request may take as long."""
RETRY: Final = timedelta(seconds=20)
"""After which a failed request is given up; whoever asked comes again."""


class Found(NamedTuple):
    """A file of the archive."""

    size_bytes: int
    pieces: AsyncIterator[bytes]


class Archive:
    """One prefix of an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: set[bytes] = set()

    def __len__(self) -> int:
        """How many files are known to be there."""
        return len(self._known)

    def has(self, digest: bytes) -> bool:
        """Whether the file is known to be there."""
        return digest in self._known

    async def look(self) -> None:
        """Learn which files are there; raises ArchiveError."""
        with _asking():
            async for metas in self._store.list(chunk_size=1000):
                self._known.update(filter(None, (_parse(meta["path"]) for meta in metas)))

    async def put(self, digest: bytes, file: Path) -> None:
        """Store a file; returns once the store has all of it.  Raises ArchiveError."""
        with _asking():
            await self._store.put_async(
                _name(digest), file, chunk_size=PART_BYTES, max_concurrency=PARTS
            )
        self._known.add(digest)

    async def open(self, digest: bytes) -> Found:
        """A file, in pieces that raise ArchiveError too; raises it also where there is none."""
        try:
            with _asking():
                result = await self._store.get_async(_name(digest))
        except ArchiveError:
            self._known.discard(digest)  # until the next look
            raise
        return Found(result.meta["size"], _read(result))


async def _read(result: Any) -> AsyncIterator[bytes]:
    with _asking():
        async for piece in result.stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)


@contextmanager
def _asking() -> Iterator[None]:
    """Turns what an object store raises into an error of this package."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error) else type(error).__name__
        raise ArchiveError(f"the object store failed: {reason}") from error


def open_archive(url: str, *, endpoint: str = "", region: str = "") -> Archive:
    """The archive at "s3://bucket/prefix" or "file:///folder"; nothing is asked of it yet.

    Credentials for S3 come from where its own tools have them: AWS_ACCESS_KEY_ID and its kin in the
    environment, or the machine's role.  Raises SettingsError.
    """
    scheme, _, place = url.partition("://")
    if not (scheme == "s3" and place) and not (scheme == "file" and place.startswith("/")):
        raise SettingsError(
            f"node.toml: archive.url = {url[:80]!r} must be s3://BUCKET/PREFIX or file:///FOLDER"
        )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import LocalStore, S3Store
    except ImportError as error:
        raise SettingsError(
            "node.toml names an archive, which needs obstore. Install it: pip install"
            " 'milepost[s3]'",
            slug="missing-extra",
        ) from error
    try:
        if scheme == "file":
            return Archive(LocalStore(place, mkdir=True))
        named = {"endpoint": endpoint, "region": region}
        config: Any = {key: value for key, value in named.items() if value}
        return Archive(
            S3Store.from_url(
                url,
                config=config,
                client_options={
                    "timeout": TIMEOUT,
                    "allow_http": endpoint.startswith("http://"),
                },
                retry_config={"retry_timeout": RETRY},
            )
        )
    except (BaseError, ValueError, OSError) as error:
        raise SettingsError(f"node.toml: the archive cannot be opened: {error}") from error


def _name(digest: bytes) -> str:
    name = digest.hex()
    return f"{name[:2]}/{name}"


def _parse(path: str) -> bytes | None:
    """The digest that a path of the archive stands for, if it is one of its own."""
    name = path.rpartition("/")[2]
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if len(digest) == 32 and path == _name(digest) else None
