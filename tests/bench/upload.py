"""How fast a record's files get into a node, beside the least that a server can do with them.

The same client sends the same files to a bare uvicorn handler that throws them away, to one that
writes each to a file, to one that also flushes it to disk as a node must before it answers, and to
a node, which also names each by its SHA-256.  They take turns on one machine; what is compared
are medians of the ratios within each round.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from milepost.api import Client
from milepost.uploads import Blob, upload
from tests.support.node_processes import NodeProcesses, find_ports, poll

MIB: Final = 1 << 20
SIZES: Final = (32 * MIB,) * 6 + (MIB,) * 16 + (8 * 1024,) * 64
"""Of a record: snapshots, digests of steps, and small files; 208.5 MiB."""
ROUNDS: Final = 5
BARE: Final = """
import os, sys, tempfile, uvicorn

async def app(scope, receive, send):
    mode, folder = sys.argv[2:]
    file = tempfile.NamedTemporaryFile(dir=folder) if mode != "discards" else None
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        if file:
            file.write(message.get("body", b""))
    if file:
        if mode == "flushes":
            file.flush()
            os.fsync(file.fileno())
        file.close()
    head = [(b"content-length", b"2"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 201, "headers": head})
    await send({"type": "http.response.body", "body": b"{}"})

uvicorn.run(app, port=int(sys.argv[1]), http="httptools", loop="asyncio", lifespan="off",
            log_level="error", access_log=False)
"""


def _make_files(folder: Path) -> dict[bytes, Blob]:
    blobs: dict[bytes, Blob] = {}
    for number, size in enumerate(SIZES):
        path, hasher = folder / str(number), hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(0, size, MIB):
                piece = os.urandom(min(size, MIB))
                hasher.update(piece)
                file.write(piece)
        blobs[hasher.digest()] = (path, size)
    return blobs


def _is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", trust_env=False).status_code < 400
    except httpx.HTTPError:
        return False


@contextmanager
def _serve_bare(mode: str, folder: Path) -> Iterator[str]:
    (port,) = find_ports(1)
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port), mode, str(folder)])
    try:
        url = f"http://127.0.0.1:{port}"
        poll(lambda: _is_live(url), 60, "the bare server up")
        yield url
    finally:
        process.kill()
        process.wait()


def _measure(url: str, blobs: dict[bytes, Blob]) -> float:
    with Client([url], read_seconds=120) as client:
        begin = time.perf_counter()
        upload(client.node(url), blobs)
        return sum(SIZES) / (time.perf_counter() - begin) / 1e6


def _get_peak_mb(process: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1e3


def bench_upload() -> None:
    """Print megabytes per second of each server and the ratio of ours to the others."""
    with (
        tempfile.TemporaryDirectory() as name,
        NodeProcesses(Path(name) / "net", 4) as nodes,
        _serve_bare("discards", Path(name)) as discards,
        _serve_bare("writes", Path(name)) as writes,
        _serve_bare("flushes", Path(name)) as flushes,
    ):
        files = Path(name) / "files"
        files.mkdir()
        blobs = _make_files(files)
        nodes.start(0)
        ours = nodes.urls[0]
        poll(lambda: _is_live(ours), 120, "the node up")
        # Its worker's known-answer tests are over: they take a processor each.
        poll(lambda: nodes.get(0, "/v1/status")["device_classes"], 120, "the worker idle")
        urls = {"discards": discards, "writes": writes, "flushes": flushes, "node": ours}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        node_before = _get_peak_mb(nodes.running[0].pid)
        rates: dict[str, list[float]] = {key: [] for key in urls}
        for _ in range(ROUNDS):
            for key, url in urls.items():
                rates[key].append(_measure(url, blobs))
            for folder in (nodes.homes[0] / "blobs").iterdir():
                if folder.name != "incoming":
                    shutil.rmtree(folder)
        for key, measured in rates.items():
            ratios = [ours / other for ours, other in zip(rates["node"], measured, strict=True)]
            print(
                f"{key:9} {statistics.median(measured):6.0f} MB/s;"
                f" node / {key}: {statistics.median(ratios):.2f}"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        node_after = _get_peak_mb(nodes.running[0].pid)
        print(
            f"{len(SIZES)} files, {sum(SIZES) / 1e6:.0f} MB, {ROUNDS} rounds; peak memory: client"
            f" {before:.0f} to {after:.0f} MB, node {node_before:.0f} to {node_after:.0f} MB"
        )
