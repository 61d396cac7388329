"""A validator that lies to those who catch up."""

from __future__ import annotations

import pytest

from tests.faults.conftest import OpenScene
from tests.faults.liar import Liar
from tests.faults.network import poll

pytestmark = pytest.mark.e2e


def test_node_catches_up_though_a_peer_lies_to_it(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        network.kill(2)
        customer.submit_and_see(0, 0, 1, 3)
        customer.submit_and_see(1, 0, 1, 3)
        network.kill(3)
        with Liar(network, 3, network.fetch_chain(0)) as liar:
            network.start(2)
            network.wait_ready(2)
            customer.submit_and_see(2, 0, 1, 2)

            def is_noticed() -> bool:
                return any("not asked for blocks" in network.read_log(index) for index in (0, 1, 2))

            poll(is_noticed, "lies are noticed")
            assert liar.told > 2
