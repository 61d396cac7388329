"""Four nodes in one process: they agree, verify, overrule liars, and go on after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost_consensus.events import GossipDue
from milepost_consensus.light import load_proof, make_trust, open_envelope, verify_bundle
from milepost_consensus.submissions import RETRACING
from milepost_consensus.verdicts import FULL, INVALID, VALID, Verdict
from tests.support.ledger import make_signer
from tests.support.nodes import (
    FAST,
    Cluster,
    ScriptedRetracer,
    get_heights,
    make_upload,
    open_cluster,
    put_files,
    wait_until,
)

pytestmark = pytest.mark.slow

FAULTS = {2: 9}
"""Interval 2 does not retrace from step 9 on."""


async def submit(cluster: Cluster, name: str = "run", *, index: int = 0) -> bytes:
    """Hand a record to one node; returns the submission's id."""
    upload = make_upload(name)
    cluster.announce(upload)
    height = cluster.nodes[index].runtime.state.height
    async with cluster.connect(index) as client:
        await put_files(client, upload.files)
        answer = await client.post(
            "/v1/transactions", content=cluster.sign(upload.submit, height=height)
        )
        assert answer.status_code == 202, answer.text
        return bytes.fromhex(answer.json()["submission"])


async def wait_decided(cluster: Cluster, submission: bytes) -> Verdict:
    """The verdict once every running node has it."""
    await wait_until(
        lambda: all(submission in n.runtime.state.verdicts for n in cluster.nodes.values()),
        "a verdict on every node",
    )
    verdicts = {n.runtime.state.verdicts[submission] for n in cluster.nodes.values()}
    assert len(verdicts) == 1
    return verdicts.pop()


async def wait_level(cluster: Cluster) -> None:
    """Until all running nodes are at one height; their states are then the same."""
    nodes = list(cluster.nodes.values())
    await wait_until(lambda: len(set(get_heights(nodes))) == 1, "one height")
    assert len({node.runtime.state.last_id for node in nodes}) == 1


