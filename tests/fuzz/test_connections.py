"""Raw bytes at the node's real HTTP server: what no client library would send."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost_node import bodies, http_protocol
from milepost_node.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS
from milepost_node.settings import Limits
from tests.fuzz.hostile import make_hostile_requests
from tests.fuzz.stage import LoopWatch, Stage, make_request, open_stage
from tests.support.nodes import wait_until

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing here takes one."""
DIGEST = "ab" * 32


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    # Tests wait for what honest clients never see.
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(http_protocol, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 0.3)
    async with asyncio.timeout(PATIENCE), open_stage(tmp_path) as made:
        yield made


async def assert_alive(stage: Stage) -> None:
    """The node goes on as if nothing had been."""
    answer = await stage.say(make_request("GET", "/v1/status"))
    assert answer.status == 200
    assert not stage.node.failed.is_set()


async def test_a_head_without_end_is_cut_off(stage: Stage) -> None:
    sent = 0

    async def flood(line: bytes) -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(b"GET /v1/status HTTP/1.1\r\n")
        sent = 0
        try:
            while not writer.is_closing() and not reader.at_eof() and sent < 10**8:
                writer.write(line)
                await writer.drain()
                sent += len(line)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        writer.transport.abort()

    for line in (b"a: b\r\n" * 1_000, b"a" * 10_000, b"x: " + b"y" * 10_000):
        await flood(line)
        assert sent < 100 * MAX_HEAD_BYTES, "the sockets' own buffers and no more"
    await assert_alive(stage)


async def test_the_number_of_headers_is_limited(stage: Stage) -> None:
    few, many = (
        make_request("GET", "/v1/status", headers=[f"x-{n}: y" for n in range(count)])
        for count in (MAX_HEADERS - 2, MAX_HEADERS)
    )
    assert (await stage.say(few)).status == 200
    assert (await stage.say(many)).status == 400
    await assert_alive(stage)


async def test_connections_that_say_nothing_are_closed(stage: Stage) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(20)]
    trickling = [await asyncio.open_connection("127.0.0.1", stage.port) for _ in range(20)]
    for number, (_, writer) in enumerate(trickling):
        writer.write(b"GET /v1/status HTTP/1.1\r\nx: y\r\n"[: number + 1])
    ends = await asyncio.gather(*(reader.read() for reader, _ in silent + trickling))
    assert all(not end or end.startswith(b"HTTP/1.1 400") for end in ends)
    for _, writer in silent + trickling:
        writer.transport.abort()
    await assert_alive(stage)


async def test_kept_connections_may_be_idle_between_requests(stage: Stage) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    for _ in range(2):
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"}")
        await asyncio.sleep(0.5)  # longer than a head may take
    writer.transport.abort()


