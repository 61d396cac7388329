"""Submitting against nodes that fail, forget or lie."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from milepost.cli.exits import MACHINE_CANNOT, get_exit_code
from milepost.delivery import Delivery, submit
from milepost.errors import CannotTell, MachineCannot, Refused, Unreachable, WrongUsage
from milepost.keys import write_key
from milepost.observer import Observer
from milepost_consensus.encoding import decode
from milepost_consensus.light import dump_proof, dump_trust, make_trust, seal_bundle
from milepost_consensus.payloads import Submit, compute_submission_id
from milepost_consensus.transactions import Tx
from milepost_consensus.views import to_view
from milepost_ml.admission import build_submit
from tests.support.cli import get_command
from tests.support.fake_nodes import FakeNode, Reply, Request, running
from tests.support.ledger import Ledger, Record, make_genesis
from tests.support.proofs import decide_valid
from tests.support.records import tiny_run, tiny_submit

__all__ = ["tiny_run", "tiny_submit"]

pytestmark = pytest.mark.slow


class Chain:
    """What all fake nodes know: one ledger, on which the record may be decided or not."""

    def __init__(self, record: Submit) -> None:
        self.ledger = Ledger(make_genesis(4))
        self.ledger.serve(record.device_class)
        self.bundle = decide_valid(self.ledger, Record(record, ()))
        self.id = self.bundle.submission.id
        self.decided = False
        self.anchored = False
        self.stated = {f"node-{i}": [record.device_class] for i in range(4)}
        """What verifiers serve, by name, of those that stated it."""
        self.proof: dict[str, Any] = dict(dump_proof(seal_bundle(self.bundle)))

    def list_members(self) -> list[dict[str, Any]]:
        return [
            {
                **{name: getattr(m, name) for name in ("name", "roles", "operator")},
                "id": m.id.hex(),
                "device_classes": self.stated.get(m.name),
            }
            for m in self.ledger.state.members.values()
        ]

    def view(self) -> dict[str, Any]:
        return {
            "submission": to_view(self.bundle.submission),
            "verdict": to_view(self.bundle.verdict) if self.decided else None,
        }


class Script:
    """One fake node: a blob store, and hooks that a test replaces to make it fail."""

    def __init__(self, chain: Chain, override: Callable[[Request], Reply | None]) -> None:
        self.chain = chain
        self.blobs: dict[str, bytes] = {}
        self.sent: list[Tx] = []
        self.override = override

    def __call__(self, request: Request) -> Reply:
        special = self.override(request)
        return special if special is not None else self._answer(request)

    def _answer(self, request: Request) -> Reply:
        chain, path = self.chain, request.path
        state = chain.ledger.state
        if path == "/v1/status":
            network = {"network": "test", "network_id": state.network.hex()}
            return Reply(200, {**network, "node": "fake", "height": state.height})
        if path == "/v1/genesis":
            return Reply(200, to_view(state.genesis))
        if path == "/v1/members":
            return Reply(200, {"members": self.chain.list_members()})
        if path == "/v1/blobs/missing":
            asked = json.loads(request.body)["digests"]
            missing = [each for each in asked if each not in self.blobs]
            return Reply(200, {"missing": missing, "begun": {}})
        if request.method == "PUT":
            name = path.rpartition("/")[2]
            assert hashlib.sha256(request.body).hexdigest() == name
            self.blobs[name] = request.body
            return Reply(201, {"stored": name})
        if path == "/v1/transactions":
            self.sent.append(decode(Tx, request.body))
            chain.anchored = chain.decided = True
            return Reply(202, {"id": "00", "submission": chain.id.hex()})
        if path == f"/v1/submissions/sub_{chain.id.hex()}" and chain.anchored:
            return Reply(200, chain.view())
        if path == f"/v1/submissions/sub_{chain.id.hex()}/proof" and chain.decided:
            return Reply(200, chain.proof)
        return Reply(404, {"type": "/problems/unknown-submission", "detail": "unknown"})


def obey(request: Request) -> Reply | None:
    return None


@pytest.fixture(scope="module")
def signed_submit(tiny_run: Path) -> Submit:
    return build_submit(tiny_run)[0]


class Desk:
    """A run folder, a key, a trust file, and fake nodes to submit to."""

    def __init__(self, folder: Path, run: Path, record: Submit) -> None:
        self.run = folder / "run"
        shutil.copytree(run, self.run)
        self.chain = Chain(record)
        self.folder = folder
        write_key(folder / "me.key", hashlib.sha256(b"submitter").digest())
        self.write_trust(self.chain.ledger)

    def write_trust(self, ledger: Ledger) -> None:
        view = dump_trust(make_trust(ledger.state.genesis))
        (self.folder / "network.trust").write_text(json.dumps(view))

    def write_profile(self, *nodes: FakeNode) -> None:
        urls = ", ".join(f'"{node.url}"' for node in nodes)
        (self.folder / "milepost.toml").write_text(
            f'nodes = [{urls}]\ntrust = "network.trust"\nkey = "me.key"\n'
        )

    def submit(self, *nodes: FakeNode, **options: Any) -> Delivery:
        self.write_profile(*nodes)
        return submit(self.run, network=self.folder, timeout_seconds=5, **options)


@pytest.fixture
def desk(tmp_path: Path, tiny_run: Path, signed_submit: Submit) -> Desk:
    return Desk(tmp_path, tiny_run, signed_submit)


def test_everything_is_uploaded_once_and_the_proof_is_kept(desk: Desk) -> None:
    script = Script(desk.chain, obey)
    with running(script) as (node,):
        done = desk.submit(node, wait=True)
    assert done.verdict == desk.chain.bundle.verdict
    assert done.checked
    record = desk.chain.bundle.submission
    network = desk.chain.ledger.state.network
    tx = script.sent[0]
    assert compute_submission_id(tx.sender, decode(Submit, tx.payload), network) == record.id
    assert record.submit.manifest.hex() in script.blobs
    files = json.loads(script.blobs[record.submit.manifest.hex()])["files"]
    assert {file["digest"] for file in files} < set(script.blobs)
    proof = json.loads((desk.run / "model.proof.json").read_text())
    digest = hashlib.sha256((desk.run / "model.safetensors").read_bytes()).hexdigest()
    assert proof["unsigned"]["model_sha256"] == digest


@pytest.mark.parametrize(("able", "slug"), [(0, "not-served"), (1, "few-verifiers")])
def test_too_few_who_could_retrain_it_are_told_before_anything_is_uploaded(
    able: int, slug: str, desk: Desk
) -> None:
    for number in range(able, 4):
        desk.chain.stated[f"node-{number}"] = ["exact/1"]
    script = Script(desk.chain, obey)
    with running(script) as (node,), pytest.raises(MachineCannot) as caught:
        desk.submit(node, wait=True)
    assert caught.value.slug == slug
    assert get_exit_code(caught.value) == MACHINE_CANNOT
    text = str(caught.value)
    assert decode_class(desk) in text
    assert ("1 of 4 verifiers" in text and "a sub-quorum has 5" in text) == bool(able)
    assert not script.blobs
    assert not script.sent


def test_whoever_wants_few_verifiers_gets_them(desk: Desk) -> None:
    desk.chain.stated = {"node-2": [decode_class(desk)]}
    script = Script(desk.chain, obey)
    with running(script) as (node,):
        assert desk.submit(node, wait=True, few_verifiers=True).verdict is not None


def decode_class(desk: Desk) -> str:
    """The device class of the run."""
    return desk.chain.bundle.submission.submit.device_class


def test_a_node_that_fails_during_the_upload_is_left_for_the_next(desk: Desk) -> None:
    puts: list[str] = []

    def fail_third_upload(request: Request) -> Reply | None:
        puts.append(request.method)
        return Reply(507, {"detail": "store full"}) if puts.count("PUT") == 3 else None

    heard: list[str] = []

    class Ears(Observer):
        def on_node_failed(self, url: str, reason: str) -> None:
            heard.append(f"{url} {reason}")

    first, second = Script(desk.chain, fail_third_upload), Script(desk.chain, obey)
    with running(first, second) as nodes:
        done = desk.submit(*nodes, wait=True, observer=Ears())
        assert heard == [f"{nodes[0].url} store full"]
    assert done.verdict is not None
    assert (len(first.sent), len(second.sent)) == (0, 1)
    assert len(second.blobs) > len(first.blobs)


def test_a_node_that_dies_after_taking_the_submission_does_not_make_it_fail(desk: Desk) -> None:
    def take_and_die(request: Request) -> Reply | None:
        if request.path == "/v1/transactions":
            desk.chain.anchored = True
            return Reply(close=True)
        return None

    def know_already(request: Request) -> Reply | None:
        if request.path == "/v1/transactions":
            desk.chain.decided = True
            return Reply(409, {"type": "/problems/duplicate", "detail": "anchored already"})
        return None

    with running(Script(desk.chain, take_and_die), Script(desk.chain, know_already)) as nodes:
        assert desk.submit(*nodes, wait=True).verdict is not None


def test_a_duplicate_of_somebody_else_s_weights_is_refused(desk: Desk) -> None:
    def refuse(request: Request) -> Reply | None:
        if request.path == "/v1/transactions":
            return Reply(409, {"type": "/problems/duplicate", "detail": "in block 9"})
        return None

    with running(Script(desk.chain, refuse)) as nodes, pytest.raises(Refused) as caught:
        desk.submit(*nodes, wait=True)
    assert (caught.value.slug, str(caught.value)) == ("duplicate", "in block 9")


def test_of_a_decided_record_the_verdict_is_told_and_nothing_is_sent(desk: Desk) -> None:
    desk.chain.anchored = desk.chain.decided = True
    script = Script(desk.chain, obey)
    with running(script) as nodes:
        done = desk.submit(*nodes)
    assert done.submission == f"sub_{desk.chain.id.hex()}"
    assert done.verdict is not None
    assert (script.blobs, script.sent) == ({}, [])
    assert (desk.run / "model.proof.json").is_file(), "its proof was missing and is fetched"


def test_an_undecided_record_is_followed_instead_of_sent_again(desk: Desk) -> None:
    desk.chain.anchored = True
    script = Script(desk.chain, obey)
    with running(script) as nodes:
        done = desk.submit(*nodes)
        assert (done.submission, done.verdict) == (f"sub_{desk.chain.id.hex()}", None)
        with pytest.raises(CannotTell) as caught:
            desk.submit(*nodes, wait=True)
        assert caught.value.slug == "undecided-yet"
    assert script.sent == []


def test_ctrl_c_while_waiting_is_130_and_says_how_to_go_on(desk: Desk) -> None:
    desk.chain.anchored = True
    with running(Script(desk.chain, obey)) as nodes:
        desk.write_profile(*nodes)
        command = get_command(["submit", desk.run, "--wait", "--network", desk.folder])
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background of a shell hands down that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("Decided"):
                # The phase it was told is the ledger's; the verdict is what it waits for.
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert "goes on where it stopped" in err
    assert "Traceback" not in err


def test_a_forged_verdict_is_not_believed(desk: Desk) -> None:
    verdict = replace(desk.chain.bundle.verdict, reason="trust me")
    desk.chain.proof = dict(dump_proof(seal_bundle(replace(desk.chain.bundle, verdict=verdict))))
    with running(Script(desk.chain, obey)) as nodes, pytest.raises(CannotTell) as caught:
        desk.submit(*nodes, wait=True)
    assert caught.value.slug == "bad-proof"
    assert not (desk.run / "model.proof.json").exists()


def test_nodes_of_another_network_than_the_trust_file_are_refused(desk: Desk) -> None:
    desk.write_trust(Ledger(make_genesis(7)))
    script = Script(desk.chain, obey)
    with running(script) as nodes, pytest.raises(WrongUsage) as caught:
        desk.submit(*nodes)
    assert caught.value.slug == "wrong-network"
    assert script.blobs == {}


def test_without_a_trust_file_the_verdict_is_only_what_a_node_says(desk: Desk) -> None:
    with running(Script(desk.chain, obey)) as (node,):
        done = submit(desk.run, nodes=[node.url], key=desk.folder / "me.key", wait=True)
    assert done.verdict is not None
    assert not done.checked


def test_no_node_at_all_is_unreachable(desk: Desk) -> None:
    with running(Script(desk.chain, obey)) as (node,):
        pass
    with pytest.raises(Unreachable):
        desk.submit(node)
