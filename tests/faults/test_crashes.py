"""Processes that end or stand still."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import OpenScene
from tests.faults.network import PARAMS

pytestmark = pytest.mark.e2e

LONGER_SECONDS = 2 * PARAMS.timeout_cap_ms / 1_000
"""More than any timeout of the agreement."""


def test_nodes_killed_one_after_the_other(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        for index in network.all:
            customer.submit(index)
            network.kill(index)
            network.start(index)
            network.wait_ready(index)


def test_leader_killed(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        for _ in range(2):
            leader = network.find_leader(0)
            others = [index for index in network.all if index != leader]
            network.kill(leader)
            customer.submit_and_see(others[0], *others)
            network.start(leader)
            network.wait_ready(leader)


def test_all_killed_at_once(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        for index in network.all:
            customer.submit(index)
        for index in network.all:
            network.kill(index)
        network.start()
        network.wait_ready()
        customer.submit_and_see(0, *network.all)


def test_acknowledged_submission_survives_the_only_node_that_knows_it(
    open_scene: OpenScene,
) -> None:
    with open_scene(4) as (network, customer):
        for index in (1, 2, 3):
            network.pause(index)
        customer.submit(0)
        for index in (1, 2, 3):
            # What lies in their sockets must not count as known.
            network.kill(index)
        network.kill(0)


def test_leader_stands_still_for_longer_than_all_timeouts(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        leader = network.find_leader(0)
        others = [index for index in network.all if index != leader]
        network.pause(leader)
        begin = time.monotonic()
        customer.submit_and_see(others[0], *others)
        time.sleep(max(0.0, begin + LONGER_SECONDS - time.monotonic()))
        network.resume(leader)
        customer.submit_and_see(leader, *network.all)


@pytest.mark.slow
def test_all_stand_still_at_different_times(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        for index in network.all:
            customer.submit(index)
            for paused in network.all:
                network.pause(paused)
            time.sleep(LONGER_SECONDS / 2)
            for paused in network.all:
                network.resume(paused)
        customer.submit_and_see(0, *network.all)


def test_a_third_down_halts_and_goes_on_without_an_operator(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        customer.submit_and_see(0, *network.all)
        network.kill(2)
        network.kill(3)
        customer.submit(0)
        network.watch_standstill(0, 1)
        network.start(2)
        # Three of four again: this is enough, the fourth comes later.
        customer.submit_and_see(1, 0, 1, 2)


@pytest.mark.slow
def test_more_than_a_third_of_seven_down(open_scene: OpenScene) -> None:
    with open_scene(7) as (network, customer):
        network.kill(5)
        network.kill(6)
        customer.submit_and_see(0, *range(5))
        network.kill(4)
        customer.submit(1)
        network.watch_standstill(0, 1, 2, 3)
        network.start(4)
        customer.submit_and_see(2, *range(5))


@pytest.mark.slow
def test_rolling_restart(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        for index in network.all:
            network.stop(index)
            other = (index + 1) % 4
            customer.submit_and_see(other, *(each for each in network.all if each != index))
            network.start(index)
            network.wait_ready(index)
