"""Start a node: `python -m milepost_node --home DIR`, or the script `milepost-node`.

`--behaviours` lists how a node can be told to break the rules, for programs that import no node.
Ends with 0 after SIGTERM or Ctrl-C, with 1 if the node failed, with 2 if it cannot start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import uvicorn

from milepost_node.app import make_app
from milepost_node.behaviours.builtin import BEHAVIOURS
from milepost_node.errors import NodeError, SettingsError
from milepost_node.http_protocol import BoundedProtocol
from milepost_node.logs import configure_logs
from milepost_node.node import Node
from milepost_node.settings import Settings, read_settings

logger = logging.getLogger("milepost_node.main")

KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the clients of other nodes keep a connection, so that they close it, not we."""
BACKLOG: Final = 512
GRACE_SECONDS: Final = 3
"""What requests in progress get to finish when the node stops."""


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: stopping is for `serve` to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(node: Node) -> Server:
    """The HTTP server of a node, not yet running."""
    return Server(
        uvicorn.Config(
            make_app(node),
            http=BoundedProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=node.settings.limits.connections,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def open_socket(settings: Settings) -> socket.socket:
    """The listening socket; raises SettingsError (port-in-use) if it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        # Connections inherit it; asyncio sets it only on sockets that it made itself.  Without it
        # an answer's body waits up to 40 ms until its head is acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise SettingsError(
            f"Node {settings.name} cannot listen at {settings.host}:{settings.port}:"
            f" {error.strerror or error}.",
            slug="port-in-use",
        ) from error


async def serve(settings: Settings) -> int:
    """Run a node until a signal or a failure ends it; returns the exit code."""
    listener = open_socket(settings)
    node = Node(settings)
    server = make_server(node)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    async def stop_on_failure() -> None:
        await node.failed.wait()
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    watch = asyncio.create_task(stop_on_failure())
    node.start()
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()
        await node.stop()
    return 1 if node.failed.is_set() else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="milepost-node", description="Run a Milepost node.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--home",
        type=Path,
        help="folder with node.toml, node.key and genesis.json; the chain is kept there too",
    )
    what.add_argument(
        "--behaviours",
        action="store_true",
        help="print the ways in which a node can be told to break the rules, as JSON, and end",
    )
    options = parser.parse_args(arguments)
    if options.behaviours:
        print(json.dumps({name: each.summary for name, each in BEHAVIOURS.items()}, indent=2))
        return
    home = options.home
    try:
        settings = read_settings(home)
        configure_logs(home, settings.log_level)
        code = asyncio.run(serve(settings))
    except NodeError as error:
        print(f"milepost-node: {error}\n(milepost explain {error.slug})", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
