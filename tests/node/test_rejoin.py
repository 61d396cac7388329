"""A node that lost its disk comes back with its key and nothing else, while the chain goes on."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from milepost_consensus.encoding import decode
from milepost_consensus.keyguard import Signing
from milepost_consensus.transactions import Tx
from milepost_node.peers import HEIGHT_HEADER
from milepost_node.sync import PAGE_BLOCKS
from tests.support.ledger import make_record
from tests.support.nodes import FAST, Cluster, get_heights, wait_until

pytestmark = pytest.mark.slow

PARAMS = replace(FAST, timeout_ms=100, timeout_step_ms=100)


def anchor(cluster: Cluster, name: str) -> None:
    """Have a run anchored whose files nobody has: blocks follow until its window is over."""
    node = cluster.nodes[0]
    height = node.runtime.state.height
    node.admission.send(decode(Tx, cluster.sign(make_record(name).submit, height=height)))


async def wait_height(cluster: Cluster, height: int, *indices: int) -> None:
    """Until these nodes are at a height or beyond."""
    nodes = [cluster.nodes[index] for index in indices]
    await wait_until(lambda: min(get_heights(nodes)) >= height, f"height {height} at {indices}")


def wipe(home: Path) -> None:
    """What a new disk holds: the settings, the key and the genesis that were kept elsewhere."""
    for file in home.glob("chain.db*"):
        file.unlink()


class Liar(httpx.AsyncBaseTransport):
    """Stands in for a node: takes everything, is always far ahead, and serves what it likes."""

    def __init__(self, page: bytes) -> None:
        self._page = page
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/peer/blocks":
            return httpx.Response(204)
        self.asked += 1
        # As a stream: the node reads the bytes as they come.
        return httpx.Response(
            200, stream=httpx.ByteStream(self._page), headers={HEIGHT_HEADER: str(10**9)}
        )


async def test_wiped_node_gets_the_chain_and_votes_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 4, params=PARAMS)
    try:
        cluster.start(0, 1, 2, 3)
        anchor(cluster, "before")
        await wait_height(cluster, 4, 0, 1, 2, 3)
        await cluster.stop(3)
        wipe(cluster.homes[3])
        far = cluster.nodes[0].runtime.state.height + PAGE_BLOCKS + 1
        await wait_height(cluster, far, 0, 1, 2)
        cluster.start(3)
        assert cluster.nodes[3].runtime.state.height == 0
        await wait_height(cluster, far, 3)
        # It signs again once it heard two heights of the others being decided.
        node = cluster.nodes[3]
        await wait_until(lambda: node.runtime.signing is Signing.ACTIVE, "the end of quarantine")
        # Without node 0 nothing is final unless the one that was wiped votes.
        await cluster.stop(0)
        here = max(get_heights(cluster.nodes.values()))
        await wait_height(cluster, here + 10, 1, 2, 3)
        here, last_id = (
            cluster.nodes[3].runtime.state.height,
            cluster.nodes[3].runtime.state.last_id,
        )
        await cluster.stop(3)
        stored = cluster.open(3).store.get_block(here)
        assert stored is not None
        assert stored.id == last_id
    finally:
        await cluster.stop()


@pytest.mark.parametrize("page", [b"\x90", b"rubbish", msgspec.msgpack.encode([(b"x", b"y")])])
async def test_wiped_node_gets_the_chain_in_spite_of_a_liar(tmp_path: Path, page: bytes) -> None:
    cluster = Cluster(tmp_path, 4, params=PARAMS)
    try:
        cluster.start(0, 1)
        liar = Liar(page)
        cluster.network.nodes["node-2"] = liar  # type: ignore[assignment]
        cluster.start(3)
        anchor(cluster, "run")
        await wait_height(cluster, 10, 0, 1, 3)
        await cluster.stop(3)
        wipe(cluster.homes[3])
        cluster.start(3)
        await wait_height(cluster, 10, 3)
        node = cluster.nodes[3]
        await wait_until(lambda: not node.sync.syncing, "level")
        assert liar.asked
        body = (await cluster.connect(3).get("/health/ready")).content
        # With a liar and a wiped node of four the others cannot go on, so its quarantine lasts.
        assert json.loads(body)["reason"] == "quarantine"
    finally:
        await cluster.stop()
