"""A fifth validator is taken in while the network runs, takes part, and one of the first leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost_consensus.encoding import encode
from milepost_consensus.governance import sign_update
from milepost_consensus.light import load_proof, make_trust, open_envelope, verify_bundle
from milepost_consensus.members import Member
from milepost_consensus.payloads import MemberUpdate
from milepost_consensus.submissions import RETRACING
from milepost_consensus.transactions import make_tx
from milepost_consensus.verdicts import VALID
from milepost_node.errors import SettingsError
from milepost_node.node import Node
from tests.consensus.test_governance import make_member
from tests.node.test_cluster import submit, wait_decided, wait_level
from tests.support.ledger import make_signer
from tests.support.nodes import Cluster, open_cluster, wait_until, write_home

pytestmark = pytest.mark.slow

NEW = make_signer("node-4")


def add_home(cluster: Cluster, folder: Path, *, joining: bool) -> None:
    """A home for node 4, whose key the genesis does not know."""
    home = write_home(folder / "node-4", cluster.genesis, "node-4")
    if joining:
        with (home / "node.toml").open("a") as file:
            file.write("joining = true\n")
    cluster.homes.append(home)


async def update(cluster: Cluster, member: Member) -> None:
    """The founders approve a change, node 0 is handed it, and all wait until it holds."""
    state = cluster.nodes[0].runtime.state
    bare = MemberUpdate((member,), state.height + 20)
    signers = [make_signer(f"node-{i}") for i in range(4)]
    tx = make_tx(
        sign_update(bare, signers, state.network),
        signer=signers[0],
        valid_until=state.height + 10,
        network=state.network,
    )
    async with cluster.connect(0) as client:
        answer = await client.post("/v1/transactions", content=encode(tx))
        assert answer.status_code == 202, answer.text
    await submit(cluster, f"for blocks until {member.name} has roles {member.roles}")
    await wait_until(
        lambda: all(
            node.runtime.state.members.get(member.id) == member for node in cluster.nodes.values()
        ),
        "the change on every node",
    )


async def test_a_validator_joins_and_another_leaves(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        await wait_decided(cluster, await submit(cluster, "first"))
        add_home(cluster, tmp_path, joining=True)
        cluster.start(4)
        member = replace(make_member("node-4"), endpoint="http://node-4")
        await update(cluster, member)
        assert all(len(cluster.nodes[i].peers.all) == 4 for i in range(5))
        verdict = await wait_decided(cluster, await submit(cluster, "second", index=4))
        assert verdict.outcome == VALID
        await wait_level(cluster)
        leaving = cluster.nodes[0].runtime.state.members[make_signer("node-3").public]
        await update(cluster, replace(leaving, roles=0))
        assert all(len(cluster.nodes[i].peers.all) == 3 for i in (0, 1, 2, 4))
        await cluster.stop(3)
        third = await submit(cluster, "third", index=4)
        assert (await wait_decided(cluster, third)).outcome == VALID
        async with cluster.connect(4) as client:
            proof = (await client.get(f"/v1/submissions/{third.hex()}/proof")).json()
        bundle = open_envelope(load_proof(proof))
        assert len(bundle.handovers) == 2
        checks = verify_bundle(bundle, make_trust(cluster.genesis))
        assert "of 4 validators, 2 changes later" in checks[0].detail
        # With another founder down, blocks and holds need the newcomer.
        await cluster.stop(2)
        fourth = await submit(cluster, "fourth", index=1)

        def is_elected(node: Node) -> bool:
            submission = node.runtime.state.submissions.get(fourth)
            return submission is not None and submission.phase == RETRACING

        await wait_until(
            lambda: all(map(is_elected, cluster.nodes.values())),
            "an election without two of the founders",
        )


async def test_a_strange_key_follows_only_if_it_is_told_to(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4) as cluster:
        await wait_decided(cluster, await submit(cluster))
        add_home(cluster, tmp_path, joining=False)
        with pytest.raises(SettingsError, match="joining = true") as caught:
            cluster.open(4)
        assert caught.value.slug == "not-a-member"
        with (cluster.homes[4] / "node.toml").open("a") as file:
            file.write("joining = true\n")
        cluster.start(4)
        await wait_level(cluster)
        async with cluster.connect(4) as client:
            status = (await client.get("/v1/status")).json()
        assert status["signing"] == "no-validator"
        assert status["key"] == NEW.public.hex()
