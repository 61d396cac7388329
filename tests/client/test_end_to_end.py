"""Real node processes, a real record, and the commands of a person in processes of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milepost import network
from milepost.api import Client, Node
from milepost.bundle import read_proof
from milepost.delivery import submit
from milepost.errors import Refused
from milepost.keys import read_key, write_key
from milepost_consensus.encoding import encode
from milepost_consensus.params import Params
from milepost_consensus.payloads import Submit
from milepost_consensus.transactions import Tx, make_tx
from milepost_ml.device import compute_device_class
from milepost_ml.files import encode_manifest
from milepost_ml.recorder import Run
from milepost_ml.snapshots import read_tensors, write_tensors
from tests.support.dev_network import DevNetwork
from tests.support.records import Spoilt, record_tiny_run, spoilt, tiny_run, tiny_submit

__all__ = ["spoilt", "tiny_run", "tiny_submit"]

pytestmark = pytest.mark.e2e

NODES = 4


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    folder = tmp_path_factory.mktemp("dev") / "net"
    with DevNetwork(folder, "--nodes", str(NODES), "--malicious", "1:chaotic") as running:
        yield running
        assert running.stop() == 0
    assert "Stopped." in running.printed


def assert_all_healthy(net: DevNetwork) -> None:
    assert [net.is_healthy(home) for home in net.homes] == [True] * NODES


def record_cheat(parent: Path) -> Path:
    """A run whose third interval (steps 8 to 11) was trained on other labels than recorded."""
    draw = np.random.default_rng(3)
    inputs = torch.from_numpy(draw.normal(size=(20, 6)).astype(np.float32))
    labels = torch.from_numpy(draw.integers(0, 3, size=20))
    torch.manual_seed(3)
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss_of = torch.nn.functional.cross_entropy
    run = Run(
        "cheat",
        model,
        optimizer,
        loss=loss_of,
        every=4,
        folder=parent,
        profile="class",
        selfcheck=False,
        quiet=True,
    )
    for step, (x, y) in enumerate(run.batches(inputs, labels, batch_size=4, steps=20)):
        loss = loss_of(model(x), (y + 1) % 3 if 8 <= step < 12 else y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    return run.finish()


# The main job ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accepted(net: DevNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the network found VALID."""
    run = record_tiny_run(tmp_path_factory.mktemp("accepted"), name="accepted", seed=11)
    done = net.run("submit", run, "--wait", "--json")
    assert done.code == 0, done.err
    view = done.json
    assert (view["verdict"], view["interval"], view["assurance"]) == ("VALID", None, "FULL")
    assert view["submission"].startswith("sub_")
    assert view["height"] > 0
    assert (view["coverage"]["intervals"], view["coverage"]["retraced"]) == (5, 5)
    assert view["checked_against_trust"] is True
    assert view["verifiers"] == NODES
    assert NODES - 1 <= view["eligible"] <= NODES  # the liar may be in jail
    assert "Decided" in done.err
    return run


def test_every_node_states_on_chain_what_its_machine_repeats(net: DevNetwork) -> None:
    mine = compute_device_class()
    nodes = net.run("status", "--json").json["nodes"]
    portable = {"exact/1", "rounded/1", "tolerance/1"}
    expected = portable | {mine, compute_device_class(autocast=True)}
    assert [set(node["serves"]) for node in nodes] == [expected] * NODES
    assert f"Retrained as {mine} by {NODES} of {NODES} nodes" in net.run("status").out


def test_an_accepted_model_verifies_offline_and_a_changed_one_does_not(
    net: DevNetwork, accepted: Path, tmp_path: Path
) -> None:
    model, trust = accepted / "model.safetensors", net.folder / "network.trust"
    done = net.run("verify", model, "--trust", trust, "--json")
    assert (done.code, done.json["verdict"]) == (0, "accepted")
    states = {check["name"]: check["state"] for check in done.json["checks"]}
    assert set(states.values()) == {"pass"}
    assert "envelope" in states
    tensors = read_tensors(model)
    name = next(name for name, array in tensors.items() if array.dtype == np.float32)
    tensors[name].flat[0] += np.float32(0.25)
    changed = tmp_path / "changed.safetensors"
    write_tensors(changed, tensors)
    proof = accepted / "model.proof.json"
    done = net.run("verify", changed, "--trust", trust, "--proof", proof)
    assert done.code == 1
    assert name in done.out
    assert "largest difference 2.5e-01" in done.out


