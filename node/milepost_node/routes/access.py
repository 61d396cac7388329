"""What every route starts with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from fastapi import Request

from milepost_node.errors import InvalidRequest
from milepost_node.node import Node
from milepost_node.peers import NETWORK_HEADER

READERS: Final = 2
"""Answers of size that are put together at the same time; others wait, holding nothing."""

P = ParamSpec("P")
T = TypeVar("T")


def get_node(request: Request) -> Node:
    """The node that serves this request."""
    node = request.app.state.node
    assert isinstance(node, Node)
    return node


def validate_network(request: Request, node: Node) -> None:
    """Raises InvalidRequest (wrong-network) if the caller says it belongs to another network."""
    named = request.headers.get(NETWORK_HEADER, "")
    if named and named != node.network.hex():
        raise InvalidRequest(
            f"this node speaks network {node.settings.genesis.network}"
            f" ({node.network.hex()[:16]}), the caller's is {named[:16]}",
            slug="wrong-network",
        )


async def run_aside(
    request: Request, work: Callable[P, T], *args: P.args, **options: P.kwargs
) -> T:
    """What `work` returns, from a thread: for whatever takes longer than a vote may wait."""
    readers: asyncio.Semaphore = request.app.state.readers
    async with readers:
        return await asyncio.to_thread(work, *args, **options)
