"""Files whose senders were cut off: what came of them is gone on with, and cannot do harm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost_node.blobs import PIECE_BYTES, BlobStore
from milepost_node.errors import BrokenOff, InvalidRequest
from milepost_node.parts import LEAST_BYTES, SHARE

DATA = os.urandom(2 * LEAST_BYTES + 12_345)
DIGEST = hashlib.sha256(DATA).digest()
CUT = LEAST_BYTES + 3 * PIECE_BYTES
LIMIT = 10**9


async def stream(data: bytes, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
    if breaks:
        raise BrokenOff("the request ended before its body was complete")


def open_blobs(folder: Path, store_bytes: int = LIMIT) -> BlobStore:
    return BlobStore(folder / "blobs", store_bytes=store_bytes)


async def break_off(blobs: BlobStore, digest: bytes = DIGEST, data: bytes = DATA[:CUT]) -> None:
    with pytest.raises(BrokenOff):
        await blobs.write(digest, stream(data, breaks=True), limit_bytes=LIMIT)


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_a_file_is_gone_on_with_where_it_broke_off(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs)
    assert not blobs.has(DIGEST)
    assert blobs.used_bytes == 0
    assert blobs.get_begun([DIGEST, bytes(32)]) == {DIGEST: CUT}
    await blobs.write(DIGEST, stream(DATA[CUT:]), limit_bytes=LIMIT, begun=CUT)
    assert blobs.get_path(DIGEST).read_bytes() == DATA
    assert (blobs.used_bytes, blobs.get_begun([DIGEST])) == (len(DATA), {})
    assert list_files(tmp_path) == [DIGEST.hex()]


async def test_it_may_break_off_again_and_lack_nothing_in_the_end(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs)
    rest = stream(DATA[CUT : CUT + PIECE_BYTES], breaks=True)
    with pytest.raises(BrokenOff):
        await blobs.write(DIGEST, rest, limit_bytes=LIMIT, begun=CUT)
    assert blobs.get_begun([DIGEST]) == {DIGEST: CUT + PIECE_BYTES}
    # Fewer bytes may be taken up than are there.
    await blobs.write(DIGEST, stream(DATA[CUT:]), limit_bytes=LIMIT, begun=CUT)
    assert blobs.get_path(DIGEST).read_bytes() == DATA


async def test_a_file_of_which_all_arrived_but_the_end_was_not_heard(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs, data=DATA)
    begun = blobs.get_begun([DIGEST])[DIGEST]
    await blobs.write(DIGEST, stream(DATA[begun:]), limit_bytes=LIMIT, begun=begun)
    assert blobs.has(DIGEST)


async def test_bytes_that_are_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs)
    for begun in (CUT + 1, len(DATA)):
        with pytest.raises(InvalidRequest) as caught:
            await blobs.write(DIGEST, stream(b""), limit_bytes=LIMIT, begun=begun)
        assert caught.value.slug == "part-lost"
    assert blobs.get_begun([DIGEST]) == {DIGEST: CUT}, "and what is there stays"


async def test_a_wrong_beginning_is_found_at_the_end_and_forgotten(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs, data=bytes(CUT))
    with pytest.raises(InvalidRequest) as caught:
        await blobs.write(DIGEST, stream(DATA[CUT:]), limit_bytes=LIMIT, begun=CUT)
    assert caught.value.slug == "bad-digest"
    assert (blobs.get_begun([DIGEST]), list_files(tmp_path)) == ({}, [])
    await blobs.write(DIGEST, stream(DATA), limit_bytes=LIMIT)
    assert blobs.has(DIGEST)


async def test_two_senders_do_not_write_to_one_part(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs)

    async def look() -> AsyncIterator[bytes]:
        with pytest.raises(InvalidRequest) as caught:
            await blobs.write(DIGEST, stream(DATA[CUT:]), limit_bytes=LIMIT, begun=CUT)
        assert caught.value.slug == "part-lost"
        yield DATA[CUT:]

    await blobs.write(DIGEST, look(), limit_bytes=LIMIT, begun=CUT)
    assert blobs.get_path(DIGEST).read_bytes() == DATA


async def test_a_shorter_beginning_does_not_replace_a_longer_one(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs)
    await break_off(blobs, data=DATA[: CUT - PIECE_BYTES])
    assert blobs.get_begun([DIGEST]) == {DIGEST: CUT}


async def test_little_is_not_kept_and_a_refusal_keeps_nothing(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs, data=DATA[: LEAST_BYTES - 1])
    with pytest.raises(InvalidRequest) as caught:
        await blobs.write(DIGEST, stream(DATA), limit_bytes=len(DATA) - 1)
    assert caught.value.slug == "too-large"
    assert (blobs.get_begun([DIGEST]), list_files(tmp_path)) == ({}, [])


async def test_parts_take_a_share_of_the_store_and_the_oldest_go(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path, SHARE * 2 * CUT)
    names = [bytes([number]) * 32 for number in range(3)]
    for name in names:
        await break_off(blobs, name)
    assert blobs.get_begun(names) == {names[1]: CUT, names[2]: CUT}
    assert len(list_files(tmp_path)) == 2


async def test_parts_make_room_for_whole_files(tmp_path: Path) -> None:
    small = DATA[:1000]
    blobs = open_blobs(tmp_path, SHARE * CUT)
    await break_off(blobs)
    filling = bytes(SHARE * CUT - 1000)
    await blobs.write(hashlib.sha256(filling).digest(), stream(filling), limit_bytes=LIMIT)
    assert blobs.get_begun([DIGEST]) == {}
    await blobs.write(hashlib.sha256(small).digest(), stream(small), limit_bytes=LIMIT)


async def test_old_parts_are_swept_and_none_survives_a_restart(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    await break_off(blobs)
    assert blobs.sweep((), before=0.0) == 0
    assert blobs.get_begun([DIGEST]) == {DIGEST: CUT}
    assert blobs.sweep((), before=2.0**40) == 0
    assert (blobs.get_begun([DIGEST]), list_files(tmp_path)) == ({}, [])
    await break_off(blobs)
    assert open_blobs(tmp_path).get_begun([DIGEST]) == {}
    assert list_files(tmp_path) == []
