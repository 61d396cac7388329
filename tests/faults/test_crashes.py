"""Processes that end or stand still."""

from __future__ import annotations

import pytest

from tests.faults.conftest import OpenScene
from tests.faults.history import ACKNOWLEDGED

pytestmark = pytest.mark.e2e


def test_nodes_killed_one_after_the_other(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        for index in network.all:
            assert customer.submit(index) == ACKNOWLEDGED
            network.kill(index)
            network.start(index)
            network.wait_ready(index)
