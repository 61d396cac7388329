"""A node behind its real HTTP server on 127.0.0.1, and strangers who speak raw bytes to it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI

from milepost_consensus.members import compute_network_id
from milepost_node.__main__ import Server, make_server
from milepost_node.clock import read_monotonic
from milepost_node.node import Node
from milepost_node.settings import Limits
from milepost_node.store import Decision, Store
from tests.support.ledger import Ledger, make_record
from tests.support.nodes import Cluster, ScriptedRetracer, certify, make_named_genesis, wait_until

TICK_SECONDS = 0.002


class LoopWatch:
    """Measures how late the event loop wakes up a task that wants to run all the time.

    `busiest_seconds` is the processor time of the loop's own thread in such a time: what other
    programs of the machine take is not in it, nor is the time of other threads.
    """

    def __init__(self) -> None:
        self.latest_seconds = 0.0
        self.busiest_seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    async def _watch(self) -> None:
        while True:
            before, busy = read_monotonic(), time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            late = read_monotonic() - before - TICK_SECONDS
            self.latest_seconds = max(self.latest_seconds, late)
            self.busiest_seconds = max(self.busiest_seconds, time.thread_time() - busy)

    def take(self) -> tuple[float, float]:
        """The greatest lateness and processor time since the last call, in seconds."""
        taken = self.latest_seconds, self.busiest_seconds
        self.latest_seconds = self.busiest_seconds = 0.0
        return taken

    async def __aenter__(self) -> LoopWatch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()


class Answer(NamedTuple):
    """What came back over one connection."""

    status: int
    data: bytes
    """Everything, head included."""


class Stage(NamedTuple):
    """A served node."""

    node: Node
    port: int
    server: Server
    cluster: Cluster

    @property
    def app(self) -> FastAPI:
        """The application behind the server."""
        app = self.server.config.app
        assert isinstance(app, FastAPI)
        return app

    async def say(self, *pieces: bytes, read_bytes: int = 2**26) -> Answer:
        """Open a connection, send all pieces, and read until the server closes it or is silent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = bytearray()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            while len(data) < read_bytes and (block := await reader.read(2**16)):
                data += block
        except ConnectionError:
            pass  # the server had enough; what it said before counts
        finally:
            writer.transport.abort()
        status = int(data[9:12]) if data.startswith(b"HTTP/1.1 ") else 0
        return Answer(status, bytes(data))


def make_request(
    method: str, path: str, body: bytes | None = None, headers: Sequence[str] = ()
) -> bytes:
    """A request after whose answer the connection ends."""
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


@asynccontextmanager
async def open_stage(
    folder: Path,
    *,
    ledger: Ledger | None = None,
    limits: Limits | None = None,
    retracer: ScriptedRetracer | None = None,
) -> AsyncIterator[Stage]:
    """One of four nodes, with the chain of `ledger` on its disk if there is one."""
    genesis = make_named_genesis(4)
    cluster = Cluster(folder, 4, limits=limits)
    assert cluster.genesis == genesis
    if ledger is not None:
        write_chain(cluster.homes[0], ledger)
    node = cluster.open(0, retracer)
    server = make_server(node)
    listener = socket.create_server(("127.0.0.1", 0))
    node.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await wait_until(lambda: server.started)
        yield Stage(node, listener.getsockname()[1], server, cluster)
    finally:
        server.should_exit = True
        server.force_exit = True
        await serving
        await cluster.stop(0)


def make_ledger() -> Ledger:
    """The ledger of the stage's network at height 0."""
    return Ledger(make_named_genesis(4))


def make_large_ledger(submissions: int, intervals: int) -> Ledger:
    """A chain whose submissions have thousands of duties, most of them answered."""
    ledger = make_ledger()
    for number in range(submissions):
        record = make_record(f"run {number}", intervals=intervals, steps_per_interval=1)
        submission = ledger.start(record)
        duties = [duty for duty in ledger.get(submission).duties if not duty.answer]
        for first in range(0, min(len(duties), 900), 900):
            ledger.apply(ledger.attest(submission, duty) for duty in duties[first : first + 900])
    return ledger


def write_chain(home: Path, ledger: Ledger) -> None:
    """Put a ledger's blocks into the database of a home."""
    state = make_ledger().state
    store = Store(home / "chain.db", compute_network_id(make_named_genesis(4)))
    store.commit(None, [Decision(block, certify(block, state), {}) for block in ledger.blocks])
    store.close()
