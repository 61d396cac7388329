"""Homes from which a node does not start, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost_consensus.problems import PROBLEMS
from milepost_node.errors import NodeError, SettingsError, StoreError
from milepost_node.node import Node
from milepost_node.settings import read_settings
from milepost_node.store import Store
from tests.support.nodes import (
    Cluster,
    ScriptedRetracer,
    make_named_genesis,
    open_cluster,
    write_home,
)


async def test_home_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 1) as cluster:
        with pytest.raises(SettingsError, match="already") as caught:
            Node(read_settings(cluster.homes[0]), retracer=ScriptedRetracer())
        assert caught.value.slug == "home-in-use"
        # Stopped, it leaves the home to the next one.
        await cluster.stop(0)
        cluster.open(0)


def test_key_of_nobody_is_refused(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", make_named_genesis(4), "stranger")
    with pytest.raises(SettingsError, match="not among the 5 members") as caught:
        Node(read_settings(home), retracer=ScriptedRetracer())
    assert caught.value.slug == "not-a-member"


async def test_damaged_journal_is_refused_with_the_way_out(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    network = cluster.open(0).network
    await cluster.stop()
    store = Store(cluster.homes[0] / "chain.db", network)
    store.commit(b"rubbish", [])
    store.close()
    with pytest.raises(StoreError, match=r"Move chain\.db") as caught:
        cluster.open(0)
    assert caught.value.slug == "store-corrupt"


def test_every_kind_of_failure_is_explained() -> None:
    kinds: list[type[NodeError]] = [NodeError, *NodeError.__subclasses__()]
    assert all(kind.slug in PROBLEMS for kind in kinds)