async def test_network_verifies_a_run_and_proves_it(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        submission = await submit(cluster)
        verdict = await wait_decided(cluster, submission)
        assert (verdict.outcome, verdict.assurance) == (VALID, FULL)
        async with cluster.connect(2) as client:
            proof = await client.get(f"/v1/submissions/{submission.hex()}/proof")
        verify_bundle(open_envelope(load_proof(proof.json())), make_trust(cluster.genesis))
        # Every node fetched all files and validated the record before it said to hold it.
        files = make_upload("run").files
        assert all(not node.blobs.get_missing(files) for node in cluster.nodes.values())
        assert all(("validate", 0) in r.asked for r in cluster.retracers.values())


async def test_nobody_retraces_an_interval_twice(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        await wait_decided(cluster, await submit(cluster))
        for retracer in cluster.retracers.values():
            work = [task for task in retracer.asked if task[0] == "retrace"]
            assert len(work) == len(set(work))


async def test_poisoned_run_is_refuted_though_one_node_lies(tmp_path: Path) -> None:
    # Two verifiers an interval: a liar that audits one alone would have its way with it.
    params = replace(FAST, auditors=2)
    cluster = Cluster(tmp_path, 4, params=params, malicious={3: "chaotic"})
    try:
        cluster.start(0, 1, 2, 3, faults=FAULTS)
        verdict = await wait_decided(cluster, await submit(cluster))
        assert verdict.outcome == INVALID
        assert [(r.interval, r.step) for r in verdict.refuted] == [(2, 9)]
        async with cluster.connect(3) as client:
            assert (await client.get("/v1/status")).json()["behaviour"] == "chaotic"
    finally:
        await cluster.stop()


@pytest.mark.parametrize("kind", ["ordered", "chaotic"])
async def test_liar_cannot_have_an_honest_run_refuted(tmp_path: Path, kind: str) -> None:
    params = replace(FAST, auditors=4)
    cluster = Cluster(tmp_path, 4, params=params, malicious={1: kind})
    try:
        cluster.start(0, 1, 2, 3)
        verdict = await wait_decided(cluster, await submit(cluster))
        assert verdict.outcome == VALID
        liar = make_signer("node-1").public
        assert verdict.overruled == ((liar,) if kind == "chaotic" else ())
    finally:
        await cluster.stop()


async def test_majority_rule(tmp_path: Path) -> None:
    params = replace(FAST, rule="majority", audit_permille=1_000, sub_quorum_size=3)
    cluster = Cluster(tmp_path, 4, params=params)
    try:
        cluster.start(0, 1, 2, 3, faults=FAULTS)
        verdict = await wait_decided(cluster, await submit(cluster))
        assert (verdict.outcome, verdict.rule) == (INVALID, "majority")
        assert [refuted.interval for refuted in verdict.refuted] == [2]
    finally:
        await cluster.stop()


async def test_one_of_four_may_be_gone_and_catches_up_later(tmp_path: Path) -> None:
    # Its duties pass to others after a few heights, its turns to propose after a short timeout.
    params = replace(FAST, attest_window=20, timeout_ms=100, timeout_step_ms=100)
    cluster = Cluster(tmp_path, 4, params=params)
    try:
        cluster.start(0, 1, 2)
        submission = await submit(cluster)
        assert (await wait_decided(cluster, submission)).outcome == VALID
        cluster.start(3)
        late = cluster.nodes[3]
        await wait_until(lambda: submission in late.runtime.state.verdicts, "the late node")
        await wait_level(cluster)
        async with cluster.connect(3) as client:
            proof = await client.get(f"/v1/submissions/{submission.hex()}/proof")
        verify_bundle(open_envelope(load_proof(proof.json())), make_trust(cluster.genesis))
    finally:
        await cluster.stop()


async def test_all_nodes_restart_in_the_middle_and_finish(tmp_path: Path) -> None:
    """State alone says what is left to do: nothing is remembered but what is on disk."""
    cluster = Cluster(tmp_path, 4)
    try:
        cluster.start(0, 1, 2, 3)
        for retracer in cluster.retracers.values():
            retracer.stall = True
        submission = await submit(cluster)
        await wait_until(
            lambda: all(
                submission in n.runtime.state.submissions
                and n.runtime.state.submissions[submission].phase == RETRACING
                for n in cluster.nodes.values()
            ),
            "retracing everywhere",
        )
        await cluster.stop()
        for index in range(4):
            cluster.open(index, ScriptedRetracer(uploads=[make_upload("run")]))
        # The chain was read from disk, every block checked again.
        assert all(submission in n.runtime.state.submissions for n in cluster.nodes.values())
        for node in cluster.nodes.values():
            node.start()
        assert (await wait_decided(cluster, submission)).outcome == VALID
        await wait_level(cluster)
    finally:
        await cluster.stop()


async def test_single_node_restarted_from_disk_has_the_same_state(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        submission = await submit(cluster)
        await wait_decided(cluster, submission)
        await wait_level(cluster)
        before = cluster.nodes[2].runtime.state
        await cluster.stop(2)
        again = cluster.open(2)
        assert (again.runtime.state.height, again.runtime.state.last_id) == (
            before.height,
            before.last_id,
        )
        assert again.runtime.state.root == before.root
        assert again.store.get_proof(submission) is not None
        again.start()
        second = await submit(cluster, "second", index=2)
        assert (await wait_decided(cluster, second)).outcome == VALID


async def test_idle_network_says_nothing_and_makes_no_blocks(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        await wait_decided(cluster, await submit(cluster))
        await wait_level(cluster)
        nodes = list(cluster.nodes.values())
        await wait_until(lambda: not any(len(node.mempool) for node in nodes))
        heights = get_heights(nodes)
        for node in nodes:
            # Two rounds of gossip: after the first, nobody lags behind any more.
            await node.runtime.deliver(GossipDue())
        posts = cluster.network.posts
        for node in nodes:
            await node.runtime.deliver(GossipDue())
        assert cluster.network.posts == posts
        assert get_heights(nodes) == heights
