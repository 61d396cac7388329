"""Backups hold no journal, and a node restored from one contradicts nothing that its key signed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import tarfile
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from milepost_consensus.keyguard import LIVE_HEIGHTS, Signing
from milepost_node.backup import RESTORED, restore, write_backup
from milepost_node.errors import SettingsError
from milepost_node.node import Node
from milepost_node.settings import read_settings
from tests.support.ledger import make_signer
from tests.support.nodes import FAST, Cluster, make_upload, open_cluster, put_files, wait_until

WATCHED = LIVE_HEIGHTS + 2 * 4
"""Heights that a restored one of four nodes follows."""


async def submit(cluster: Cluster, name: str) -> None:
    """Hand a record to node 0."""
    upload = make_upload(name)
    cluster.announce(upload)
    runtime = cluster.nodes[0].runtime
    async with cluster.connect(0) as client:
        await put_files(client, upload.files)
        tx = cluster.sign(upload.submit, height=runtime.state.height)
        answer = await client.post("/v1/transactions", content=tx)
        assert answer.status_code == 202, answer.text


async def go_on(cluster: Cluster, name: str) -> None:
    """Let the nodes decide a submission that node 0 takes."""
    runtime = cluster.nodes[0].runtime
    count = len(runtime.state.verdicts)
    await submit(cluster, name)
    await wait_until(lambda: len(runtime.state.verdicts) > count, name)


async def go_on_until(cluster: Cluster, node: Node, *states: Signing) -> None:
    """Keep the chain busy until a node signs, or will not any more."""
    for number in range(12):
        if node.runtime.signing in states:
            return
        await go_on(cluster, f"{node.runtime.signing}-{number}")
    raise AssertionError(f"still {node.runtime.signing} at {node.runtime.state.height}")


def assert_no_contradiction(cluster: Cluster, watching: tuple[int, ...] = (0, 1, 2)) -> None:
    """Nobody saw node 3 contradict itself."""
    key = make_signer("node-3").public
    for index in watching:
        runtime = cluster.nodes[index].runtime
        assert runtime.counts["equivocation"] == 0
        assert runtime.state.standings[key].offence == 0


def get_signing(node: Node) -> Signing:
    return node.runtime.signing


class Tee(httpx.ASGITransport):
    """Brings what is sent to one node to a second one as well."""

    def __init__(self, first: httpx.ASGITransport, second: httpx.ASGITransport) -> None:
        self._both = first, second

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        first, second = self._both
        await second.handle_async_request(request)
        return await first.handle_async_request(request)


@pytest.mark.slow
async def test_a_backup_has_the_home_without_journal_and_records(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        await go_on(cluster, "before")
        home, file = cluster.homes[3], tmp_path / "a.backup"
        head = write_backup(home, file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert head["key"] == make_signer("node-3").public.hex()
        assert 0 < head["height"] <= cluster.nodes[3].runtime.state.height  # type: ignore[operator]
        with pytest.raises(SettingsError, match="cannot be written"):
            write_backup(home, file)
        again = tmp_path / "again"
        assert restore(file, again) == head
        assert {each.name for each in again.iterdir()} == {
            *("node.toml", "genesis.json", "node.key", "chain.db", RESTORED)
        }
        assert stat.S_IMODE((again / "node.key").stat().st_mode) == 0o600
        assert read_settings(again).signer.public == make_signer("node-3").public
        database = sqlite3.connect(again / "chain.db")
        assert database.execute("SELECT count(*) FROM journal").fetchone() == (0,)
        assert database.execute("SELECT max(height) FROM blocks").fetchone() == (head["height"],)
        database.close()
        journal = cluster.nodes[3].store.get_journal()
        assert journal
        assert journal not in file.read_bytes()
        with pytest.raises(SettingsError, match="does not exist"):
            restore(file, again)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [True, False])
async def test_a_node_restored_after_the_original_went_on_signs_again_and_only_above(
    tmp_path: Path, blocks: bool
) -> None:
    params = replace(FAST, timeout_ms=400)  # its turns pass without it
    async with open_cluster(tmp_path, 4, params=params) as cluster:
        file = tmp_path / "a.backup"
        if blocks:
            await go_on(cluster, "before the backup")
        write_backup(cluster.homes[3], file)
        await go_on(cluster, "after the backup")
        await cluster.stop(3)
        signed = cluster.nodes[0].runtime.state.height + 1
        shutil.rmtree(cluster.homes[3])
        restore(file, cluster.homes[3])
        cluster.start(3)
        node = cluster.nodes[3]
        await wait_until(lambda: node.runtime.state.height >= signed - 1)
        assert get_signing(node) is Signing.QUARANTINE
        start = node.runtime.state.height
        await go_on_until(cluster, node, Signing.ACTIVE, Signing.KEY_IN_USE)
        assert get_signing(node) is Signing.ACTIVE
        assert node.runtime.state.height >= start + WATCHED - 1
        # And its votes are needed and taken.
        assert_no_contradiction(cluster)
        await cluster.stop(2)
        height = node.runtime.state.height
        await submit(cluster, "with three")
        await wait_until(lambda: node.runtime.state.height > height + 1)
        assert_no_contradiction(cluster, watching=(0, 1))


@pytest.mark.slow
async def test_a_node_restored_while_the_original_goes_on_never_signs(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        file = tmp_path / "a.backup"
        await go_on(cluster, "before the backup")
        write_backup(cluster.homes[3], file)
        original = cluster.nodes.pop(3)
        inlet = cluster.network.nodes["node-3"]
        try:
            cluster.homes[3] = tmp_path / "restored"
            restore(file, cluster.homes[3])
            node = cluster.open(3)
            # What others send comes to both; what both send goes out.
            cluster.network.nodes["node-3"] = Tee(cluster.network.nodes["node-3"], inlet)
            node.start()
            await go_on_until(cluster, node, Signing.ACTIVE, Signing.KEY_IN_USE)
            assert node.runtime.signing is Signing.KEY_IN_USE
            assert original.runtime.signing is Signing.ACTIVE, "the one that was there goes on"
            await go_on(cluster, "with the original")
            assert_no_contradiction(cluster)
            assert node.get_readiness()[0] == 503
        finally:
            await original.stop()


async def test_a_home_restored_at_genesis_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4, start=False) as cluster:
        write_backup(cluster.homes[3], tmp_path / "a.backup")
        await cluster.stop(3)
        shutil.rmtree(cluster.homes[3])
        restore(tmp_path / "a.backup", cluster.homes[3])
        for _ in range(2):
            cluster.start(3)
            await wait_until(lambda: cluster.nodes[3].runtime.signing is not Signing.LISTENING)
            assert cluster.nodes[3].runtime.signing is Signing.QUARANTINE
            await cluster.stop(3)
            for each in cluster.homes[3].glob("chain.db*"):
                each.unlink()


def make_archive(file: Path, contents: dict[str, bytes], *, link: str = "") -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in contents.items():
            (file.parent / "piece").write_bytes(data)
            archive.add(file.parent / "piece", name)
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry)
    return file


async def test_what_is_no_backup_is_refused_and_nothing_is_written_outside(tmp_path: Path) -> None:
    head = json.dumps({"format": "milepost/backup/1"}).encode()
    async with open_cluster(tmp_path / "net", 1, start=False) as cluster:
        whole = {
            name: (cluster.homes[0] / name).read_bytes()
            for name in ("node.toml", "genesis.json", "node.key")
        }
    for number, contents in enumerate(
        (
            {},
            {"backup.json": b"{}"},
            {"backup.json": b"\xff"},
            {"backup.json": b'{"format": "milepost/backup/2"}', **whole},
            {"backup.json": head},
            {"backup.json": head, **whole, "node.key": b"short"},
        )
    ):
        file = make_archive(tmp_path / f"{number}.backup", contents)
        with pytest.raises(SettingsError):
            restore(file, tmp_path / f"home-{number}")
    (tmp_path / "rubbish").write_bytes(b"rubbish" * 999)
    with pytest.raises(SettingsError, match="not a whole backup"):
        restore(tmp_path / "rubbish", tmp_path / "home-r")
    evil = {"backup.json": head, **whole, "../out": b"x", "/out": b"x", "accepted/../../out": b"x"}
    home = tmp_path / "deep" / "home"
    restore(make_archive(tmp_path / "evil", evil, link="accepted/ab.txt"), home)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "deep" / "out").exists()
    assert {each.name for each in home.iterdir()} == {*whole, RESTORED}
    linked = make_archive(tmp_path / "linked", {"backup.json": head, **whole}, link="chain.db")
    with pytest.raises(SettingsError):
        restore(linked, tmp_path / "home-l")