def test_status_and_show_tell_about_it(net: DevNetwork, accepted: Path) -> None:
    proof = read_proof(accepted / "model.proof.json").bundle
    sub = f"sub_{proof.submission.id.hex()[:8]}"
    listed = net.run("status")
    assert listed.code == 0
    assert all(home.name in listed.out for home in net.homes)
    assert "chaotic" in listed.out
    assert sub in listed.out
    for command in ("status", "show"):
        done = net.run(command, sub)
        assert done.code == 0
        assert "VALID" in done.out
        assert net.run(command, sub, "--json").json["verdict"]["outcome"] == "VALID"
    height = proof.verdict.height
    block = net.run("show", str(height))
    assert f"Block {height}" in block.out
    assert "arbutus" in block.out
    assert net.run("show", "birch", "--json").json["status"]["node"] == "birch"
    shown = net.run("show", accepted)
    assert "accepted  complete" in shown.out
    assert "model.proof.json" in shown.out


def test_a_cheated_interval_is_named(net: DevNetwork, tmp_path: Path) -> None:
    done = net.run("submit", record_cheat(tmp_path), "--wait", "--json")
    assert done.code == 1, done.err
    assert (done.json["verdict"], done.json["interval"], done.json["step"]) == ("INVALID", 2, 8)
    model = next(tmp_path.glob("*/model.safetensors"))
    again = net.run("submit", model.parent)
    assert (again.code, again.out.split()[0]) == (1, "INVALID"), "still what it was"
    verified = net.run("verify", model)
    assert verified.code == 1
    assert "REJECTED" in verified.out


def test_a_record_is_judged_once(net: DevNetwork, accepted: Path, tmp_path: Path) -> None:
    again = net.run("submit", accepted, "--json")
    sub = read_proof(accepted / "model.proof.json").bundle.submission.id.hex()
    assert (again.code, again.json["verdict"]) == (0, "VALID")
    assert again.json["submission"] == f"sub_{sub}"
    copy = tmp_path / "copy"
    shutil.copytree(accepted, copy)
    (copy / "model.proof.json").unlink()
    assert net.run("submit", copy, "--wait").code == 0
    assert (copy / "model.proof.json").read_text() == (accepted / "model.proof.json").read_text()
    renamed = net.run("submit", copy, "--name", "other", "--json")
    assert (renamed.code, renamed.json["problem"]["slug"]) == (1, "duplicate")
    assert sub[:8] in renamed.json["problem"]["detail"]


def test_waiting_can_be_given_up_and_taken_up_again(net: DevNetwork, tmp_path: Path) -> None:
    run = record_tiny_run(tmp_path, name="patience", seed=12)
    first = net.run("submit", run, "--wait", "--timeout", "0", "--json")
    assert (first.code, first.json["problem"]["slug"]) == (3, "undecided-yet")
    second = net.run("submit", run, "--wait", "--json")
    assert (second.code, second.json["verdict"]) == (0, "VALID"), second.err


def test_an_interrupted_upload_goes_on(net: DevNetwork, tmp_path: Path) -> None:
    run = record_tiny_run(tmp_path, name="upload", seed=13)
    from milepost_ml.admission import build_submit

    _, manifest = build_submit(run)
    with Client([net.homes[0].url]) as client:
        node = client.node(net.homes[0].url)
        for file in manifest.files[:7]:
            node.put_blob(bytes.fromhex(file.digest), run / file.name)
    done = net.run("submit", run)
    assert done.code == 0
    assert "(7 were there already)" in done.err
    assert done.out.startswith("sub_")
    again = net.run("submit", run, "--wait", "--json")
    assert (again.code, again.json["verdict"]) == (0, "VALID"), again.err


def test_the_sdk_submits_as_the_command_does(net: DevNetwork, tmp_path: Path) -> None:
    delivery = submit(record_tiny_run(tmp_path, name="sdk", seed=14), network=net.folder, wait=True)
    assert delivery.verdict is not None
    assert delivery.verdict.outcome == "VALID"
    assert delivery.checked


