"""Uploads: every file once, what failed stops the rest, memory that does not grow with the file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from milepost.api import Client, NodeFailed
from milepost.cli.upload_progress import UploadProgress
from milepost.errors import Refused
from milepost.uploads import CONNECTIONS, Blob, upload
from tests.support.fake_nodes import Reply, Request, running

MIB = 1 << 20


def make_blobs(folder: Path, count: int) -> dict[bytes, Blob]:
    blobs: dict[bytes, Blob] = {}
    for number in range(count):
        data = bytes([number]) * (100 + 1_000 * number)
        path = folder / str(number)
        path.write_bytes(data)
        blobs[hashlib.sha256(data).digest()] = (path if number % 2 else data, len(data))
    return blobs


def take(request: Request) -> Reply:
    assert request.path == f"/v1/blobs/{hashlib.sha256(request.body).hexdigest()}"
    return Reply(201, {"stored": "it"})


def test_every_file_arrives_once_and_the_bytes_are_counted(tmp_path: Path) -> None:
    blobs = make_blobs(tmp_path, 20)
    heard: list[int] = []
    with running(take) as (node,), Client([node.url]) as client:
        upload(client.node(node.url), blobs, heard.append)
    assert sorted(request.path for request in node.requests) == sorted(
        f"/v1/blobs/{digest.hex()}" for digest in blobs
    )
    assert sum(heard) == sum(size for _, size in blobs.values())


def test_nothing_is_sent_where_nothing_is_missing() -> None:
    with running(take) as (node,), Client([node.url]) as client:
        upload(client.node(node.url), {})
    assert node.requests == []


def test_files_are_sent_over_several_connections_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(CONNECTIONS)

    def wait_for_the_others(request: Request) -> Reply:
        together.wait(30)
        return take(request)

    with running(wait_for_the_others) as (node,), Client([node.url]) as client:
        upload(client.node(node.url), make_blobs(tmp_path, CONNECTIONS))
    assert len(node.requests) == CONNECTIONS


def test_what_the_node_has_of_a_file_is_not_sent_again(tmp_path: Path) -> None:
    blobs = make_blobs(tmp_path, 2)
    begun = {digest: 40 + number for number, digest in enumerate(blobs)}
    heard: list[int] = []
    with running(lambda request: Reply(201, {})) as (node,), Client([node.url]) as client:
        upload(client.node(node.url), blobs, heard.append, begun=begun)
    sent = {request.path: request.body for request in node.requests}
    for number, (digest, (content, _)) in enumerate(blobs.items()):
        data = content if isinstance(content, bytes) else content.read_bytes()
        assert sent[f"/v1/blobs/{digest.hex()}?from={40 + number}"] == data[40 + number :]
    assert sum(heard) == sum(size for _, size in blobs.values()) - 81


@pytest.mark.parametrize("slug", ["part-lost", "bad-digest"])
def test_a_lost_or_wrong_beginning_is_sent_after_all(tmp_path: Path, slug: str) -> None:
    def refuse_parts(request: Request) -> Reply:
        if "?from=" in request.path:
            return Reply(409, {"type": f"/problems/{slug}", "detail": "not here"})
        return take(request)

    blobs = make_blobs(tmp_path, 3)
    first = next(iter(blobs))
    with running(refuse_parts) as (node,), Client([node.url]) as client:
        upload(client.node(node.url), blobs, begun={first: 5})
    whole = [request.path for request in node.requests if "?" not in request.path]
    assert sorted(whole) == sorted(f"/v1/blobs/{digest.hex()}" for digest in blobs)


@pytest.mark.parametrize(
    ("slug", "begun"), [("bad-digest", 0), ("store-full", 5)], ids=["whole", "other"]
)
def test_other_refusals_are_not_tried_again(tmp_path: Path, slug: str, begun: int) -> None:
    def refuse(request: Request) -> Reply:
        return Reply(409, {"type": f"/problems/{slug}", "detail": "no"})

    blobs = make_blobs(tmp_path, 1)
    with (
        running(refuse) as (node,),
        Client([node.url]) as client,
        pytest.raises(Refused) as caught,
    ):
        upload(client.node(node.url), blobs, begun=dict.fromkeys(blobs, begun))
    assert (caught.value.slug, len(node.requests)) == (slug, 1)


@pytest.mark.parametrize(
    ("reply", "error"),
    [(Reply(507, {"detail": "full"}), NodeFailed), (Reply(413, {"detail": "large"}), Refused)],
)
def test_a_failure_stops_the_rest(tmp_path: Path, reply: Reply, error: type[Exception]) -> None:
    blobs = make_blobs(tmp_path, 40)
    with (
        running(lambda request: reply) as (node,),
        Client([node.url]) as client,
        pytest.raises(error),
    ):
        upload(client.node(node.url), blobs)
    assert len(node.requests) <= 2 * CONNECTIONS


def test_what_a_listener_raises_ends_the_upload(tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    blobs = make_blobs(tmp_path, 40)
    with (
        running(take) as (node,),
        Client([node.url]) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        upload(client.node(node.url), blobs, interrupt)
    assert len(node.requests) <= 2 * CONNECTIONS


class Swallower(BaseHTTPRequestHandler):
    """Takes a body of any size without keeping it."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, MIB)))
        self.send_response(201)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def swallower() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Swallower)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


UPLOAD = """
import resource, sys
from pathlib import Path
from milepost.api import Client
from milepost.uploads import upload

url, folder = sys.argv[1], Path(sys.argv[2])
def send(name):
    path = folder / name
    with Client([url], read_seconds=120) as client:
        upload(client.node(url), {bytes(32): (path, path.stat().st_size)})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = send("small")
print((send("large") - small) * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, swallower: str) -> None:
    (tmp_path / "small").write_bytes(bytes(4 * MIB))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(256 * MIB)
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, swallower, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 32 * MIB


def test_without_a_terminal_a_line_per_tenth_says_rate_and_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    progress = UploadProgress(read_clock=lambda: now)
    progress.start(200_000_000)
    for _ in range(100):
        now += 0.75
        progress.advance(2_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9, "a full upload is told by what follows"
    assert lines[0] == "Uploading     10 %  20.0 of 200.0 MB · 2.7 MB/s · 1:08 left"
    assert lines[8] == "Uploading     90 %  180.0 of 200.0 MB · 2.7 MB/s · 0:08 left"


def test_an_upload_that_is_over_at_once_tells_no_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = UploadProgress(read_clock=lambda: 5.0)
    progress.start(100)
    for _ in range(10):
        progress.advance(10)
    progress.start(0)
    progress.advance(1)
    progress.stop()
    assert capsys.readouterr().err == ""
