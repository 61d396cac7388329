"""Nodes of two networks, of two genesis files, of two releases: each is told what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost_consensus.members import Genesis, compute_network_id
from milepost_consensus.views import to_view
from milepost_node.handshake import Identity
from tests.support.nodes import Cluster, open_cluster, wait_until

OWN = Identity("prod", b"\x0a" * 32)


def refuse(name: object, network: object, protocol: object) -> bytes:
    return json.dumps({"network": name, "network_id": network, "protocol": protocol}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (refuse("staging", "bb" * 32, 1), "network staging (genesis bbbbbbbbbbbbbbbb), this node"),
        (refuse("prod", "bb" * 32, 1), "called prod too, but has genesis bbbbbbbbbbbbbbbb, not 0a"),
        (refuse("prod", "0a" * 32, 2), "protocol 2, this node 1. Run the same release"),
        (refuse("x\nERROR", "b", 1), "network 'x\\nERROR'"),
        (refuse(["x"] * 99, None, {}), "network ['x'"),
        (b"no", "does not say"),
        (b"[" * 9_000, "does not say"),
        (b"[]", "does not say"),
        (b'{"network": "x"}', "does not say"),
    ],
)
def test_a_refusal_is_put_into_words(body: bytes, words: str) -> None:
    text = OWN.describe_refusal(body)
    assert words in text
    assert text.isprintable()
    assert len(text) < 500


async def meet_stranger(
    cluster: Cluster, other: Genesis, caplog: pytest.LogCaptureFixture
) -> tuple[str, str]:
    """Start node 1 with another genesis; what nodes 0 and 1 then say of each other."""
    (cluster.homes[1] / "genesis.json").write_text(json.dumps(to_view(other)))
    cluster.start(0, 1)
    said = []
    for index, peer in ((0, "node-1"), (1, "node-0")):
        node = cluster.nodes[index]
        await wait_until(lambda node=node: any(each.stranger for each in node.peers.all))  # type: ignore[misc]
        async with cluster.connect(index) as client:
            ready = await client.get("/health/ready")
            listed = (await client.get("/v1/peers")).json()["peers"]
        assert ready.status_code == 503
        [(name, text)] = ready.json()["strangers"].items()
        assert name == peer
        [shown] = [each for each in listed if each["name"] == peer]
        assert not shown["reachable"]
        assert text in shown["trouble"]
        assert any(text in getattr(record, "reason", "") for record in caplog.records)
        said.append(text)
    return said[0], said[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["staging", "test"])
async def test_both_sides_of_a_wrong_genesis_name_both_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    cluster = Cluster(tmp_path, 2)
    other = replace(cluster.genesis, network=name, time_ms=cluster.genesis.time_ms + 1)
    try:
        said = await meet_stranger(cluster, other, caplog)
    finally:
        await cluster.stop()
    ours = compute_network_id(cluster.genesis).hex()[:16]
    theirs = compute_network_id(other).hex()[:16]
    for text in said:
        assert "genesis.json" in text
    if name == "test":
        assert f"called test too, but has genesis {theirs}, not {ours}" in said[0]
        assert f"called test too, but has genesis {ours}, not {theirs}" in said[1]
    else:
        assert f"network staging (genesis {theirs}), this node of test (genesis {ours})" in said[0]
        assert f"network test (genesis {ours}), this node of staging (genesis {theirs})" in said[1]


async def test_another_release_is_named_as_such(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 2, start=False) as cluster:
        node = cluster.nodes[0]
        await cluster.stop(1)
        cluster.start(1)
        [peer] = node.peers.all
        peer._own = node.identity._replace(protocol=2)
        peer._headers = peer._own.make_headers()
        await node.sync.catch_up()
        assert peer.stranger == (
            "it speaks protocol 1, this node 2. Run the same release of milepost on both."
        )
        assert cluster.nodes[1].runtime.counts["wrong-protocol"] > 0


@pytest.mark.slow
async def test_peers_are_listed_with_height_and_last_contact(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster, cluster.connect() as client:
        node = cluster.nodes[0]
        await wait_until(lambda: node.peers.reachable_count == 3)
        await wait_until(lambda: node.runtime.state.height > 1)
        await node.sync.catch_up()
        listed = (await client.get("/v1/peers")).json()["peers"]
        assert {each["name"] for each in listed} == {"node-1", "node-2", "node-3"}
        for each in listed:
            assert each["reachable"]
            assert not each["trouble"]
            assert each["height"] > 0
            assert 0 <= each["answered_seconds_ago"] < 60
            assert each["dropped"] == 0
        assert (await client.get("/health/ready")).json().keys() == {"reason"}
