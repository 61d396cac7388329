"""`/metrics`: the documented families and no others, with the values of ledger and events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.submissions import DECIDED
from milepost_consensus.votes import NIL, PRECOMMIT, Vote, sign_vote
from milepost_node.jobs import Retrace
from tests.support.ledger import make_signer
from tests.support.nodes import (
    Cluster,
    ScriptedRetracer,
    make_upload,
    open_cluster,
    put_files,
    wait_until,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
ROW = re.compile(r"^\| `((?:milepost|process)_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def read(client: httpx.AsyncClient) -> tuple[dict[str, str], Samples]:
    """Types by the name of the family as it is exposed, and values by name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", answer.text, re.MULTILINE))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    return {name: kind for name, kind in types.items() if not name.endswith("_created")}, samples


async def judge(cluster: Cluster, name: str, *, poisoned: bool) -> None:
    """Submit a record and wait for its verdict."""
    upload = make_upload(name)
    cluster.announce(upload)
    node = cluster.nodes[0]
    for retracer in cluster.retracers.values():
        retracer.faults = {0: 1} if poisoned else {}
    count = len(node.runtime.state.verdicts)
    async with cluster.connect() as client:
        await put_files(client, upload.files)
        tx = cluster.sign(upload.submit, height=node.runtime.state.height)
        answer = await client.post("/v1/transactions", content=tx)
        assert answer.status_code == 202, answer.text
    await wait_until(lambda: len(node.runtime.state.verdicts) > count, "a verdict")


@pytest.mark.slow
async def test_every_metric_is_documented_and_every_documented_one_is_there(
    tmp_path: Path,
) -> None:
    documented = {name: (kind, labels) for name, kind, labels in ROW.findall(DOCUMENT.read_text())}
    async with open_cluster(tmp_path, 4) as cluster, cluster.connect() as client:
        await judge(cluster, "run", poisoned=False)
        cluster.nodes[0].runtime.counts["bad-vote"] += 1
        cluster.nodes[0].metrics.on_equivocation(_vote(cluster, "node-1"))
        types, samples = await read(client)
        assert types == {name: kind for name, (kind, _) in documented.items()}
        shown: dict[str, set[str]] = {name: set() for name in types}
        for name, labels in samples:
            base = name if name in types else re.sub(r"_(bucket|sum|count|created)$", "", name)
            if base in types:
                shown[base] |= {key for key, _ in labels} - {"le"}
        for name, (_, labels) in documented.items():
            assert shown[name] <= set(re.findall(r"`(\w+)`", labels)), name
            assert shown[name] or not labels.strip() or name == "milepost_open_submissions"


def _vote(cluster: Cluster, name: str) -> Vote:
    signer = make_signer(name)
    vote = Vote(1, 0, PRECOMMIT, NIL, signer.public)
    return sign_vote(vote, signer, cluster.nodes[0].network)


@pytest.mark.slow
async def test_values_are_those_of_the_ledger_and_survive_a_restart(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 1) as cluster:
        await judge(cluster, "honest", poisoned=False)
        await judge(cluster, "poisoned", poisoned=True)
        for _ in range(2):
            node = cluster.nodes[0]
            async with cluster.connect() as client:
                _, samples = await read(client)
            state = node.runtime.state
            get = samples.__getitem__
            assert get(("milepost_chain_height", ())) == state.height
            assert get(("milepost_verdicts_total", (("verdict", "VALID"),))) == 1
            assert get(("milepost_verdicts_total", (("verdict", "INVALID"),))) == 1
            assert get(("milepost_verdicts_total", (("verdict", "UNDECIDED"),))) == 0
            duties = [
                duty.answer or "open"
                for each in state.submissions.values()
                for duty in each.duties
                if each.phase == DECIDED
            ]
            assert duties.count("agrees") > 0 < duties.count("differs")
            for result in ("agrees", "differs", "missed", "lazy", "open"):
                key = ("milepost_votes_total", (("result", result),))
                assert get(key) == duties.count(result), result
            assert get(("milepost_votes_overruled_total", ())) == sum(
                len(verdict.overruled) for verdict in state.verdicts.values()
            )
            assert get(("milepost_mempool_transactions", ())) == len(node.mempool)
            assert get(("milepost_blobs_bytes", ())) == node.blobs.used_bytes > 0
            assert get(("milepost_retrace_queue", ())) == 0
            await cluster.stop(0)
            cluster.start(0)


@pytest.mark.slow
async def test_what_happens_is_counted_where_it_happens(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 1) as cluster, cluster.connect() as client:
        node = cluster.nodes[0]
        await judge(cluster, "run", poisoned=False)
        _, samples = await read(client)
        retraced = [asked for asked in cluster.retracers[0].asked if asked[0] == "retrace"]
        key = ("milepost_retrace_seconds_count", (("device", "rounded/1"),))
        assert samples[key] == len(retraced) > 0
        # The first block has no block before it.
        intervals = samples["milepost_block_interval_seconds_count", ()]
        assert 0 < intervals <= node.runtime.state.height - 1
        found = Retrace(True, 0, b"", (), b"", ZERO_DIGEST, "", b"", 2_000_000, 1_500)
        exact, tolerant = make_upload("one").submit, make_upload("two", tolerance_ppb=10**7).submit
        node.metrics.on_retraced(exact, found)
        node.metrics.on_retraced(tolerant, found)
        node.metrics.on_equivocation(_vote(cluster, "node-0"))
        node.metrics.on_equivocation(_vote(cluster, "stranger"))
        _, samples = await read(client)
        assert samples["milepost_retrace_distance_ratio_sum", ()] == pytest.approx(0.002)
        assert samples["milepost_retrace_distance_ratio_count", ()] == 1
        stranger = make_signer("stranger").public.hex()[:16]
        for name in ("node-0", stranger):
            assert samples["milepost_equivocations_total", (("node", name),)] == 1


@pytest.mark.slow
async def test_a_node_that_waits_and_misses_others_says_so(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4, start=False) as cluster, cluster.connect() as client:
        node = cluster.nodes[0]
        _, samples = await read(client)
        assert samples["milepost_ready", ()] == 0
        assert samples["milepost_validators", (("state", "unreachable"),)] == 3
        assert samples["milepost_signing", (("state", "listening"),)] == 1
        assert samples["milepost_peer_reachable", (("peer", "node-3"),)] == 0
        assert samples["milepost_peers", (("state", "unreachable"),)] == 3
        upload = make_upload()
        for index in range(4):
            cluster.retracers[index] = stalling = ScriptedRetracer(stall=True)
            await cluster.stop(index)
            cluster.open(index, stalling).start()
        cluster.announce(upload)
        await put_files(client, upload.files)
        await client.post("/v1/transactions", content=cluster.sign(upload.submit))
        nodes = cluster.nodes.values()
        await wait_until(lambda: any(each.verifier.count_waiting() for each in nodes))
        busy = next(index for index, each in cluster.nodes.items() if each.verifier.count_waiting())
        async with cluster.connect(busy) as other:
            _, samples = await read(other)
        node = cluster.nodes[busy]
        assert samples["milepost_retrace_queue", ()] == node.verifier.count_waiting() > 0
        assert samples["milepost_open_submissions", (("phase", "retracing"),)] == 1
        assert samples["milepost_signing", (("state", "active"),)] == 1


def test_labels_of_a_document_row_are_found() -> None:
    """The test above would pass with an empty table."""

    def rows() -> Iterator[str]:
        for name, kind, _ in ROW.findall(DOCUMENT.read_text()):
            yield f"{name} {kind}"

    assert "milepost_chain_height gauge" in set(rows())
