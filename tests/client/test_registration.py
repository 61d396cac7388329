"""From registration to FULL+REGISTERED on a real network, with a child, grinding and a cheat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import milepost
from milepost import network
from milepost.api import Client
from milepost.bundle import read_proof
from milepost.errors import WrongUsage
from milepost_ml.files import MODEL, get_snapshot_name
from milepost_ml.snapshots import read_tensors, write_tensors
from tests.support.dev_network import DevNetwork
from tests.support.models import make_model, make_task

pytestmark = pytest.mark.e2e

STEPS = 12


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    with DevNetwork(tmp_path_factory.mktemp("dev") / "net", "--nodes", "4") as running:
        yield running


def train(net: DevNetwork, folder: Path, *, rate: float = 0.1, stop: int = STEPS, **o: Any) -> Path:
    """A script as a person writes it; with `stop`, interrupted before that step."""
    task = make_task("mlp")
    model = make_model(task)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    run = milepost.Run(
        "child" if "parent" in o else "first",
        model,
        optimizer,
        loss=task.loss,
        every=5,
        folder=folder,
        register=net.folder,
        selfcheck=False,
        **o,
    )
    batches = run.batches(task.inputs, task.targets, batch_size=8, steps=STEPS)
    for step, (x, y) in enumerate(batches):
        if step == stop:
            break
        loss = task.loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    return run.finish()


def read_registration(run: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((run / "run.json").read_text())
    registration: dict[str, Any] = about["registration"]
    return registration | {"seed": about["seed"]}


@pytest.fixture(scope="module")
def first(net: DevNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered run that is VALID."""
    folder = tmp_path_factory.mktemp("runs")
    # The first attempt is interrupted; the second goes on with its registration and its seed.
    broken = train(net, folder, stop=7)
    run = train(net, folder)
    assert read_registration(broken) == read_registration(run)
    done = net.run("submit", run, "--wait", "--json")
    assert done.code == 0, done.err
    assert (done.json["verdict"], done.json["assurance"]) == ("VALID", "FULL+REGISTERED")
    return run


def test_a_run_that_ended_early_is_refused_before_the_upload(
    net: DevNetwork, first: Path, tmp_path: Path
) -> None:
    broken = train(net, tmp_path, rate=0.2, stop=7)
    done = net.run("submit", broken)
    assert done.code == 1
    assert "[not-registered-recipe]" in done.err
    assert "Uploading" not in done.err
    done = net.run("submit", broken, "--unregistered", "--wait", "--json")
    assert (done.code, done.json["assurance"]) == (0, "FULL")


def test_verify_shows_the_registration_offline(net: DevNetwork, first: Path) -> None:
    done = net.run("verify", first / "model.safetensors", "--json")
    assert done.code == 0, done.err
    registration = done.json["subject"]["origin"]["registration"]
    assert registration["number"] == 1
    assert registration["seed"] == read_registration(first)["seed"]
    text = net.run("verify", first / "model.safetensors").out
    assert "✓ origin      registration 1 of this submitter, at height" in text
    assert "assurance FULL+REGISTERED" in text
    assert "order and initial weights" not in text


def test_a_child_shows_its_parent_on_and_off_the_chain(
    net: DevNetwork, first: Path, tmp_path: Path
) -> None:
    child = train(net, tmp_path, parent=first)
    done = net.run("submit", child, "--wait", "--json")
    assert (done.code, done.json["assurance"]) == (0, "FULL+REGISTERED"), done.err
    parent = read_proof(first / "model.proof.json").bundle.verdict.submission.hex()
    shown = net.run("show", done.json["submission"][:12])
    assert f"parent sub_{parent[:8]} of submitter: VALID, assurance FULL+REGISTERED" in shown.out
    assert "of this submitter, at height" in shown.out
    view = net.run("show", done.json["submission"][:12], "--json").json
    assert [each["submission"] for each in view["origin"]["lineage"]] == [parent]
    for thing in (child / "model.safetensors", child / "model.proof.json"):
        assert f"parent sub_{parent[:8]}" in net.run("show", thing).out
    done = net.run("verify", child / "model.safetensors", "--json")
    assert done.code == 0
    origin = next(check for check in done.json["checks"] if check["name"] == "origin")
    assert origin["state"] == "pass"
    assert f"parent sub_{parent[:8]}" in origin["detail"]


def test_another_attempt_is_another_registration_and_is_counted(
    net: DevNetwork, first: Path, tmp_path: Path
) -> None:
    # The registration of `first` has made a VALID model, so the same recipe gets a new one.
    with Client([home.url for home in net.homes]) as client:
        recipe = client.registration(read_registration(first)["id"])["register"]["recipe"]
        sender = client.registration(read_registration(first)["id"])["sender"]
        made = client.registrations(sender, recipe)["made"]
    run = train(net, tmp_path)
    registration = read_registration(run)
    assert registration["number"] == made + 1
    assert registration["seed"] != read_registration(first)["seed"]
    done = net.run("submit", run, "--wait", "--json")
    assert done.json["assurance"] == "FULL+REGISTERED"
    shown = net.run("show", done.json["submission"][:12]).out
    assert f"registration {made + 1} of this submitter" in shown


def test_weights_that_were_trained_before_are_refused(
    net: DevNetwork, first: Path, tmp_path: Path
) -> None:
    run = train(net, tmp_path, rate=0.3)
    trained = read_tensors(first / MODEL)
    write_tensors(run / get_snapshot_name(0), {f"model.{name}": trained[name] for name in trained})
    done = net.run("submit", run)
    assert done.code == 1
    assert "[wrong-initial-weights]" in done.err


def test_a_parent_that_is_not_there_is_refused_before_training(
    net: DevNetwork, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage, match="no run folder and no submission") as caught:
        train(net, tmp_path, parent="sub_00000000")
    assert caught.value.slug == "bad-parent"


def test_a_registration_is_readable_by_its_id(net: DevNetwork, first: Path) -> None:
    found = read_registration(first)
    profile = network.read_profile(net.folder)
    with Client(profile.nodes) as client:
        view = client.registration(found["id"])
    assert (view["seed"], view["height"]) == (found["seed"], found["height"])
    assert view["submission"]