@pytest.mark.parametrize("path", ["/v1/transactions", "/v1/peer/messages", "/v1/blobs/missing"])
async def test_bodies_that_do_not_come_are_given_up(stage: Stage, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    length = (head + "content-length: 1000\r\n\r\n").encode()
    chunked = (head + "transfer-encoding: chunked\r\n\r\n").encode()
    starts = (length, length + b"x" * 999, chunked, chunked + b"5\r\nabcde\r\n")
    for answer in await asyncio.gather(*(stage.say(start) for start in starts)):
        assert answer.status == 408
        assert b"/problems/too-slow" in answer.data
    await assert_alive(stage)


async def test_a_file_that_trickles_in_leaves_nothing_behind(stage: Stage) -> None:
    head = f"PUT /v1/blobs/{DIGEST} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode()
    assert (await stage.say(head + b"abc", read_bytes=500)).status == 408
    # What was answered with its body unfinished is not kept either.
    incoming = stage.node.settings.home / "blobs" / "incoming"
    assert list(incoming.iterdir()) == []
    assert stage.node.blobs.used_bytes == 0


async def test_a_file_that_is_cut_off_is_gone_on_with(stage: Stage) -> None:
    data = random.Random(7).randbytes(3 * 2**20)
    name = hashlib.sha256(data).hexdigest()
    head = f"PUT /v1/blobs/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(head.encode() + data[: 2 * 2**20])
    await writer.drain()
    await asyncio.sleep(0)
    writer.close()
    parts = stage.node.blobs
    await wait_until(lambda: bool(parts.get_begun([bytes.fromhex(name)])), "a part")
    question = json.dumps({"digests": [name]}).encode()
    answer = await stage.say(make_request("POST", "/v1/blobs/missing", question))
    count = json.loads(answer.data.partition(b"\r\n\r\n")[2])["begun"][name]
    assert 2**20 <= count <= 2 * 2**20
    late = await stage.say(make_request("PUT", f"/v1/blobs/{name}?from={count + 1}", b""))
    assert (late.status, b"/problems/part-lost" in late.data) == (409, True)
    rest = make_request("PUT", f"/v1/blobs/{name}?from={count}", data[count:])
    assert (await stage.say(rest)).status == 201
    assert stage.node.blobs.get_path(bytes.fromhex(name)).read_bytes() == data
    for wrong in ("-1", "x", str(2**63)):
        answer = await stage.say(make_request("PUT", f"/v1/blobs/{name}?from={wrong}", b""))
        assert answer.status == 422, wrong


async def test_large_bodies_may_follow_each_other_on_a_kept_connection(stage: Stage) -> None:
    body = b"\x90" + bytes(2**20 - 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    for _ in range(3):
        writer.write(
            b"POST /v1/peer/messages HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(body[: 2**19])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(body[2**19 :])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 422"), "read to its end, and refused for what it is"
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.transport.abort()


async def test_bodies_without_end_are_cut_off(stage: Stage) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    for path, limit in (("/v1/transactions", 2**20), ("/v1/blobs/missing", 2**20)):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        answer = await stage.say(head, *[chunk] * (limit // 0x10000 + 1), read_bytes=100)
        assert answer.status == 413
    await assert_alive(stage)


async def test_unfinished_bodies_are_bounded_together(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 30.0)
    budget = bodies.BodyBudget(2**20)
    stage.app.state.bodies = budget
    head = b"POST /v1/peer/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    kept = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(head + b"content-length: 20000000\r\n\r\n" + bytes(500_000))
        kept.append((reader, writer))
    await wait_until(lambda: budget.held_bytes > 2 * 400_000)
    late = await stage.say(head + b"content-length: 600000\r\n\r\n" + bytes(600_000))
    assert late.status == 503
    assert b"/problems/busy" in late.data
    small = b"\x90"
    answer = await stage.say(make_request("POST", "/v1/peer/messages", small))
    assert answer.status == 204, "small bodies come through"
    for _, writer in kept:
        writer.transport.abort()
    await wait_until(lambda: budget.held_bytes == 0)


async def test_broken_requests_are_refused(stage: Stage) -> None:
    post = b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\n"
    chunked = post + b"transfer-encoding: chunked\r\n\r\n"
    cases = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        post + b"content-length: -1\r\n\r\n",
        post + b"content-length: " + b"9" * 5_000 + b"\r\n\r\n",
        post + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        chunked + b"zz\r\n",
        chunked + b"f" * 40 + b"\r\n",
        b"\r\n" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    for raw in cases:
        answer = await stage.say(raw, read_bytes=300)
        assert answer.status in (0, 400, 408, 422), (raw[:60], answer.data[:200])
        assert b"Traceback" not in answer.data
    await assert_alive(stage)


async def test_many_pipelined_requests_are_answered_one_after_the_other(stage: Stage) -> None:
    one = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    last = make_request("GET", "/health/live")
    answer = await stage.say(one * 2_000 + last)
    assert answer.data.count(b"HTTP/1.1 200") == 2_001


@pytest.mark.slow
async def test_a_reader_that_does_not_read_is_let_go(stage: Stage) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    transport = writer.transport
    transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(400):
        writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
        await asyncio.sleep(0)
        if transport.is_closing():
            break
    await wait_until(lambda: not stage.server.server_state.connections)
    transport.abort()
    await assert_alive(stage)


@pytest.mark.slow
async def test_the_event_loop_is_never_held_for_seconds(tmp_path: Path) -> None:
    """The figure is in `python -m tests.bench stalls`; this is a watchdog for what hangs."""
    limits = Limits(blob_bytes=10**6, store_bytes=10**7)
    async with (
        asyncio.timeout(PATIENCE),
        open_stage(tmp_path, limits=limits) as stage,
        LoopWatch() as watch,
    ):
        for name, raw in make_hostile_requests(stage.node).items():
            await stage.say(raw)
            _, busy = watch.take()
            assert busy < 5.0, name
        await assert_alive(stage)
