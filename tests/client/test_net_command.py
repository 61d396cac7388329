from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from milepost import compose, network, places
from milepost.bundle import compute_fingerprint, read_trust
from milepost.errors import WrongUsage
from milepost.keys import read_key
from milepost_consensus.params import Params
from tests.support.cli import run_cli

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "four"


def write(folder: Path, *, nodes: int) -> None:
    """What `milepost net new` writes, without its process."""
    compose.write_containers(folder, name="n", nodes=nodes, malicious={}, params=Params())


def test_a_network_for_containers_is_reached_from_inside_and_outside(folder: Path) -> None:
    done = run_cli("net", "new", folder, "--nodes", "4", "--malicious", "1:chaotic")
    assert done.code == 0, done.err
    assert "chaotic" in done.out
    genesis = network.read_genesis(folder)
    *nodes, submitter = genesis.members
    assert genesis.network == "four"
    assert [node.endpoint for node in nodes] == [f"http://{node.name}:8421" for node in nodes]
    outside = network.read_profile(folder)
    assert outside.nodes == tuple(f"http://127.0.0.1:{8421 + i}" for i in range(4))
    inside = network.read_profile(folder / "submitter")
    assert inside.nodes == tuple(node.endpoint for node in nodes)
    for profile in (outside, inside):
        assert network.get_signer(profile).public == submitter.id
        assert profile.trust is not None
        assert read_trust(profile.trust) == read_trust(folder / "network.trust")
    behaviours = [
        'behaviour = "chaotic"' in (folder / f"node-{node.name}" / "node.toml").read_text()
        for node in nodes
    ]
    assert behaviours == [False, False, False, True]


def test_keys_are_for_the_containers_user_alone(folder: Path) -> None:
    write(folder, nodes=2)
    keys = sorted(folder.rglob("*.key"))
    assert [key.name for key in keys] == ["node.key", "node.key", "submitter.key"]
    assert len({key.read_text() for key in keys}) == 3
    user = os.getuid() or compose.USER
    assert f'user: "{user}:{user}"' in (folder / "compose.yaml").read_text()
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.stat().st_uid == key.parent.stat().st_uid == user
    assert (folder / "runs").stat().st_uid == user


def test_a_node_is_a_service_with_its_port_and_its_gpu(folder: Path) -> None:
    done = run_cli("net", "new", folder, "--nodes", "2", "--gpu", "3", "--port", "9000")
    assert done.code == 0, done.err
    text = (folder / "compose.yaml").read_text()
    _, first, second = text.split("    restart:")
    assert '"127.0.0.1:9000:8421"' in first
    assert "./node-arbutus:/node" in first
    assert 'device_ids: ["3"]' in first
    assert '"127.0.0.1:9001:8421"' in second
    assert "./node-birch:/node" in second
    assert "device_ids" not in second
    targets = json.loads((folder / "monitoring" / "targets.json").read_text())
    assert targets == [{"targets": ["arbutus:8421", "birch:8421"]}]


def test_nodes_on_machines_with_names(folder: Path) -> None:
    done = run_cli(
        "net", "new", folder, "--host", "one.example", "--host", "two.example:9", "--name", "acme"
    )
    assert done.code == 0, done.err
    genesis = network.read_genesis(folder)
    urls = ("http://one.example:8421", "http://two.example:9")
    assert (genesis.network, genesis.params) == ("acme", Params())
    assert tuple(member.endpoint for member in genesis.members[:2]) == urls
    assert network.read_profile(folder).nodes == urls
    assert "port = 9\n" in (folder / "node-birch" / "node.toml").read_text()
    assert read_key(folder / "submitter.key").public == genesis.members[2].id
    assert not (folder / "compose.yaml").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "0"], "--nodes 0"),
        (["--nodes", "65"], "--nodes 65"),
        (["--nodes", "3", "--host", "one"], "name one for every node"),
        (["--host", "one:99999"], "--host one:99999"),
        (["--host", "http://one"], "--host http://one"),
        (["--host", "one", "--host", "one:8421"], "same --host"),
        (["--host", "one", "--gpu", "0"], "--gpu"),
        (["--gpu", "0,0"], "--gpu 0,0"),
        (["--gpu", "all"], "--gpu all"),
        (["--nodes", "1", "--gpu", "0,1"], "--gpu 0,1"),
        (["--port", "65535"], "--port 65535"),
        (["--malicious", "8:chaotic"], "8 nodes shall misbehave"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    folder: Path, options: list[str], said: str
) -> None:
    done = run_cli("net", "new", folder, *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not folder.exists()


def test_a_folder_in_use_is_left_alone(folder: Path) -> None:
    write(folder, nodes=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = run_cli("net", "new", folder, "--nodes", "1")
    assert again.code == 2
    assert "[folder-in-use]" in again.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nodes_in_containers_are_no_processes_of_dev(folder: Path) -> None:
    write(folder, nodes=2)
    with pytest.raises(WrongUsage) as caught:
        network.read_homes(folder)
    assert caught.value.slug == "folder-in-use"


def test_the_trust_file_of_a_folder_or_a_home(folder: Path, tmp_path: Path) -> None:
    write(folder, nodes=2)
    written = read_trust(folder / "network.trust")
    printed = run_cli("net", "trust", folder)
    assert printed.json == json.loads((folder / "network.trust").read_text())
    assert compute_fingerprint(written) in printed.err
    copy = tmp_path / "copy.trust"
    assert run_cli("net", "trust", folder / "node-birch", "--out", copy).code == 0
    assert read_trust(copy) == written


def test_a_trust_file_replaces_nothing_and_needs_a_genesis(folder: Path, tmp_path: Path) -> None:
    write(folder, nodes=1)
    file = folder / "network.trust"
    before = file.read_bytes()
    assert run_cli("net", "trust", folder, "--out", file).code == 2
    assert file.read_bytes() == before
    assert run_cli("net", "trust", tmp_path).code == 2


def test_the_repository_s_compose_file_is_what_the_module_writes() -> None:
    """After a change: python -c "from milepost.compose import *; print(render_repository_project(),
    end='')" > docker-compose.yml"""
    assert (ROOT / "docker-compose.yml").read_text() == compose.render_repository_project()


def test_only_one_service_builds_the_image() -> None:
    text = compose.render_repository_project()
    assert text.count("build:") == 1
    names = [place.name for place in places.make_container_places(compose.REPOSITORY_NODES)]
    assert all(f"subpath: node-{name}}}" in text for name in names)
