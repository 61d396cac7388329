"""HTTP servers on 127.0.0.1 that answer like nodes, or fail in chosen ways."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    body: bytes


class Reply(NamedTuple):
    """`body` of None closes the connection without an answer."""

    status: int = 200
    body: Any = None
    close: bool = False


class FakeNode:
    """A server that passes each request to `answer` and keeps what it got."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("content-length", 0))
                request = Request(self.command, self.path, self.rfile.read(length))
                node.requests.append(request)
                reply = answer(request)
                if reply.close:
                    self.close_connection = True
                    return
                data = (
                    reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                )
                self.send_response(reply.status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def running(*answers: Callable[[Request], Reply]) -> Iterator[list[FakeNode]]:
    """Fake nodes that are stopped at the end."""
    nodes = [FakeNode(answer) for answer in answers]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def always(
    status: int = 200, body: Any = None, *, close: bool = False
) -> Callable[[Request], Reply]:
    """The same answer to everything."""
    return lambda request: Reply(status, body if body is not None else {}, close)