# Bad input ---------------------------------------------------------------------------------------


def truncate(record: Spoilt) -> None:
    record.edit_bytes("mileposts/00002.safetensors", lambda data: data.__delitem__(slice(-9, None)))


def oversize(record: Spoilt) -> None:
    record.edit_bytes("mileposts/00002.safetensors", lambda data: data.extend(bytes(64)))


def add_tensor(record: Spoilt) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors["model.lora"] = np.zeros(3, np.float32)

    record.edit_tensors("mileposts/00002.safetensors", edit)


def put_nan(record: Spoilt) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors["model.first.weight"][0, 0] = np.nan

    record.edit_tensors("mileposts/00002.safetensors", edit)


def change_data(record: Spoilt) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors["data.1"][0] ^= 1

    record.edit_tensors("data.safetensors", edit)


def put_pickle(record: Spoilt) -> None:
    torch.save({"a": torch.zeros(1)}, record.folder / "mileposts" / "00002.safetensors")


def change_operator(record: Spoilt) -> None:
    def edit(data: bytearray) -> None:
        changed = bytes(data).replace(b'"op":"relu"', b'"op":"eval"', 1)
        assert changed != bytes(data)
        data[:] = changed

    record.edit_bytes("recipe.json", edit)


BAD_RECORDS: list[tuple[Callable[[Spoilt], None], str]] = [
    (truncate, "snapshot-broken"),
    (oversize, "snapshot-broken"),
    (add_tensor, "wrong-tensors"),
    (put_nan, "not-finite"),
    (change_data, "data-changed"),
    (put_pickle, "pickle-refused"),
    (change_operator, "unknown-operator"),
]


@pytest.mark.parametrize(("spoil", "slug"), BAD_RECORDS, ids=[slug for _, slug in BAD_RECORDS])
def test_the_command_refuses_a_bad_record_before_anything_is_sent(
    net: DevNetwork, spoilt: Spoilt, spoil: Callable[[Spoilt], None], slug: str
) -> None:
    spoil(spoilt)
    done = net.run("submit", spoilt.folder, "--wait", "--json")
    assert (done.code, done.json["problem"]["slug"]) == (1, slug)
    assert "Traceback" not in done.err
    assert_all_healthy(net)


def deliver(node: Node, record: Spoilt, claim: Submit, tx: Tx) -> None:
    """Bring a record to a node as a cheat does who skips the checks of the client."""
    from milepost_ml.files import build_manifest

    manifest = build_manifest(record.folder)
    for file in manifest.files:
        node.put_blob(bytes.fromhex(file.digest), record.folder / file.name)
    node.put_blob(claim.manifest, encode_manifest(manifest))
    node.send_transaction(encode(tx))


def sign(net: DevNetwork, claim: Submit) -> Tx:
    profile = network.read_profile(net.folder)
    with Client(profile.nodes) as client:
        status = client.status()
    return make_tx(
        claim,
        signer=network.get_signer(profile),
        valid_until=status["height"] + 100,
        network=bytes.fromhex(status["network_id"]),
    )


@pytest.mark.parametrize(("spoil", "slug"), BAD_RECORDS, ids=[slug for _, slug in BAD_RECORDS])
def test_a_node_refuses_what_a_cheat_sends_and_keeps_nothing(
    net: DevNetwork, spoilt: Spoilt, spoil: Callable[[Spoilt], None], slug: str
) -> None:
    spoil(spoilt)
    claim = spoilt.resubmit()
    with Client([home.url for home in net.homes]) as client:
        node = client.node(net.homes[1].url)
        with pytest.raises(Refused) as caught:
            deliver(node, spoilt, claim, sign(net, claim))
        assert node.missing([claim.manifest]) == {claim.manifest: 0}
    assert caught.value.slug == slug
    assert_all_healthy(net)


def test_a_wrong_signature_is_refused(net: DevNetwork, spoilt: Spoilt) -> None:
    claim = spoilt.resubmit()
    good = sign(net, claim)
    forged = Tx(good.kind, good.sender, good.valid_until, good.payload, bytes(64))
    with Client([net.homes[0].url]) as client:
        node = client.node(net.homes[0].url)
        with pytest.raises(Refused) as caught:
            deliver(node, spoilt, claim, forged)
    assert caught.value.slug == "bad-signature"
    assert_all_healthy(net)


