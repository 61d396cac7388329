"""The HTTP surface of one node: right answers, and a problem document for everything else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.dsse import verify_signatures
from milepost_consensus.encoding import decode, encode
from milepost_consensus.keyguard import Signing
from milepost_consensus.light import load_proof, open_envelope
from milepost_consensus.members import Genesis
from milepost_consensus.payloads import Hold, Register
from milepost_consensus.problems import PROBLEMS
from milepost_consensus.registrations import Registration
from milepost_consensus.transactions import Tx, compute_tx_id, make_tx
from milepost_consensus.verdicts import VALID
from milepost_consensus.views import from_view
from milepost_node.errors import InvalidRequest
from milepost_node.mempool import MAX_TX_BYTES
from milepost_node.problem_json import MAX_DETAIL, make_problem
from milepost_node.settings import Limits
from milepost_node.store import StoredBlock
from tests.support.ledger import Ledger, make_signer
from tests.support.nodes import (
    Cluster,
    get_slug,
    make_upload,
    open_cluster,
    put_files,
    wait_until,
)

LIMITS = Limits(blob_bytes=10_000, store_bytes=100_000, admissions=1)
UPLOAD = make_upload()
DATA = b"x" * 1_000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A network of one node that is enough to make blocks."""
    async with open_cluster(tmp_path, 1, limits=LIMITS) as made:
        made.announce(UPLOAD)
        yield made


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with cluster.connect() as made:
        yield made


async def submit(cluster: Cluster, client: httpx.AsyncClient) -> str:
    """Submit the record and wait for its verdict; returns the submission's id."""
    await put_files(client, UPLOAD.files)
    answer = await client.post("/v1/transactions", content=cluster.sign(UPLOAD.submit))
    assert answer.status_code == 202, answer.text
    state = cluster.nodes[0].runtime
    await wait_until(lambda: state.state.verdicts, "a verdict")
    submission: str = answer.json()["submission"]
    return submission


# Answers -----------------------------------------------------------------------------------------


async def test_status_and_genesis(cluster: Cluster, client: httpx.AsyncClient) -> None:
    status = (await client.get("/v1/status")).json()
    assert status.keys() == {
        *("network", "network_id", "node", "key", "height", "block_id", "syncing", "peers"),
        *("peers_reachable", "mempool", "version", "behaviour", "device_classes"),
        *("signing", "key_in_use", "serves", "protocol", "retrace_queue"),
    }
    assert (status["node"], status["network"], status["height"]) == ("node-0", "test", 0)
    assert status["key"] == make_signer("node-0").public.hex()
    genesis = (await client.get("/v1/genesis")).json()
    assert from_view(Genesis, genesis) == cluster.genesis


async def test_members_and_what_they_serve(cluster: Cluster, client: httpx.AsyncClient) -> None:
    node = cluster.nodes[0]
    me = make_signer("node-0").public
    assert (await get_members(client))["submitter"]["device_classes"] is None
    await wait_until(lambda: node.runtime.state.standings[me].statements)
    members = await get_members(client)
    assert (members["node-0"]["id"], members["node-0"]["roles"]) == (me.hex(), 3)
    assert members["node-0"]["device_classes"] == ["exact/1", "rounded/1"]
    assert (await client.get("/v1/status")).json()["serves"] == ["exact/1", "rounded/1"]


async def get_members(client: httpx.AsyncClient) -> dict[str, dict[str, object]]:
    listed = (await client.get("/v1/members")).json()["members"]
    return {each["name"]: each for each in listed}


async def test_health(cluster: Cluster, client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).status_code == 200
    node = cluster.nodes[0]
    await wait_until(lambda: node.runtime.signing is Signing.ACTIVE)
    assert (await client.get("/health/ready")).json() == {"reason": "ready"}
    node.sync.syncing = True
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["reason"]) == (206, "syncing")
    node.failed.set()
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"reason": "failed"})


async def test_node_without_its_peers_is_not_ready(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 4, start=False) as cluster, cluster.connect() as client:
        answer = await client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json() == {"reason": "too-few-validators", "reachable": 1, "needed": 3}


