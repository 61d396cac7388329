"""Registering against a node that knows a real ledger, and giving up on one that does not move."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec.structs import replace

from milepost.errors import CannotTell, WrongUsage
from milepost.keys import write_key
from milepost.recording import find_parent
from milepost.registering import Registrar
from milepost_consensus.encoding import decode
from milepost_consensus.light import dump_proof, seal_bundle
from milepost_consensus.payloads import Register
from milepost_consensus.transactions import Tx, decode_payload
from milepost_consensus.views import to_view
from milepost_ml.registration import Request
from tests.support import fake_nodes
from tests.support.fake_nodes import Reply, running
from tests.support.ledger import Ledger, Record, make_genesis, make_record, make_signer
from tests.support.proofs import decide_undecided, decide_valid

pytestmark = pytest.mark.slow  # starts processes

SUBMITTER = make_signer("submitter")
WANTED = Request(recipe=b"u" * 32, dataset_root=b"d" * 32, records=100, parent=b"")


class Chain:
    """A node whose ledger takes what it is sent, and goes on one block with every question."""

    def __init__(self) -> None:
        self.ledger = Ledger(make_genesis(4))
        self.sent: list[Register] = []
        self.moves = True
        self.before_sending: Callable[[], None] = lambda: None

    def __call__(self, request: fake_nodes.Request) -> Reply:
        state = self.ledger.state
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        if path == "/v1/status":
            network = {"network": "test", "network_id": state.network.hex()}
            return Reply(200, {**network, "node": "fake", "height": state.height})
        if path == "/v1/transactions":
            self.before_sending()
            tx = decode(Tx, request.body)
            payload = decode_payload(tx)
            assert isinstance(payload, Register)
            self.sent.append(payload)
            if payload.attempt == self.ledger.state.standings[SUBMITTER.public].registrations:
                self.ledger.apply([tx])
            return Reply(202, {"id": "00", "submission": None, "registration": "00"})
        if path == "/v1/registrations":
            if self.moves:
                self.ledger.run(1)
            return self._list(query["sender"][0], query["recipe"][0])
        if path.startswith("/v1/submissions/"):
            found = state.submissions.get(
                bytes.fromhex(path.rpartition("/")[2].removeprefix("sub_"))
            )
            if found is not None:
                verdict = state.verdicts.get(found.id)
                view = to_view(verdict) if verdict is not None else None
                return Reply(200, {"submission": to_view(found), "verdict": view})
        return Reply(404, {"type": "/problems/unknown-submission", "detail": "unknown"})

    def _list(self, sender: str, recipe: str) -> Reply:
        assert sender == SUBMITTER.public.hex()
        state = self.ledger.state
        newest = sorted(state.registrations.values(), key=lambda item: -item.register.attempt)
        listed = [to_view(item) for item in newest if item.register.recipe.hex() == recipe]
        made = state.standings[SUBMITTER.public].registrations
        return Reply(200, {"made": made, "registrations": listed})

    def register(self, request: Request) -> None:
        """The same key registers something by another way."""
        made = self.ledger.state.standings[SUBMITTER.public].registrations
        self.ledger.apply([self.ledger.sign(Register(*request, attempt=made), "submitter")])


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def registrar(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registrar]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("milepost.registering.POLL_SECONDS", 0.0)
    write_key(tmp_path / "key", hashlib.sha256(b"submitter").digest())
    with running(chain) as (node,):
        yield Registrar(node.url, key=tmp_path / "key", timeout_seconds=20)


def test_a_run_is_registered_and_gets_the_networks_seed(chain: Chain, registrar: Registrar) -> None:
    said: list[str] = []
    found = registrar(WANTED, said.append)
    state = chain.ledger.state
    registration = state.registrations[found.id]
    assert (registration.seed, registration.height) == (found.seed, found.height)
    assert Request(*(getattr(registration.register, name) for name in Request._fields)) == WANTED
    assert found.number == 1
    assert "registering the run at http://127.0.0.1" in said[0]
    assert "number 1 of this submitter; waiting for the network's seed" in said[1]
    assert said[2] == f"the network's seed is {found.seed.hex()[:16]}"


def test_asking_again_finds_the_same_registration(chain: Chain, registrar: Registrar) -> None:
    first = registrar(WANTED, lambda line: None)
    said: list[str] = []
    assert registrar(WANTED, said.append) == first
    assert len(chain.sent) == 1
    assert "the run is registered already" in said[0]


@pytest.mark.parametrize(
    "other",
    [
        WANTED._replace(recipe=b"v" * 32),
        WANTED._replace(dataset_root=b"e" * 32),
        WANTED._replace(records=101),
        WANTED._replace(parent=b"p" * 32),
    ],
)
def test_another_run_is_another_registration(
    chain: Chain, registrar: Registrar, other: Request
) -> None:
    first = registrar(WANTED, lambda line: None)
    second = registrar(other, lambda line: None)
    assert second.id != first.id
    assert second.seed != first.seed
    assert second.number == 2


def test_a_number_that_another_process_took_is_no_obstacle(
    chain: Chain, registrar: Registrar
) -> None:
    def intrude() -> None:
        chain.before_sending = lambda: None
        chain.register(WANTED._replace(records=7))

    chain.before_sending = intrude
    assert registrar(WANTED, lambda line: None).number == 2
    assert [register.attempt for register in chain.sent] == [0, 1]


def test_an_interrupted_wait_goes_on_with_the_same_registration(
    chain: Chain, registrar: Registrar
) -> None:
    chain.moves = False
    registrar._timeout_seconds = 0.0
    with pytest.raises(CannotTell, match="goes on with the same registration") as caught:
        registrar(WANTED, lambda line: None)
    assert caught.value.slug == "no-seed"
    chain.moves, registrar._timeout_seconds = True, 20.0
    assert registrar(WANTED, lambda line: None).number == 1
    assert len(chain.sent) == 1


@pytest.mark.parametrize(
    ("decide", "number"),
    [
        (decide_valid, 2),
        (decide_undecided, 1),
        (lambda ledger, record: ledger.submit(record), 2),
    ],
    ids=["valid", "undecided", "open"],
)
def test_a_used_registration_is_taken_again_only_if_its_run_did_not_pass(
    chain: Chain, registrar: Registrar, decide: Callable[[Ledger, Record], object], number: int
) -> None:
    record = make_record("run")
    submit = record.submit
    wanted = WANTED._replace(dataset_root=submit.dataset_root, records=submit.records)
    first = registrar(wanted, lambda line: None)
    decide(
        chain.ledger,
        dataclasses.replace(record, submit=replace(submit, registration=first.id)),
    )
    assert registrar(wanted, lambda line: None).number == number


def test_a_network_or_key_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILEPOST_NETWORK", raising=False)
    with pytest.raises(WrongUsage, match="No network to talk to"):
        Registrar(True)
    with pytest.raises(WrongUsage, match="No key"):
        Registrar("http://127.0.0.1:1")


# Parents -----------------------------------------------------------------------------------------


def test_a_parent_is_found_in_its_run_folder(tmp_path: Path) -> None:
    bundle = decide_valid(Ledger(make_genesis(4)), make_record("parent"))
    with pytest.raises(CannotTell, match="no proof file"):
        find_parent(tmp_path, True)
    (tmp_path / "model.proof.json").write_text(json.dumps(dump_proof(seal_bundle(bundle))))
    parent = find_parent(tmp_path, True)
    assert parent.submission == bundle.submission.id
    assert parent.model_digest == bundle.verdict.model_digest
    assert parent.weights == tmp_path / "model.safetensors"


def test_a_parent_is_found_on_the_network(chain: Chain, registrar: Registrar) -> None:
    bundle = decide_valid(chain.ledger, make_record("parent"))
    url = registrar._profile.nodes[0]
    parent = find_parent(f"sub_{bundle.submission.id.hex()}", url)
    assert parent.submission == bundle.submission.id
    assert parent.model_digest == bundle.verdict.model_digest
    assert parent.weights is None
    with pytest.raises(WrongUsage, match="no submission sub_00000000") as caught:
        find_parent("sub_00000000", url)
    assert caught.value.slug == "bad-parent"
