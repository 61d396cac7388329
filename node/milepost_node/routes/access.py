"""What every route starts with."""

from __future__ import annotations

from fastapi import Request

from milepost_node.errors import InvalidRequest
from milepost_node.node import Node
from milepost_node.peers import NETWORK_HEADER


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
