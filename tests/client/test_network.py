from __future__ import annotations

import json
import socket
import stat
import tomllib
from pathlib import Path

import pytest

from milepost import network, places
from milepost.bundle import read_trust
from milepost.errors import MilepostError, WrongUsage
from milepost.keys import read_key
from milepost_consensus.members import (
    SUBMITTER,
    VALIDATOR,
    VERIFIER,
    Genesis,
    compute_network_id,
    validate_genesis,
)
from milepost_consensus.params import Params
from milepost_consensus.views import from_view


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILEPOST_NETWORK", raising=False)
    return tmp_path / "net"


def test_a_network_folder_fits_together(folder: Path) -> None:
    homes = network.write_network(
        folder, name="n", nodes=4, malicious={3: "chaotic"}, params=Params(rule="majority")
    )
    genesis = from_view(Genesis, json.loads((folder / "genesis.json").read_text()))
    validate_genesis(genesis)
    assert [home.name for home in homes] == ["arbutus", "birch", "cedar", "dogwood"]
    for home, member in zip(homes, genesis.members, strict=False):
        assert (member.name, member.endpoint) == (home.name, home.url)
        assert member.roles == VALIDATOR | VERIFIER
        assert read_key(home.home / "node.key").public == member.id
        assert (home.home / "genesis.json").read_text() == (folder / "genesis.json").read_text()
        assert stat.S_IMODE((home.home / "node.key").stat().st_mode) == 0o600
    submitter = genesis.members[-1]
    assert (submitter.roles, submitter.endpoint) == (SUBMITTER, "")
    assert len({member.operator for member in genesis.members}) == 5
    profile = network.read_profile(folder)
    assert profile.nodes == tuple(home.url for home in homes)
    assert network.get_signer(profile).public == submitter.id
    assert profile.trust is not None
    assert read_trust(profile.trust).network_id == compute_network_id(genesis)
    assert network.read_homes(folder) == homes
    assert network.read_rule(folder) == "majority"
    assert 'behaviour = "chaotic"' in (homes[3].home / "node.toml").read_text()


def test_threads_of_single_nodes_stand_in_their_settings(folder: Path) -> None:
    homes = network.write_network(folder, name="t", nodes=3, threads={1: 2})
    found = [tomllib.loads((home.home / "node.toml").read_text())["threads"] for home in homes]
    assert found == [1, 2, 1]


def test_a_folder_that_holds_something_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(WrongUsage) as caught:
        network.write_network(folder, name="n", nodes=1)
    assert caught.value.slug == "folder-in-use"
    assert list(folder.iterdir()) == [folder / "thesis.tex"]


@pytest.mark.parametrize("nodes", [0, -1, 65])
def test_the_number_of_nodes_is_bounded(folder: Path, nodes: int) -> None:
    with pytest.raises(WrongUsage):
        network.write_network(folder, name="n", nodes=nodes)
    assert not folder.exists()


def test_names_stay_different_beyond_the_trees() -> None:
    names = {places.get_name(i) for i in range(places.MAX_NODES)}
    assert len(names) == places.MAX_NODES


def test_behaviours_go_to_the_last_nodes() -> None:
    parse = network.parse_malicious
    assert parse([], nodes=4) == {}
    assert parse(["2:chaotic"], nodes=7) == {5: "chaotic", 6: "chaotic"}
    assert parse(["1:ordered", "1:false-witness"], nodes=4) == {2: "ordered", 3: "false-witness"}


@pytest.mark.parametrize(
    "value",
    ["chaotic", "1", "x:chaotic", "1:nice", "-1:chaotic", "8:chaotic", "9999999999:ordered"],
)
def test_impossible_behaviours_are_refused(value: str) -> None:
    with pytest.raises(WrongUsage):
        network.parse_malicious([value], nodes=7)


def test_changing_a_behaviour_keeps_what_the_operator_set(folder: Path) -> None:
    homes = network.write_network(folder, name="n", nodes=2)
    file = homes[1].home / "node.toml"
    file.write_text(file.read_text() + "\n[limits]\nblob_bytes = 4096\n")
    changed = network.set_malicious(homes, {1: "ordered"})
    assert [home.behaviour for home in changed] == ["", "ordered"]
    assert network.read_homes(folder) == changed
    assert "blob_bytes = 4096" in file.read_text()
    assert network.set_malicious(changed, {}) == homes


def test_ports_are_free_and_below_the_kernel_s_own(folder: Path) -> None:
    ports = places.choose_ports(5)
    assert ports == tuple(range(ports[0], ports[0] + 5))
    assert all(port in places.PORTS for port in ports)


def test_a_taken_first_port_is_avoided() -> None:
    free = places.choose_ports(3)
    assert places.choose_ports(3, first=free[0]) == free
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free[1]))
        taken.listen()
        assert free[1] not in places.choose_ports(3, first=free[0])


def test_a_network_is_found_in_the_documented_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(place: Path, url: str) -> Path:
        place.mkdir(exist_ok=True)
        (place / "milepost.toml").write_text(f'nodes = ["{url}"]\n')
        return place

    assert network.find_profile() is None
    with pytest.raises(WrongUsage) as caught:
        network.find_network()
    assert caught.value.slug == "no-network"
    write(Path("milepost-dev"), "http://dev")
    assert network.find_network().nodes == ("http://dev",)
    write(Path(), "http://here")
    assert network.find_network().nodes == ("http://here",)
    monkeypatch.setenv("MILEPOST_NETWORK", str(write(folder, "http://env")))
    assert network.find_network().nodes == ("http://env",)
    named = write(folder.parent / "named", "http://named")
    assert network.find_network(named).nodes == ("http://named",)
    assert network.find_network(named / "milepost.toml").nodes == ("http://named",)
    assert network.find_network(named, ["http://given/"]).nodes == ("http://given",)


def test_nodes_alone_are_a_network_without_trust_or_key(folder: Path) -> None:
    profile = network.find_network(None, ["http://given"])
    assert profile == network.Profile(("http://given",), None, None, None)
    with pytest.raises(WrongUsage) as caught:
        network.get_signer(profile)
    assert caught.value.slug == "bad-key"


@pytest.mark.parametrize(
    "text", ["nodes = 7", "nodes = [7]", "trust = 1\n", "nodes = [", "\x00", "key = []"]
)
def test_an_unusable_profile_is_refused(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "milepost.toml").write_text(text)
    with pytest.raises(MilepostError) as caught:
        network.read_profile(folder)
    assert caught.value.slug == "bad-config"


def test_a_named_network_that_is_not_there_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongUsage) as caught:
        network.find_profile(folder)
    assert caught.value.slug == "no-network"
    monkeypatch.setenv("MILEPOST_NETWORK", str(folder))
    with pytest.raises(WrongUsage):
        network.find_profile()
