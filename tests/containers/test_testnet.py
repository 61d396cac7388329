"""The guide to a network in containers, command by command: `make containers`.

Tests share one network and run in their order, as the guide tells it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.containers import ROOT, provide_engine, read_sections, run

pytestmark = [pytest.mark.slow, pytest.mark.containers]

GUIDE: Final = read_sections(ROOT / "docs" / "guides" / "testnet.md")
PROJECT: Final = "milepost-test"
"""A project of its own: the guide's may be running, and ends with its volumes deleted."""
NODES: Final = ("arbutus", "birch", "cedar", "dogwood", "elm", "fir", "gorse")
MAX_IMAGE_BYTES: Final = 1_500_000_000
CATCH_UP_SECONDS: Final = 120.0


class GuidedNetwork:
    """The network that the guide starts, in a project of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where commands of the guide write on the host."""

    def run(self, command: str, *, code: int = 0) -> str:
        """One command, as if typed in the repository's folder."""
        command = command.replace("milepost_default", f"{PROJECT}_default")
        command = command.replace("milepost-elm-1", f"{PROJECT}-elm-1")
        env = {"COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_FILE": str(ROOT / "docker-compose.yml")}
        if "--file" in command:  # the second network of the guide
            env = {"COMPOSE_PROJECT_NAME": f"{PROJECT}-four"}
        return run(command, cwd=self.folder, env=env, code=code)

    def follow(self, section: str) -> list[str]:
        """What each command of a section of the guide printed."""
        return [self.run(command) for command in GUIDE[section]]

    def read_heights(self) -> dict[str, int]:
        """The height of every node that answers the submitter's container."""
        status: dict[str, Any] = json.loads(
            self.run("docker compose exec submitter milepost status --json")
        )
        return {node["node"]: node["height"] for node in status["nodes"] if "height" in node}


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuidedNetwork]:
    network = GuidedNetwork(tmp_path_factory.mktemp("testnet"))
    with provide_engine():
        try:
            network.follow("Start")
            yield network
        finally:
            network.run("docker compose unpause || true")
            network.run("docker compose down --volumes")


def test_every_container_is_confined(testnet: GuidedNetwork) -> None:
    names = testnet.run("docker compose ps --all --format '{{.Name}}'").split()
    assert len(names) == len(NODES) + 2  # the submitter, and the one that made the network
    for found in json.loads(testnet.run(f"docker inspect {' '.join(names)}")):
        assert found["Config"]["User"] == "milepost"
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
    for name in (*NODES, "submitter"):
        assert int(testnet.run(f"docker compose exec {name} id -u")) > 0
        testnet.run(f"docker compose exec {name} touch /opt/milepost/changed", code=1)


def test_a_node_sees_no_other_node_s_key(testnet: GuidedNetwork) -> None:
    keys = {testnet.run(f"docker compose exec {name} cat /node/node.key") for name in NODES}
    assert len(keys) == len(NODES)
    found = testnet.run("docker compose exec elm find / -name '*.key' || true")
    assert found.split() == ["/node/node.key"]
    mode = testnet.run("docker compose exec elm stat --format=%a /node/node.key")
    assert mode.strip() == "600"


def test_the_image_is_small(testnet: GuidedNetwork) -> None:
    size = int(testnet.run("docker image inspect milepost --format '{{.Size}}'"))
    assert size < MAX_IMAGE_BYTES


def test_a_run_is_judged_and_verified(testnet: GuidedNetwork) -> None:
    _, submitted, verified = testnet.follow("A run and its verdict")
    assert submitted.startswith("VALID ")
    assert "\nACCEPTED" in verified


def test_a_run_is_judged_while_two_nodes_are_paused(testnet: GuidedNetwork) -> None:
    _, _, submitted, _ = testnet.follow("Two nodes pause")
    assert submitted.startswith("VALID ")


def test_a_run_is_judged_without_a_node_which_then_catches_up(testnet: GuidedNetwork) -> None:
    *commands, connect, show = GUIDE["A node loses its connection"]
    *_, submitted = [testnet.run(command) for command in commands]
    assert submitted.startswith("VALID ")
    heights = testnet.read_heights()
    assert "elm" not in heights
    reached = max(heights.values())
    testnet.run(connect)
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while testnet.read_heights().get("elm", 0) < reached:
        assert time.monotonic() < deadline, testnet.read_heights()
        time.sleep(1)
    assert "elm" in testnet.run(show)


def test_the_network_is_seen_from_outside(testnet: GuidedNetwork) -> None:
    *_, status = testnet.follow("Look from outside")
    assert "arbutus" in status
    assert json.loads((testnet.folder / "network.trust").read_text())


def test_the_network_goes_on_after_a_stop(testnet: GuidedNetwork) -> None:
    before = testnet.read_heights()
    testnet.follow("Stop")
    testnet.follow("Start")
    after = testnet.read_heights()
    assert set(after) == set(NODES)
    assert min(after.values()) >= max(before.values())


def test_a_network_of_another_size_runs(testnet: GuidedNetwork) -> None:
    new, up, status, down = GUIDE["Another network"]
    try:
        testnet.run(new)
        testnet.run(up)
        shown = testnet.run(status)
        assert [name in shown for name in NODES] == [True] * 4 + [False] * 3
    finally:
        testnet.run(down + " --volumes")
