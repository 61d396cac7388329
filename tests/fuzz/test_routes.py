"""Every route of the node, as its own description lists them, against requests of all kinds."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
import msgspec
import pytest
from hypothesis import strategies as st

from milepost_consensus.encoding import encode
from milepost_consensus.payloads import Hold
from milepost_consensus.problems import PROBLEMS
from milepost_consensus.transactions import make_tx
from milepost_node.problem_json import STATUS
from milepost_node.settings import Limits
from tests.fuzz.mutations import MSGPACK_PIECES, TEXT_PIECES, mutate
from tests.fuzz.properties import THOROUGH, run_property
from tests.support.ledger import make_signer
from tests.support.nodes import Cluster, make_upload, put_files, wait_until

LIMITS = Limits(blob_bytes=10_000, store_bytes=100_000, admissions=1)
UPLOAD = make_upload()
NAMES = (
    "0", "1", "2", "-1", "1e3", "9" * 30, "9" * 6_000, "x", "sub_", "abcdef", "ab" * 32, "AB" * 32,
    "../../node.key", "..%2f..%2fnode.key", "%2e%2e%2f", "%00", "a%00b", "%ff%fe", "%ed%a0%80",
    "node.key", ".", "..", "%", "%zz", "bad-request", "é", "a" * 5_000, "{name}", "*", "\\",
    "%0d%0a",
)  # fmt: skip
NUMBERS = ("0", "1", "2", "-1", "99", "100", "101", "2" * 19, "9" * 5_000, "x", "", "1.5", "NaN",
           "1_0", "+1", " 1", "\u0661", "0x1", "true", "[]")  # fmt: skip
HEADERS = (
    ("content-type", "application/json"), ("content-type", "multipart/form-data; boundary=x"),
    ("content-type", "application/x-www-form-urlencoded"), ("content-type", "\xff"),
    ("content-encoding", "gzip"), ("transfer-encoding", "gzip, chunked"), ("accept", "text/html"),
    ("content-length", "-1"), ("content-length", "9" * 50), ("content-length", "\xb2"),
    ("milepost-network", "ab" * 32), ("milepost-network", "\xff" * 500), ("expect", "100-continue"),
    ("range", "bytes=0-0,5-9"), ("range", "bytes=9-1"), ("range", "bytes=-"), ("range", "lines=1"),
    ("range", "bytes=" + "0-0," * 500), ("range", "bytes=99999999999999999999-"),
    ("range", "bytes=\xb2-\xb3"), ("range", "bytes=" + "9" * 5_000 + "-"),
    ("if-range", "x"), ("if-range", "\xff"), ("if-none-match", "*"), ("host", ""),
    ("cookie", "a=" * 2_000), ("origin", "null"),
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")


class Reply(NamedTuple):
    """What a request came to."""

    status: int
    kind: str
    body: bytes


class Door:
    """One node with a verdict on its chain, asked without any HTTP library between."""

    def __init__(self, cluster: Cluster, submission: str) -> None:
        node = cluster.nodes[0]
        self.app = cluster.network.nodes["node-0"].app
        self.home = str(cluster.homes[0]).encode()
        paths = self.app.openapi()["paths"]  # type: ignore[attr-defined]
        self.routes = sorted((path, method.upper()) for path in paths for method in paths[path])
        digest = next(iter(UPLOAD.files))
        self.names = (*NAMES, submission, submission[:8], digest.hex())
        hold = make_tx(
            Hold(bytes(32)), signer=make_signer("node-0"), valid_until=90, network=node.network
        )
        self.bodies = (
            encode(hold),
            cluster.sign(UPLOAD.submit),
            msgspec.msgpack.encode([("tx", encode(hold)), ("vote", b"\x96")]),
            msgspec.json.encode({"digests": [digest.hex(), "ab" * 32]}),
            UPLOAD.files[digest],
        )

    async def ask(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> Reply:
        """Speak to the application as the server does."""
        path, _, query = target.partition("?")
        pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode("utf-8", "replace"),
            "query_string": query.encode("utf-8", "replace"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        await self.app(scope, receive, send)
        start = next(each for each in sent if each["type"] == "http.response.start")
        fields = dict(start["headers"])
        parts = [each.get("body", b"") for each in sent if each["type"] == "http.response.body"]
        return Reply(start["status"], fields.get(b"content-type", b"").decode(), b"".join(parts))


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Door]]:
    """The door and the event loop behind it."""
    with asyncio.Runner() as runner:
        cluster = Cluster(tmp_path_factory.mktemp("node"), 1, limits=LIMITS)

        async def open_door() -> Door:
            cluster.start(0)
            cluster.announce(UPLOAD)
            async with cluster.connect() as client:
                return Door(cluster, await submit(cluster, client))

        try:
            yield runner, runner.run(open_door())
        finally:
            runner.run(cluster.stop())


async def submit(cluster: Cluster, client: httpx.AsyncClient) -> str:
    """Submit the record and wait for its verdict; returns the submission's id."""
    await put_files(client, UPLOAD.files)
    answer = await client.post("/v1/transactions", content=cluster.sign(UPLOAD.submit))
    assert answer.status_code == 202, answer.text
    await wait_until(lambda: cluster.nodes[0].runtime.state.verdicts, "a verdict")
    return str(answer.json()["submission"])


