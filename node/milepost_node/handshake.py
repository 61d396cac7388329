"""Which network a node is of and which protocol it speaks: said with every request to a peer.

Whoever gets a request of another network, genesis or protocol refuses it and says its own, so that
both sides can name what differs.  What a stranger says of itself is shown, never believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from milepost_node.errors import InvalidRequest

PROTOCOL: Final = 1
"""Of what nodes say to each other; another number is another language."""
NETWORK_HEADER: Final = "milepost-network"
PROTOCOL_HEADER: Final = "milepost-protocol"
MAX_REFUSAL_BYTES: Final = 16 * 1024
"""A refusal explains itself in less."""
SHOWN: Final = 64
"""Characters of a stranger's words."""


class Identity(NamedTuple):
    """What a node is of."""

    name: str
    """Of the network, for people."""
    network: bytes
    """The network's identity: the digest of its genesis."""
    protocol: int = PROTOCOL

    def make_headers(self) -> dict[str, str]:
        """What a request to a peer says."""
        return {NETWORK_HEADER: self.network.hex(), PROTOCOL_HEADER: str(self.protocol)}

    def validate_caller(self, headers: Mapping[str, str]) -> None:
        """Raises InvalidRequest (wrong-network, wrong-protocol) for a caller that cannot be a peer.

        Who names no network is no node, and may ask what it likes.
        """
        network = headers.get(NETWORK_HEADER, "")
        if not network:
            return
        protocol = headers.get(PROTOCOL_HEADER, "")
        if network != self.network.hex():
            slug = "wrong-network"
            differs = (
                f"this node is of network {self.name} with genesis {self.network.hex()[:16]}, the"
                f" caller's genesis is {network[:16]}"
            )
        elif protocol != str(self.protocol):
            slug = "wrong-protocol"
            differs = (
                f"this node speaks protocol {self.protocol}, the caller {protocol[:16] or 'none'}"
            )
        else:
            return
        raise InvalidRequest(
            differs,
            slug=slug,
            network=self.name,
            network_id=self.network.hex(),
            protocol=self.protocol,
        )

    def describe_refusal(self, body: bytes) -> str:
        """What differs from a peer that refused us with this answer, and what to do about it."""
        try:
            said = json.loads(body)
            name, network, protocol = said["network"], said["network_id"], said["protocol"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return "it is of another network, and does not say of which"
        theirs, ours = _show(network)[:16], self.network.hex()[:16]
        if network == self.network.hex():
            return (
                f"it speaks protocol {_show(protocol)}, this node {self.protocol}. Run the same"
                " release of milepost on both."
            )
        if name == self.name:
            differs = f"its network is called {self.name} too, but has genesis {theirs}, not {ours}"
        else:
            differs = (
                f"it is of network {_show(name)} (genesis {theirs}), this node of {self.name}"
                f" (genesis {ours})"
            )
        return (
            f"{differs}. Give both the same genesis.json: the right one has the network_id of the"
            " trust file. If it is this node's that is wrong, its chain.db goes as well."
        )


def _show(value: object) -> str:
    """A stranger's words as a log may hold them."""
    text = str(value)[:SHOWN]
    return text if text.isprintable() else ascii(text)
