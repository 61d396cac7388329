"""Lines that break, in one direction or both, and heal."""

from __future__ import annotations

import pytest

from tests.faults.conftest import OpenScene
from tests.faults.network import PORT

pytestmark = pytest.mark.e2e


def test_leader_isolated(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        leader = network.find_leader(0)
        others = [index for index in network.all if index != leader]
        network.lab.part([leader], others)
        customer.submit_and_see(others[0], *others)
        # Acknowledged by a node that can do nothing about it for now.
        customer.submit(leader)
        network.watch_standstill(leader)


def test_minority_waits_and_majority_goes_on(open_scene: OpenScene) -> None:
    with open_scene(7) as (network, customer):
        minority, majority = (0, 1), (2, 3, 4, 5, 6)
        network.lab.part(minority, majority)
        customer.submit(0)
        customer.submit_and_see(2, *majority)
        network.watch_standstill(*minority)


@pytest.mark.slow
def test_halves_wait_for_each_other(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        network.lab.part([0, 1], [2, 3])
        customer.submit(0)
        customer.submit(2)
        network.watch_standstill(*network.all)


@pytest.mark.slow
def test_bridge_carries_what_both_sides_lack(open_scene: OpenScene) -> None:
    with open_scene(7) as (network, customer):
        # Neither side and the bridge make five: votes have to come by way of node 3.
        network.lab.part([0, 1, 2], [4, 5, 6])
        customer.submit_and_see(0, *network.all)
        customer.submit_and_see(6, *network.all)


def test_node_that_hears_and_is_not_heard(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        leader = network.find_leader(0)
        others = [index for index in network.all if index != leader]
        network.lab.cut_requests([leader], others, port=PORT)
        customer.submit_and_see(others[0], *network.all)


def test_node_that_is_heard_and_does_not_hear(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        leader = network.find_leader(0)
        others = [index for index in network.all if index != leader]
        network.lab.cut_requests(others, [leader], port=PORT)
        # It fetches the blocks that nobody sends it.
        customer.submit_and_see(others[0], *network.all)


@pytest.mark.slow
def test_packets_lost_in_one_direction(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        network.lab.cut([0], [1, 2, 3])
        customer.submit_and_see(1, 1, 2, 3)
        network.lab.heal()
        network.lab.cut([1, 2, 3], [0])
        customer.submit_and_see(1, 1, 2, 3)


@pytest.mark.slow
def test_ring_whose_neighbours_alone_reach_each_other(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        network.lab.part([0], [2])
        network.lab.part([1], [3])
        customer.submit_and_see(0, *network.all)
        customer.submit_and_see(1, *network.all)
