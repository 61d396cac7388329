"""The blob folder: only whole, checked files appear, and nothing else is left behind."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import pytest

from milepost_node import blobs as blobs_module
from milepost_node.blobs import (
    ASIDE_BYTES,
    PIECE_BYTES,
    BlobStore,
    get_blob_path,
    parse_digest,
    store_bytes,
)
from milepost_node.errors import InvalidRequest

DATA = b"some bytes of a record" * 100
DIGEST = hashlib.sha256(DATA).digest()


async def stream(data: bytes, *, piece: int = 100, cut: int | None = None) -> AsyncIterator[bytes]:
    """The data in pieces; after `cut` bytes the connection breaks."""
    for start in range(0, len(data), piece):
        if cut is not None and start >= cut:
            raise ConnectionResetError("the peer went away")
        yield data[start : start + piece]


def open_blobs(folder: Path, store_bytes: int = 10**6) -> BlobStore:
    return BlobStore(folder / "blobs", store_bytes=store_bytes)


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_file_comes_back_under_its_digest(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await blobs.write(DIGEST, stream(DATA), limit_bytes=len(DATA))
    assert blobs.has(DIGEST)
    assert blobs.get_path(DIGEST).read_bytes() == DATA
    assert blobs.read(DIGEST, limit_bytes=len(DATA)) == DATA
    assert blobs.used_bytes == len(DATA)
    assert blobs.get_missing([DIGEST, b"\x01" * 32]) == [b"\x01" * 32]
    # The same file again is no second file.
    await blobs.write(DIGEST, stream(DATA), limit_bytes=len(DATA))
    assert blobs.used_bytes == len(DATA)
    assert list_files(tmp_path) == [blobs.get_path(DIGEST)]


@pytest.mark.parametrize(
    ("digest", "limit", "store", "slug"),
    [
        (b"\x02" * 32, 10**6, 10**6, "bad-digest"),
        (DIGEST, len(DATA) - 1, 10**6, "too-large"),
        (DIGEST, 10**6, len(DATA) - 1, "store-full"),
    ],
)
async def test_refused_file_leaves_nothing(
    tmp_path: Path, digest: bytes, limit: int, store: int, slug: str
) -> None:
    blobs = open_blobs(tmp_path, store)
    with pytest.raises(InvalidRequest) as caught:
        await blobs.write(digest, stream(DATA), limit_bytes=limit)
    assert caught.value.slug == slug
    assert list_files(tmp_path) == []
    assert blobs.used_bytes == 0


async def test_oversize_is_noticed_while_it_streams(tmp_path: Path) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield bytes(1000)

    with pytest.raises(InvalidRequest, match="more than 5000"):
        await open_blobs(tmp_path).write(DIGEST, endless(), limit_bytes=5000)
    assert read == 6000


async def test_files_that_arrive_together_do_not_exceed_the_limit_together(
    tmp_path: Path,
) -> None:
    blobs = open_blobs(tmp_path, store_bytes=2 * len(DATA) - 1)
    half = asyncio.Event()
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA
        half.set()
        await go_on.wait()

    first = asyncio.create_task(blobs.write(DIGEST, slow(), limit_bytes=10**6))
    await half.wait()
    other = bytes(reversed(DATA))
    with pytest.raises(InvalidRequest) as caught:
        await blobs.write(hashlib.sha256(other).digest(), stream(other), limit_bytes=10**6)
    assert caught.value.slug == "store-full"
    go_on.set()
    await first
    assert blobs.used_bytes == len(DATA)


async def test_broken_stream_leaves_nothing(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    with pytest.raises(ConnectionResetError):
        await blobs.write(DIGEST, stream(DATA, cut=500), limit_bytes=10**6)
    assert list_files(tmp_path) == []


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, 5 * PIECE_BYTES + ASIDE_BYTES])
@pytest.mark.parametrize("piece", [1_000, 64 * 1024, 10**7])
async def test_a_file_of_several_pieces_keeps_their_order(
    tmp_path: Path, size: int, piece: int
) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(-(-size // 4)))[:size]
    digest = hashlib.sha256(data).digest()
    blobs = open_blobs(tmp_path, 10**8)
    await blobs.write(digest, stream(data, piece=piece), limit_bytes=size)
    assert blobs.get_path(digest).read_bytes() == data


async def test_a_request_given_up_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path, 10**8)
    half = asyncio.Event()

    async def stall() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(PIECE_BYTES)
        half.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(blobs.write(DIGEST, stall(), limit_bytes=10**8))
    await half.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert list_files(tmp_path) == []


async def test_a_disk_that_fills_up_refuses_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = blobs_module._open_incoming

    def open_full(folder: Path) -> IO[bytes]:
        file = open_file(folder)

        def write(data: bytes) -> int:
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(file, "write", write)
        return file

    monkeypatch.setattr(blobs_module, "_open_incoming", open_full)
    data = bytes(4 * PIECE_BYTES)
    with pytest.raises(InvalidRequest) as caught:
        await open_blobs(tmp_path, 10**8).write(
            hashlib.sha256(data).digest(), stream(data, piece=PIECE_BYTES), limit_bytes=10**8
        )
    assert caught.value.slug == "store-full"
    assert list_files(tmp_path) == []


GROWTH = """
import asyncio, hashlib, resource, sys
from pathlib import Path
from milepost_node.blobs import BlobStore