def make_target(rng: random.Random, door: Door) -> tuple[str, str]:
    """A method and a path, mostly of a route."""
    path, method = rng.choice(door.routes)
    path = re.sub(r"\{\w+\}", lambda _: rng.choice(door.names), path)
    if rng.random() < 0.1:
        path = rng.choice(("", "/", "//", "*", path + "/", path + "//x", path.upper(), "/" * 999))
    if rng.random() < 0.15:
        method = rng.choice(METHODS)
    if rng.random() < 0.5:
        names = ("limit", "before", "from", "from", "limit", "x", "\ud7ff", "%00")
        count = rng.choice((1, 1, 2, 3, 300))
        query = [f"{rng.choice(names)}={rng.choice(NUMBERS)}" for _ in range(count)]
        path += "?" + rng.choice(("&", "&", "&", ";", "=")).join(query)
    return method, path


def make_body(rng: random.Random, door: Door) -> bytes:
    """A body of one of the kinds that routes take, whole or hurt, or of none."""
    body = rng.choice((*door.bodies, b"", rng.randbytes(50), bytes(2**21)))
    if rng.random() < 0.3:
        return body
    return mutate(rng, body, rng.choice((MSGPACK_PIECES, TEXT_PIECES)))


def assert_proper(reply: Reply, door: Door, asked: str) -> None:
    """An answer, or a refusal that explains itself and shows nothing of this machine."""
    assert b"Traceback" not in reply.body, asked
    assert door.home not in reply.body, asked
    assert reply.status in {200, 201, 202, 204, 206, *STATUS.values(), 416, 422} - {500}, asked
    if reply.status >= 400 and reply.body and reply.kind.startswith("application/"):
        assert reply.kind == "application/problem+json", (asked, reply)
        problem = msgspec.json.decode(reply.body)
        assert problem["status"] == reply.status
        assert problem["type"].removeprefix("/problems/") in PROBLEMS
        assert len(reply.body) < 20_000, asked


@pytest.mark.parametrize("times", THOROUGH)
def test_no_request_breaks_a_node(times: int, door: tuple[asyncio.Runner, Door]) -> None:
    runner, node = door
    assert len(node.routes) > 12, "the description must list the routes"

    def check(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(5):
            method, target = make_target(rng, node)
            headers = rng.sample(HEADERS, rng.choice((0, 0, 1, 2)))
            body = make_body(rng, node)
            reply = runner.run(node.ask(method, target, headers, body))
            assert_proper(reply, node, f"{method} {target[:200]} {headers} {body[:60]!r}")

    run_property(check, st.integers(0, 2**32), examples=150, times=times)


def test_every_route_answers_what_it_is_for(door: tuple[asyncio.Runner, Door]) -> None:
    """Otherwise the driver may fail to reach what it drives."""
    runner, node = door
    submission, digest = node.names[-3], node.names[-1]
    for path, method in node.routes:
        if method != "GET":
            continue
        name = digest if "blobs" in path else submission
        target = path.format(height="1", name=name, slug="too-slow")
        target += "?from=1" if path.endswith("peer/blocks") else ""
        reply = runner.run(node.ask("GET", target, [], b""))
        assert reply.status == 200, (target, reply)
