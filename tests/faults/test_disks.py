"""Disks that fill up or are lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milepost_consensus.keyguard import Signing
from tests.faults.conftest import OpenScene
from tests.faults.network import poll

pytestmark = pytest.mark.e2e

DISK_KILOBYTES = 4_096


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own, so small that a test can fill it."""
    folder.mkdir(parents=True)
    options = f"size={DISK_KILOBYTES}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "milepost-test", folder], check=True)
    try:
        yield
    finally:
        # Lazily: a process that was killed may hold files for another moment.
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk was not full")


def test_full_disk_ends_one_node_and_no_promise(open_scene: OpenScene, tmp_path: Path) -> None:
    with small_disk(tmp_path / "node-3"), open_scene(4) as (network, customer):
        customer.submit_and_see(0, *network.all)
        ballast = fill(network.homes[3])
        customer.submit_and_see(1, 0, 1, 2)
        # It cannot keep what it would sign, so it ends rather than to go on signing.
        assert network.wait_ended(3) == 1
        assert "database or disk is full" in network.read_log(3)
        customer.submit_and_see(2, 0, 1, 2)
        ballast.unlink()
        network.start(3)
        network.wait_ready(3)
        customer.submit_and_see(3, *network.all)


def test_wiped_node_catches_up(open_scene: OpenScene) -> None:
    with open_scene(4) as (network, customer):
        customer.submit_and_see(0, *network.all)
        network.kill(1)
        network.wipe(1)
        customer.lose(1)
        customer.submit_and_see(2, 0, 2, 3)
        network.start(1)
        signing = (Signing.QUARANTINE, Signing.ACTIVE)
        poll(lambda: network.get_status(1).get("signing") in signing, "node 1 knows what it lost")
        # It ends with heights decided before the node's eyes, and an idle chain decides none.
        customer.submit_and_see(2, 0, 2, 3)
        network.wait_ready(1)
        network.wait_height(network.get_height(0), 1)
        customer.submit_and_see(0, *network.all)