def take(mib):
    async def stream():
        for _ in range(16 * mib):
            yield bytes(65536)
    hasher = hashlib.sha256()
    for _ in range(mib):
        hasher.update(bytes(1 << 20))
    blobs = BlobStore(Path(sys.argv[1]), store_bytes=1 << 40)
    asyncio.run(blobs.write(hasher.digest(), stream(), limit_bytes=1 << 40))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small = take(4)
print((take(192) - small) * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 << 20


def test_leftovers_of_a_crash_are_cleared_and_the_rest_is_counted(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    digest = store_bytes(tmp_path / "blobs", b"made here")
    blobs.adopt(digest)
    (tmp_path / "blobs" / "incoming" / "half").write_bytes(b"half a file")
    (blobs.get_path(digest).parent / "README").write_text("somebody's note")
    again = open_blobs(tmp_path)
    assert again.used_bytes == blobs.used_bytes == len(b"made here")
    assert not (tmp_path / "blobs" / "incoming" / "half").exists()


def test_delete_and_sweep_spare_what_is_needed(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    old, needed, young = (store_bytes(tmp_path / "blobs", data) for data in (b"1", b"22", b"333"))
    for digest in (old, needed):
        os.utime(blobs.get_path(digest), (1_000, 1_000))
    assert blobs.sweep({needed}, before=2_000) == 1
    assert [blobs.has(d) for d in (old, needed, young)] == [False, True, True]
    assert blobs.used_bytes == 5
    assert blobs.delete([needed, old]) == 1
    assert blobs.used_bytes == 3


def test_missing_or_large_blob_is_not_read(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    with pytest.raises(InvalidRequest) as caught:
        blobs.read(DIGEST, limit_bytes=10)
    assert caught.value.slug == "not-found"
    digest = store_bytes(tmp_path / "blobs", DATA)
    with pytest.raises(InvalidRequest) as caught:
        blobs.read(digest, limit_bytes=10)
    assert caught.value.slug == "too-large"


@pytest.mark.parametrize(
    "text",
    ["", "ab", "../" * 21 + "a", "g" * 64, "A" * 64, "a" * 63 + "\n", "a" * 65, "/" + "a" * 63],
)
def test_only_a_digest_names_a_file(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_digest(text)
    assert caught.value.slug == "bad-digest"


def test_path_is_made_of_the_digest_alone(tmp_path: Path) -> None:
    path = get_blob_path(tmp_path, parse_digest("ab" * 32))
    assert path == tmp_path / "ab" / ("ab" * 32)
