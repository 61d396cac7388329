"""What every route starts with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from fastapi import Request

from milepost_node.errors import InvalidRequest
from milepost_node.node import Node

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
    """Raises InvalidRequest if the caller says it is of another network or protocol."""
    try:
        node.identity.validate_caller(request.headers)
    except InvalidRequest as error:
        node.runtime.counts[error.slug] += 1
        raise


async def run_aside(
    request: Request, work: Callable[P, T], *args: P.args, **options: P.kwargs
) -> T:
    """What `work` returns, from a thread: for whatever takes longer than a vote may wait."""
    readers: asyncio.Semaphore = request.app.state.readers
    async with readers:
        return await asyncio.to_thread(work, *args, **options)
