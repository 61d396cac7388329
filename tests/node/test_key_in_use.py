"""Nodes that cannot store, whose key is in use elsewhere, or that lost everything they knew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from milepost_consensus.events import ReceivedVote
from milepost_consensus.keyguard import Signing
from milepost_consensus.votes import NIL, PRECOMMIT, Vote, sign_vote
from tests.support.nodes import Cluster, make_upload, open_cluster, put_files, wait_until


async def submit(cluster: Cluster, name: str = "run") -> None:
    """Hand a record to node 0, which keeps the chain going for a while."""
    upload = make_upload(name)
    cluster.announce(upload)
    async with cluster.connect(0) as client:
        await put_files(client, upload.files)
        tx = cluster.sign(upload.submit, height=cluster.nodes[0].runtime.state.height)
        answer = await client.post("/v1/transactions", content=tx)
        assert answer.status_code == 202, answer.text


async def go_on(cluster: Cluster, name: str) -> int:
    """Let the running nodes decide a submission; returns their height."""
    await submit(cluster, name)
    runtimes = [node.runtime for node in cluster.nodes.values()]
    count = len(runtimes[0].state.verdicts)
    await wait_until(lambda: all(len(each.state.verdicts) > count for each in runtimes), name)
    return max(each.state.height for each in runtimes)


@pytest.mark.slow
async def test_node_on_a_full_disk_stops_and_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cluster(tmp_path, 1) as cluster:
        node = cluster.nodes[0]
        await wait_until(lambda: node.runtime.signing is Signing.ACTIVE)
        pages = node.store._write.execute("PRAGMA page_count").fetchone()[0]
        node.store._write.execute(f"PRAGMA max_page_count = {pages}")
        await submit(cluster)
        await wait_until(node.failed.is_set)
        assert node.get_readiness() == (503, {"reason": "failed"})
        assert "database or disk is full" in caplog.text
        assert "nothing is lost" in caplog.text
        height = node.runtime.state.height
        await cluster.stop(0)
        cluster.start(0)
        assert cluster.nodes[0].runtime.state.height == height
        await submit(cluster, "another")
        await wait_until(lambda: cluster.nodes[0].runtime.state.height > height)


@pytest.mark.slow
async def test_node_that_hears_its_key_elsewhere_refuses_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        node = cluster.nodes[3]
        await go_on(cluster, "signed by all")
        stranger = sign_vote(
            Vote(70_000, 0, PRECOMMIT, NIL, node.settings.signer.public),
            node.settings.signer,
            node.network,
        )
        await node.runtime.deliver(ReceivedVote(stranger))
        for _ in range(2):
            node = cluster.nodes[3]
            await wait_until(lambda: "its key is in use elsewhere" in caplog.text)
            assert node.runtime.signing is Signing.KEY_IN_USE
            async with cluster.connect(3) as client:
                ready = await client.get("/health/ready")
                assert (ready.status_code, ready.json()["reason"]) == (503, "key-in-use")
                assert "height 70000, round 0 (precommit)" in ready.json()["detail"]
                status = (await client.get("/v1/status")).json()
                assert (status["signing"], bool(status["key_in_use"])) == ("key-in-use", True)
            caplog.clear()
            await cluster.stop(3)
            cluster.start(3)
        assert not cluster.nodes[3].failed.is_set()


@pytest.mark.slow
async def test_restored_backup_is_refused_and_rejoins_after_it_was_deleted(
    tmp_path: Path,
) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        await go_on(cluster, "before the backup")
        await cluster.stop(3)
        file = cluster.homes[3] / "chain.db"
        shutil.copy(file, tmp_path / "backup.db")
        cluster.start(3)
        await wait_until(lambda: cluster.nodes[3].runtime.signing is Signing.ACTIVE)
        await go_on(cluster, "after the backup")
        await cluster.stop(3)
        shutil.copy(tmp_path / "backup.db", file)
        cluster.start(3)
        await wait_until(lambda: cluster.nodes[3].runtime.signing is Signing.KEY_IN_USE)
        height = await go_on(cluster, "without its vote")
        assert cluster.nodes[3].runtime.state.height >= height, "it follows"
        # What the message says: delete the database.
        await cluster.stop(3)
        for each in cluster.homes[3].glob("chain.db*"):
            each.unlink()
        cluster.start(3)
        await wait_until(lambda: cluster.nodes[3].runtime.state.height >= height)
        code, body = cluster.nodes[3].get_readiness()
        assert (code, body["reason"]) == (206, "quarantine")
        assert "submit something" in str(body["detail"])
        await go_on(cluster, "seen by the wiped node")
        await wait_until(lambda: cluster.nodes[3].runtime.signing is Signing.ACTIVE)
        # And needed: without node 2 the others decide nothing unless it votes.
        await cluster.stop(2)
        height = cluster.nodes[3].runtime.state.height
        await submit(cluster, "with the vote of the wiped node")
        await wait_until(lambda: cluster.nodes[3].runtime.state.height > height + 1)
        assert cluster.nodes[3].runtime.counts["key-in-use"] == 0
