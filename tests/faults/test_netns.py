"""The lab itself: what is cut is cut, in the direction that was asked for, and heals."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.netns import Lab

pytestmark = pytest.mark.e2e

PORT = 7101
SECONDS = 0.5


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two machines, both listening."""
    with Lab(2) as made:
        listening = [
            made.run_at(i, partial(socket.create_server, (made.addresses[i], PORT)))
            for i in range(2)
        ]
        yield made
        for each in listening:
            each.close()


def can_connect(lab: Lab, source: int, target: int) -> bool:
    def connect() -> bool:
        try:
            socket.create_connection((lab.addresses[target], PORT), SECONDS).close()
        except TimeoutError:
            return False
        return True

    return lab.run_at(source, connect)


def test_requests_are_cut_in_one_direction(lab: Lab) -> None:
    assert can_connect(lab, 0, 1)
    lab.cut_requests([0], [1], port=PORT)
    assert not can_connect(lab, 0, 1)
    assert can_connect(lab, 1, 0)
    lab.heal()
    assert can_connect(lab, 0, 1)


def test_nothing_is_connected_where_one_direction_is_lost(lab: Lab) -> None:
    lab.cut([0], [1])
    assert not can_connect(lab, 0, 1)
    assert not can_connect(lab, 1, 0)
    lab.heal()
    assert can_connect(lab, 1, 0)


def test_parted_machines_are_still_seen_from_the_router(lab: Lab) -> None:
    lab.part([0], [1])
    assert not can_connect(lab, 1, 0)
    address = (lab.addresses[0], PORT)
    lab.run(socket.create_connection, address, SECONDS).result().close()


def test_commands_run_on_their_machine(lab: Lab) -> None:
    shown = subprocess.run(
        lab.wrap(1, ["ip", "-o", "addr", "show", "dev", "eth0"]),
        check=True,
        capture_output=True,
        text=True,
    )
    assert lab.addresses[1] in shown.stdout
    assert lab.addresses[0] not in shown.stdout