async def test_submission_block_and_proof(cluster: Cluster, client: httpx.AsyncClient) -> None:
    submission = await submit(cluster, client)
    shown = (await client.get(f"/v1/submissions/sub_{submission[:8]}")).json()
    assert shown["submission"]["id"] == submission
    assert shown["verdict"]["outcome"] == VALID
    listed = (await client.get("/v1/submissions")).json()["submissions"]
    assert listed == [shown]
    height = shown["verdict"]["height"]
    block = (await client.get(f"/v1/blocks/{height}")).json()
    assert from_view(Block, block["block"]).header.height == height
    assert from_view(Certificate, block["certificate"]).block_id.hex() == block["id"]
    proof = (await client.get(f"/v1/submissions/{submission}/proof")).json()
    assert proof["format"] == "milepost/proof/2"
    envelope = load_proof(proof)
    assert open_envelope(envelope).certificate.block_id.hex() == block["id"]
    verify_signatures(envelope)
    own = cluster.nodes[0].settings.signer.public
    assert [each.key for each in envelope.signatures] == [own]
    headers = (await client.get(f"/v1/blocks?before={height}&limit=2")).json()["blocks"]
    assert [entry["header"]["height"] for entry in headers] == [height - 1, height - 2]


async def test_blobs_go_in_and_out(client: httpx.AsyncClient) -> None:
    question = {"digests": [DIGEST]}
    assert (await client.post("/v1/blobs/missing", json=question)).json() == {
        "missing": [DIGEST],
        "begun": {},
    }
    assert (await client.put(f"/v1/blobs/{DIGEST}", content=DATA)).status_code == 201
    assert (await client.post("/v1/blobs/missing", json=question)).json() == {
        "missing": [],
        "begun": {},
    }
    answer = await client.get(f"/v1/blobs/{DIGEST}")
    assert answer.content == DATA
    head = await client.head(f"/v1/blobs/{DIGEST}")
    assert (head.status_code, head.headers["content-length"]) == (200, "1000")
    part = await client.get(f"/v1/blobs/{DIGEST}", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, DATA[10:20])


async def test_problems_explain_themselves(client: httpx.AsyncClient) -> None:
    assert (await client.get("/problems")).json().keys() == PROBLEMS.keys()
    answer = (await client.get("/problems/missing-blobs")).json()
    assert answer["remedy"] == PROBLEMS["missing-blobs"].remedy