def test_a_stranger_may_not_submit(net: DevNetwork, tmp_path: Path, spoilt: Spoilt) -> None:
    key = tmp_path / "stranger.key"
    write_key(key)
    done = net.run("submit", spoilt.folder, "--key", key, "--json")
    assert (done.code, done.json["problem"]["slug"]) == (4, "not-a-member")


def test_nodes_and_trust_of_different_networks_are_noticed(
    net: DevNetwork, tmp_path: Path, spoilt: Spoilt
) -> None:
    other = tmp_path / "other"
    network.write_network(other, name="other", nodes=1)
    read_key(other / "submitter.key")
    urls = [option for home in net.homes for option in ("--node", home.url)]
    done = net.run("submit", spoilt.folder, "--network", other, *urls, "--json")
    assert (done.code, done.json["problem"]["slug"]) == (2, "wrong-network")


# Nodes come and go -------------------------------------------------------------------------------


def test_the_client_goes_on_when_a_node_dies_and_the_chain_survives_a_restart(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "net"
    # The dead verifier's duties pass on to others when their window is over: a short one here.
    params = Params(attest_window=30, witness_window=10, idle_block_ms=500, timeout_ms=1_000)
    network.write_network(folder, name="n", nodes=NODES, params=params)
    with DevNetwork(folder) as net:
        child = net.start("submit", record_tiny_run(tmp_path, seed=15), "--wait", "--json")
        assert child.stderr is not None
        told = ""
        # Held by the others by then; a fast retracing may pass between two looks of the client.
        while not ("Retracing" in told or "Witnessing" in told):
            line = child.stderr.readline()
            assert line, told
            told += line
        assert f"taken by {net.homes[0].url}" in told
        net.kill(net.homes[0])
        net.wait_until_printed("Node arbutus ended with code -9(.|\\n)*3 nodes go on")
        out, rest = child.communicate(timeout=300)
        view = json.loads(out)
        assert (child.returncode, view["verdict"]) == (0, "VALID"), rest
        assert f"No answer    {net.homes[0].url}" in rest
        status = net.run("status", "--json").json
        assert "error" in status["nodes"][0]
        assert net.stop() == 0
    with DevNetwork(folder) as net:
        status = net.run("status", "--json").json
        assert min(node["height"] for node in status["nodes"][1:]) >= view["height"]
        shown = net.run("show", view["submission"], "--json").json
        assert shown["verdict"]["outcome"] == "VALID"
        taken = net.run("dev", "--dir", folder)
        assert taken.code == 2
        assert "network-running" in taken.err
    assert net.stop() == 0


def test_the_majority_rule_leaves_intervals_out_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    with DevNetwork(folder, "--nodes", "3", "--rule", "majority") as net:
        run = record_tiny_run(tmp_path, seed=16)
        done = net.run("submit", run, "--wait", "--json")
    assert (done.code, done.json["verdict"], done.json["assurance"]) == (0, "VALID", "SAMPLED")
    coverage = done.json["coverage"]
    assert 0 < coverage["retraced"] < coverage["intervals"] == 5
    assert coverage["detect_ppm"]["1"] == 1_000_000 * coverage["retraced"] // 5
    verify = ("verify", run / "model.safetensors", "--trust", folder / "network.trust")
    accepted = net.run(*verify)
    assert accepted.code == 0
    assert "intervals were not retraced" in accepted.out
    assert net.run(*verify, "--require", "retraced>=100%").code == 1
    other = net.run("dev", "--dir", folder, "--rule", "witness")
    assert (other.code, "[folder-in-use]" in other.err) == (2, True)


def test_a_network_that_cannot_start_says_why(tmp_path: Path) -> None:
    from tests.support.cli import run_cli

    folder = tmp_path / "net"
    homes = network.write_network(folder, name="n", nodes=1)
    (homes[0].home / "genesis.json").write_text("{}")
    done = run_cli("dev", "--dir", folder)
    assert done.code == 6
    assert "[node-died]" in done.err
    assert "genesis" in done.err
