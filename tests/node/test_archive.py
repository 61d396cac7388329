"""The archive: decided files go there whole, leave here only then, and come back checked."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from obstore.store import LocalStore, MemoryStore

from milepost_consensus.verdicts import UNDECIDED
from milepost_node import archiving
from milepost_node.archive import Archive, open_archive
from milepost_node.blobs import BlobStore, store_bytes
from milepost_node.errors import ArchiveError, SettingsError
from milepost_node.records import Records
from milepost_node.settings import read_settings
from tests.support.nodes import (
    Cluster,
    Upload,
    get_slug,
    make_named_genesis,
    make_upload,
    put_files,
    wait_until,
    write_home,
)

DATA = b"a snapshot" * 1000
DIGEST = hashlib.sha256(DATA).digest()
STRANGE = hashlib.sha256(b"strange").digest()


def write(path: Path, data: bytes = DATA) -> Path:
    path.write_bytes(data)
    return path


async def read(archive: Archive, digest: bytes) -> bytes:
    found = await archive.open(digest)
    data = b"".join([piece async for piece in found.pieces])
    assert len(data) == found.size_bytes
    return data


async def test_a_file_comes_back_from_the_archive(tmp_path: Path) -> None:
    store = MemoryStore()
    archive = Archive(store)
    assert not archive.has(DIGEST)
    await archive.put(DIGEST, write(tmp_path / "file"))
    assert archive.has(DIGEST)
    assert await read(archive, DIGEST) == DATA


async def test_what_is_there_is_known_after_a_look(tmp_path: Path) -> None:
    store = MemoryStore()
    await Archive(store).put(DIGEST, write(tmp_path / "file"))
    store.put("notes.txt", b"somebody else's")
    store.put(f"zz/{STRANGE.hex()}", b"in the wrong folder")
    other = Archive(store)
    assert not other.has(DIGEST)
    await other.look()
    assert (other.has(DIGEST), len(other)) == (True, 1)


async def test_a_file_that_is_gone_is_an_error_and_known_no_more(tmp_path: Path) -> None:
    store = MemoryStore()
    archive = Archive(store)
    await archive.put(DIGEST, write(tmp_path / "file"))
    store.delete(f"{DIGEST.hex()[:2]}/{DIGEST.hex()}")
    with pytest.raises(ArchiveError, match="object store failed"):
        await archive.open(DIGEST)
    assert not archive.has(DIGEST)


async def test_a_folder_can_be_the_archive(tmp_path: Path) -> None:
    archive = open_archive(f"file://{tmp_path}/far/away")
    await archive.put(DIGEST, write(tmp_path / "file"))
    assert await read(archive, DIGEST) == DATA
    with pytest.raises(ArchiveError):
        await archive.put(STRANGE, tmp_path / "missing")


@pytest.mark.parametrize("url", ["bucket/prefix", "ftp://bucket", "s3://", "file://", "file://far"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"must be s3://BUCKET/PREFIX or file:///FOLDER"):
        open_archive(url)


@pytest.mark.parametrize("url", ["s3://b c/%%", "s3://[::1", "file:///proc/nowhere/far"])
def test_what_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="the archive cannot be opened"):
        open_archive(url)


def test_the_oldest_go_first_and_no_more_than_is_asked(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", store_bytes=10**6)
    digests = []
    for number in range(4):
        data = bytes([number]) * 100
        digest = hashlib.sha256(data).digest()
        path = blobs.get_path(digest)
        path.parent.mkdir(exist_ok=True)
        write(path, data)
        blobs.adopt(digest)
        os.utime(path, (number, number))
        digests.append(digest)
    gone = blobs.evict(lambda digest: digest != digests[0], down_to_bytes=250)
    assert gone == 2
    assert [blobs.has(digest) for digest in digests] == [True, False, False, True]
    assert blobs.used_bytes == 200
    assert blobs.evict(lambda digest: True, down_to_bytes=200) == 0


async def submit(cluster: Cluster, upload: Upload) -> bytes:
    async with cluster.connect(0) as client:
        await put_files(client, upload.files)
        return await announce(cluster, upload)


async def announce(cluster: Cluster, upload: Upload) -> bytes:
    cluster.announce(upload)
    height = cluster.nodes[0].runtime.state.height
    async with cluster.connect(0) as client:
        signed = cluster.sign(upload.submit, height=height)
        answer = await client.post("/v1/transactions", content=signed)
    assert answer.status_code == 202, answer.text
    return bytes.fromhex(answer.json()["submission"])


async def wait_verdict(cluster: Cluster, submission: bytes) -> str:
    node = cluster.nodes[0]
    await wait_until(lambda: submission in node.runtime.state.verdicts, "a verdict")
    return node.runtime.state.verdicts[submission].outcome


@pytest.mark.slow
async def test_a_node_whose_disk_is_small_serves_and_judges_from_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files go to the archive with the verdict, then leave, and are served as before."""
    monkeypatch.setattr(archiving, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(archiving, "FULL_SHARE", 0.0)
    monkeypatch.setattr(archiving, "LEFT_SHARE", 0.0)
    first, other = make_upload("run"), make_upload("other")
    shared = next(digest for digest in first.files if digest != first.submit.manifest)
    archives = [LocalStore(tmp_path / f"archive-{index}", mkdir=True) for index in range(4)]
    cluster = Cluster(tmp_path, 4)
    try:
        for index in range(4):
            cluster.archives[index] = Archive(archives[index])
            cluster.open(index)
            cluster.nodes[index].start()
        submission = await submit(cluster, first)
        assert await wait_verdict(cluster, submission) == "VALID"
        node = cluster.nodes[0]
        data = [digest for digest in first.files if digest != first.submit.manifest]
        await wait_until(lambda: not any(map(node.blobs.has, data)), "files leave")
        assert node.blobs.has(first.submit.manifest), "manifests stay"
        async with cluster.connect(0) as client:
            for digest in data:
                answer = await client.get(f"/v1/blobs/{digest.hex()}")
                assert (answer.status_code, answer.content) == (200, first.files[digest])
            asked = await client.post(
                "/v1/blobs/missing", json={"digests": [each.hex() for each in (shared, STRANGE)]}
            )
            assert asked.json()["missing"] == [STRANGE.hex()]
            assert get_slug(await client.get(f"/v1/blobs/{STRANGE.hex()}")) == "not-found"
        # Recalled where a submission needs them again.
        monkeypatch.setattr(archiving, "FULL_SHARE", 1.0)
        await node.records.recall(first.submit.manifest)
        assert not node.records.get_missing(first.submit.manifest)
        # An object that was tampered with is found out, and the peers have the file.
        store = archives[0]
        store.put(f"{shared.hex()[:2]}/{shared.hex()}", b"something else")
        node.blobs.delete([shared])
        await node.records.fetch_record(first.submit, holders=())
        assert node.blobs.get_path(shared).read_bytes() == first.files[shared]
        submission = await submit(cluster, other)
        assert await wait_verdict(cluster, submission) == "VALID"
    finally:
        await cluster.stop()


def make_works(
    blobs: BlobStore, archive: Archive, uploads: list[tuple[Upload, str]], needed: set[bytes]
) -> archiving.Archiving:
    """For a ledger on which these submissions have these outcomes; "" is open."""
    submissions = {
        upload.submit.model_digest: SimpleNamespace(submit=upload.submit) for upload, _ in uploads
    }
    verdicts = {
        upload.submit.model_digest: SimpleNamespace(outcome=outcome)
        for upload, outcome in uploads
        if outcome
    }
    state: Any = SimpleNamespace(submissions=submissions, verdicts=verdicts)
    return archiving.Archiving(
        archive,
        blobs=blobs,
        records=Records(blobs, SimpleNamespace(), blob_bytes=10**6),  # type: ignore[arg-type]
        get_state=lambda: state,
        get_needed=lambda: needed,
    )


async def test_only_what_was_decided_is_archived(tmp_path: Path) -> None:
    blobs, store = BlobStore(tmp_path / "blobs", store_bytes=10**6), MemoryStore()
    runs = [(make_upload(f"run {each}"), each) for each in ("VALID", "INVALID", UNDECIDED, "")]
    for upload, _ in runs:
        for data in upload.files.values():
            store_bytes(tmp_path / "blobs", data)
    archive = Archive(store)
    works = make_works(blobs, archive, runs, set())
    judged = {each for upload, _ in runs[:2] for each in upload.files}
    assert await works.bring() == len(judged)
    assert {each for upload, _ in runs for each in upload.files if archive.has(each)} == judged
    assert await works.bring() == 0


async def test_a_failing_store_is_tried_again_and_nothing_leaves(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", store_bytes=100)
    upload = make_upload("run")
    for data in upload.files.values():
        blobs.adopt(store_bytes(tmp_path / "blobs", data))
    folder = tmp_path / "far"
    archive = Archive(LocalStore(folder, mkdir=True))
    works = make_works(blobs, archive, [(upload, "VALID")], set())
    shutil.rmtree(folder)
    folder.write_text("no folder any more")
    with pytest.raises(ArchiveError):
        await works.bring()
    works.make_room()
    assert not blobs.get_missing(upload.files), "what the archive does not have stays"
    folder.unlink()
    folder.mkdir()
    assert await works.bring() == len(upload.files)
    assert works.make_room() > 0
    assert blobs.used_bytes <= 50


async def test_what_is_needed_stays(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", store_bytes=100)
    upload = make_upload("run")
    for data in upload.files.values():
        blobs.adopt(store_bytes(tmp_path / "blobs", data))
    needed = set(list(upload.files)[:3])
    works = make_works(blobs, Archive(MemoryStore()), [(upload, "VALID")], needed)
    await works.bring()
    assert works.make_room() == len(upload.files) - 3
    assert not blobs.get_missing(needed)


def test_node_toml_names_the_archive(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", make_named_genesis(1), "node-0")
    file = home / "node.toml"
    plain = file.read_text()
    assert read_settings(home).archive is None
    file.write_text(plain + f'[archive]\nurl = "file://{tmp_path}/far"\n')
    assert read_settings(home).archive is not None
    for line, error in (
        ('secret = "x"', "unknown key archive.secret"),
        ('url = "far"', "must be s3://"),
        ("url = 3", "must be text"),
    ):
        file.write_text(plain + f"[archive]\n{line}\n")
        with pytest.raises(SettingsError, match=error):
            read_settings(home)
    file.write_text("archive = 3\n" + plain)
    with pytest.raises(SettingsError, match="must be a table"):
        read_settings(home)