async def test_pages_that_load_scripts_from_elsewhere_do_not_exist(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/docs", "/redoc"):
        assert get_slug(await client.get(path)) == "not-found"
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert "/v1/transactions" in paths


# Registrations ---------------------------------------------------------------------------------


def make_register(attempt: int = 0, recipe: bytes = b"u" * 32) -> Register:
    return Register(recipe, UPLOAD.submit.dataset_root, UPLOAD.submit.records, b"", attempt)


async def register(cluster: Cluster, client: httpx.AsyncClient, wanted: Register) -> str:
    """Register and wait for the seed; returns the registration's id."""
    answer = await client.post("/v1/transactions", content=cluster.sign(wanted))
    assert (answer.status_code, answer.json()["submission"]) == (202, None), answer.text
    name: str = answer.json()["registration"]
    runtime = cluster.nodes[0].runtime

    def has_seed() -> bool:
        found = runtime.state.registrations.get(bytes.fromhex(name))
        return found is not None and bool(found.seed)

    await wait_until(has_seed, "a seed")
    return name


async def test_a_registration_gets_a_seed_although_nothing_else_happens(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    name = await register(cluster, client, make_register())
    answer = await client.get(f"/v1/registrations/{name}")
    shown = from_view(Registration, answer.json()["registration"])
    assert shown == cluster.nodes[0].runtime.state.registrations[bytes.fromhex(name)]
    assert shown.sender == make_signer("submitter").public
    assert shown.register == make_register()


async def test_registrations_are_listed_newest_first_by_sender_and_recipe(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    other = b"v" * 32
    names = [
        await register(cluster, client, make_register(0)),
        await register(cluster, client, make_register(1, other)),
        await register(cluster, client, make_register(2)),
    ]
    sender = make_signer("submitter").public.hex()

    async def list_names(query: str) -> tuple[int, list[str]]:
        answer = (await client.get(f"/v1/registrations?{query}")).json()
        return answer["made"], [item["id"] for item in answer["registrations"]]

    assert await list_names("") == (0, names[::-1])
    assert await list_names(f"sender={sender}") == (3, names[::-1])
    assert await list_names(f"sender={sender}&recipe={other.hex()}") == (3, names[1:2])
    assert await list_names(f"sender={'00' * 32}") == (0, [])


async def test_an_acknowledged_registration_is_on_disk(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    kept: list[bytes] = []
    keep = cluster.nodes[0].accepted.keep

    async def watch(data: bytes) -> None:
        await keep(data)
        kept.append(data)

    cluster.nodes[0].accepted.keep = watch  # type: ignore[method-assign]
    await register(cluster, client, make_register())
    assert kept == [cluster.sign(make_register())]
    accepted = cluster.nodes[0].accepted
    await wait_until(lambda: len(accepted) == 0, "the block with the registration")


async def test_a_registration_with_another_number_is_refused(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v1/transactions", content=cluster.sign(make_register(5)))
    assert (answer.status_code, get_slug(answer)) == (409, "wrong-attempt")


# Refusals ----------------------------------------------------------------------------------------


QUESTIONS = [
    ("GET", "/nothing", 404, "not-found"),
    ("DELETE", "/v1/status", 405, "method-not-allowed"),
    ("GET", "/v1/blocks/1", 404, "not-found"),
    ("GET", "/v1/blocks/0", 404, "not-found"),
    ("GET", f"/v1/blocks/{2**80}", 404, "not-found"),
    ("GET", "/v1/blocks/x", 422, "bad-request"),
    ("GET", "/v1/blocks?limit=101", 422, "bad-request"),
    ("GET", "/v1/blocks?before=-1", 422, "bad-request"),
    ("GET", "/v1/registrations/abcde", 400, "bad-request"),
    ("GET", "/v1/registrations/" + "00" * 32, 404, "unknown-registration"),
    ("GET", "/v1/registrations?sender=abc", 422, "bad-request"),
    ("GET", "/v1/submissions/abcde", 400, "bad-request"),
    ("GET", "/v1/submissions/sub_xyzxyz", 400, "bad-request"),
    ("GET", "/v1/submissions/abcdef", 404, "unknown-submission"),
    ("GET", "/v1/submissions/" + "ab" * 32 + "/proof", 404, "unknown-submission"),
    ("GET", "/v1/blobs/" + "ab" * 32, 404, "not-found"),
    ("GET", "/v1/blobs/..%2F..%2Fnode.key", 404, "not-found"),
    ("GET", "/v1/blobs/....node.key", 422, "bad-digest"),
    ("PUT", "/v1/blobs/AB" + "ab" * 31, 422, "bad-digest"),
    ("GET", "/v1/peer/blocks", 422, "bad-request"),
    ("GET", "/v1/peer/blocks?from=0", 422, "bad-request"),
    ("GET", "/problems/nothing", 404, "not-found"),
]
BODIES = [
    ("/v1/transactions", b"", 422, "bad-encoding"),
    ("/v1/transactions", b"\x95" * 1000, 422, "bad-encoding"),
    ("/v1/transactions", bytes(MAX_TX_BYTES + 1), 413, "too-large"),
    ("/v1/blobs/missing", b"", 400, "bad-request"),
    ("/v1/blobs/missing", b'{"digests": 3}', 400, "bad-request"),
    ("/v1/blobs/missing", b'{"digests": ["../x"]}', 422, "bad-digest"),
    ("/v1/blobs/missing", b"[" * 10_000, 400, "bad-request"),
    ("/v1/blobs/missing", bytes(2 * 1024 * 1024), 413, "too-large"),
    ("/v1/peer/messages", b"rubbish", 422, "bad-encoding"),
    ("/v1/peer/messages", bytes(25 * 1024 * 1024), 413, "too-large"),
]


async def test_every_error_is_a_problem(client: httpx.AsyncClient) -> None:
    for method, path, status, slug in QUESTIONS:
        answer = await client.request(method, path)
        assert (answer.status_code, get_slug(answer)) == (status, slug), path
        assert slug in PROBLEMS


async def test_bad_bodies(client: httpx.AsyncClient) -> None:
    for path, body, status, slug in BODIES:
        answer = await client.post(path, content=body)
        assert (answer.status_code, get_slug(answer)) == (status, slug), (path, body[:20])


async def test_oversized_body_without_a_declared_length_is_cut_off(
    client: httpx.AsyncClient,
) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10**8:
            sent += 1_000
            yield bytes(1_000)

    answer = await client.put(f"/v1/blobs/{DIGEST}", content=pieces())
    assert (answer.status_code, get_slug(answer)) == (413, "too-large")
    assert sent <= LIMITS.blob_bytes + 2_000


async def test_wrong_and_too_much_content(client: httpx.AsyncClient, cluster: Cluster) -> None:
    answer = await client.put(f"/v1/blobs/{DIGEST}", content=b"something else")
    assert (answer.status_code, get_slug(answer)) == (422, "bad-digest")
    for number in range(20):
        data = bytes([number]) * 9_000
        answer = await client.put(f"/v1/blobs/{hashlib.sha256(data).hexdigest()}", content=data)
    assert (answer.status_code, get_slug(answer)) == (507, "store-full")
    assert cluster.nodes[0].blobs.used_bytes <= LIMITS.store_bytes


async def test_ambiguous_prefix(cluster: Cluster, client: httpx.AsyncClient) -> None:
    submission = await submit(cluster, client)
    runtime = cluster.nodes[0].runtime
    known = runtime.state.submissions[bytes.fromhex(submission)]
    twin = replace(known, id=known.id[:8] + bytes(24))
    runtime.state.submissions[twin.id] = twin  # type: ignore[index]
    answer = await client.get(f"/v1/submissions/{submission[:8]}")
    assert (answer.status_code, get_slug(answer)) == (409, "ambiguous")


async def test_no_answer_shows_a_path_of_this_machine(
    client: httpx.AsyncClient, cluster: Cluster
) -> None:
    home = str(cluster.homes[0])
    for path in ("/v1/status", "/v1/blobs/" + "ab" * 32, "/v1/blobs/x", "/health/ready"):
        assert home not in (await client.get(path)).text


async def test_defect_is_a_problem_without_details(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(cluster.nodes[0], "get_status", fail)
    transport = cluster.network.nodes["node-0"]
    transport.raise_app_exceptions = False
    async with cluster.connect() as client:
        answer = await client.get("/v1/status")
    assert (answer.status_code, get_slug(answer)) == (500, "internal-error")
    assert "secret" not in answer.text


# Submissions -------------------------------------------------------------------------------------


async def test_missing_files_are_listed_and_the_others_stay(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    data = cluster.sign(UPLOAD.submit)
    answer = await client.post("/v1/transactions", content=data)
    assert (answer.status_code, get_slug(answer)) == (409, "missing-blobs")
    assert answer.json()["missing"] == [UPLOAD.submit.manifest.hex()]
    files = dict(UPLOAD.files)
    left_out = next(iter(files))
    content = files.pop(left_out)
    await put_files(client, files)
    answer = await client.post("/v1/transactions", content=data)
    assert answer.json()["missing"] == [left_out.hex()]
    assert not cluster.nodes[0].blobs.get_missing(files)
    await put_files(client, {left_out: content})
    assert (await client.post("/v1/transactions", content=data)).status_code == 202


async def test_refused_record_leaves_no_file_behind(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    cluster.retracers[0].refusal = InvalidRequest("Milepost 2 holds NaN", slug="not-finite")
    await put_files(client, UPLOAD.files)
    answer = await client.post("/v1/transactions", content=cluster.sign(UPLOAD.submit))
    assert (answer.status_code, get_slug(answer)) == (422, "not-finite")
    node = cluster.nodes[0]
    assert node.blobs.get_missing(UPLOAD.files) == list(UPLOAD.files)
    assert (node.blobs.used_bytes, len(node.mempool)) == (0, 0)


async def test_files_that_another_submission_needs_survive_a_refusal(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    await submit(cluster, client)
    # The same files under another statement: the model is on the chain already.
    again = replace(UPLOAD.submit, name="again")
    height = cluster.nodes[0].runtime.state.height
    answer = await client.post("/v1/transactions", content=cluster.sign(again, height=height))
    assert (answer.status_code, get_slug(answer)) == (409, "duplicate")
    assert not cluster.nodes[0].blobs.get_missing(UPLOAD.files)


async def test_a_stranger_deletes_nothing_that_another_staged(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    await put_files(client, UPLOAD.files)
    listing = UPLOAD.files[UPLOAD.submit.manifest] + b"\n"
    own = replace(UPLOAD.submit, manifest=hashlib.sha256(listing).digest())
    await put_files(client, {own.manifest: listing})  # the other's files, in other words
    for submit in (UPLOAD.submit, own):
        signed = cluster.sign(submit)
        in_another_name = encode(replace(decode(Tx, signed), signature=bytes(64)))
        for data, slug in (
            (cluster.sign(submit, sender="stranger"), "not-a-member"),
            (in_another_name, "bad-signature"),
            (cluster.sign(submit, height=10**6), "expired"),
        ):
            answer = await client.post("/v1/transactions", content=data)
            assert get_slug(answer) == slug
            assert not cluster.nodes[0].blobs.get_missing(UPLOAD.files)
    signed = cluster.sign(UPLOAD.submit)
    assert (await client.post("/v1/transactions", content=signed)).status_code == 202


async def test_same_submission_at_the_same_time_is_a_duplicate(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    gate = cluster.retracers[0].gate = asyncio.Event()
    await put_files(client, UPLOAD.files)
    data = cluster.sign(UPLOAD.submit)
    first = asyncio.create_task(client.post("/v1/transactions", content=data))
    await wait_until(lambda: ("validate", 0) in cluster.retracers[0].asked)
    second = await client.post("/v1/transactions", content=data)
    assert (second.status_code, get_slug(second)) == (409, "duplicate")
    other = make_upload("other")
    third = await client.post("/v1/transactions", content=cluster.sign(other.submit))
    assert (third.status_code, get_slug(third)) == (503, "busy")
    gate.set()
    assert (await first).status_code == 202
    assert not cluster.nodes[0].blobs.get_missing(UPLOAD.files)


async def test_unusable_manifest(cluster: Cluster, client: httpx.AsyncClient) -> None:
    manifest = b'{"files":[{"name":"../../node.key"}]}'
    digest = hashlib.sha256(manifest).digest()
    await put_files(client, {digest: manifest})
    wrong = replace(UPLOAD.submit, manifest=digest)
    answer = await client.post("/v1/transactions", content=cluster.sign(wrong))
    assert (answer.status_code, get_slug(answer)) == (422, "bad-manifest")
    assert not cluster.nodes[0].blobs.has(digest)


async def test_signatures_and_roles(cluster: Cluster, client: httpx.AsyncClient) -> None:
    await put_files(client, UPLOAD.files)
    stranger = cluster.sign(UPLOAD.submit, sender="stranger")
    answer = await client.post("/v1/transactions", content=stranger)
    assert (answer.status_code, get_slug(answer)) == (403, "not-a-member")
    tx = make_tx(
        UPLOAD.submit, signer=make_signer("submitter"), valid_until=100, network=b"\x01" * 32
    )
    answer = await client.post("/v1/transactions", content=encode(tx))
    assert (answer.status_code, get_slug(answer)) == (422, "bad-signature")
    tx = make_tx(
        Hold(b"\x01" * 32),
        signer=make_signer("node-0"),
        valid_until=100,
        network=cluster.nodes[0].network,
    )
    answer = await client.post("/v1/transactions", content=encode(tx))
    assert (answer.status_code, get_slug(answer)) == (404, "unknown-submission")


async def test_proof_of_an_undecided_submission(tmp_path: Path) -> None:
    # One of four validators cannot hold a record for all.
    async with open_cluster(tmp_path, 4, start=False) as cluster, cluster.connect() as client:
        node = cluster.nodes[0]
        cluster.announce(UPLOAD)
        ledger = Ledger(cluster.genesis)
        submission = ledger.submit(UPLOAD.record)
        node.runtime.state = ledger.state
        answer = await client.get(f"/v1/submissions/{submission.hex()}/proof")
        assert (answer.status_code, get_slug(answer)) == (404, "not-decided")


# Peers -------------------------------------------------------------------------------------------


async def test_bad_messages_are_dropped_and_counted(
    cluster: Cluster, client: httpx.AsyncClient
) -> None:
    node = cluster.nodes[0]
    stranger = Ed25519Signer.from_seed(bytes(32))
    tx = make_tx(UPLOAD.submit, signer=stranger, valid_until=100, network=node.network)
    batch = [
        ("tx", b"rubbish"),
        ("tx", encode(tx)),
        ("vote", b"\x90"),
        ("proposal", b""),
        ("gossip", b""),
    ]
    answer = await client.post("/v1/peer/messages", content=msgspec.msgpack.encode(batch))
    assert answer.status_code == 204
    assert node.runtime.counts["bad-encoding"] == 4
    assert node.admission.counts["not-a-member"] == 1
    assert compute_tx_id(tx, node.network) not in node.mempool


async def test_other_network_is_told_so(cluster: Cluster, client: httpx.AsyncClient) -> None:
    node = cluster.nodes[0]
    for headers, slug, words in (
        ({"milepost-network": "ab" * 32}, "wrong-network", "abababababababab"),
        ({"milepost-network": node.network.hex()}, "wrong-protocol", "the caller none"),
        (node.identity._replace(protocol=7).make_headers(), "wrong-protocol", "the caller 7"),
    ):
        for answer in (
            await client.post("/v1/peer/messages", content=b"\x90", headers=headers),
            await client.get("/v1/peer/blocks?from=1", headers=headers),
        ):
            assert (answer.status_code, get_slug(answer)) == (409, slug)
            body = answer.json()
            assert words in body["detail"]
            said = (body["network"], body["network_id"], body["protocol"])
            assert said == ("test", node.network.hex(), 1)
        assert node.runtime.counts[slug] >= 2
    answer = await client.get("/v1/peer/blocks?from=1", headers=node.identity.make_headers())
    assert answer.status_code == 200


async def test_blocks_for_peers(
    cluster: Cluster, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(cluster, client)
    height = cluster.nodes[0].runtime.state.height
    read, threads = cluster.nodes[0].store.get_blocks_from, []

    def watch(first: int, *, limit: int, limit_bytes: int) -> list[StoredBlock]:
        threads.append(threading.current_thread())
        return read(first, limit=limit, limit_bytes=limit_bytes)

    monkeypatch.setattr(cluster.nodes[0].store, "get_blocks_from", watch)
    answer = await client.get("/v1/peer/blocks?from=2&limit=3")
    assert threads, "read from the disk"
    assert threading.main_thread() not in threads, "eight megabytes were read in the loop"
    assert answer.headers["milepost-height"] == str(height)
    page = msgspec.msgpack.decode(answer.content, type=list[tuple[bytes, bytes]])
    assert len(page) == 3
    beyond = await client.get(f"/v1/peer/blocks?from={height + 1}")
    assert msgspec.msgpack.decode(beyond.content) == []


def test_problem_details_are_bounded() -> None:
    body = json.loads(bytes(make_problem("bad-request", "x" * 10_000).body))
    assert len(body["detail"]) == MAX_DETAIL
