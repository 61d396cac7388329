"""Where the nodes of a new network listen, and where others reach them.

As processes of this machine, as containers of this machine, or on machines that have names.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from random import SystemRandom
from typing import Final, NamedTuple

from milepost.errors import MachineCannot, WrongUsage

HOST: Final = "127.0.0.1"
ANY_HOST: Final = "0.0.0.0"  # noqa: S104 - what a container or a machine of its own listens at
PORT: Final = 8421
MAX_NODES: Final = 64
"""More processes than that do not fit one machine."""

NAMES: Final = (
    "arbutus",
    "birch",
    "cedar",
    "dogwood",
    "elm",
    "fir",
    "gorse",
    "hazel",
    "ironwood",
    "juniper",
    "kauri",
    "larch",
    "maple",
    "nutmeg",
    "oak",
    "pine",
    "quince",
    "rowan",
    "spruce",
    "tamarack",
    "upas",
    "viburnum",
    "willow",
    "yew",
)

PORTS: Final = range(20_000, 32_000)
"""Below the range from which kernels take ports for outgoing connections."""


_HOST_NAME: Final = re.compile(
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:(?P<port>[0-9]{1,5}))?"
)


class Place(NamedTuple):
    """One node's place."""

    name: str
    host: str
    """The address at which it listens."""
    port: int
    endpoint: str
    """The URL at which other nodes reach it; it stands in the genesis."""
    url: str
    """The URL at which clients on this machine reach it."""


def get_name(index: int) -> str:
    """The name of node `index`: a tree, numbered from the second round on."""
    name = NAMES[index % len(NAMES)]
    return name if index < len(NAMES) else f"{name}-{index // len(NAMES) + 1}"


def make_local_places(nodes: int, *, first_port: int = 0) -> tuple[Place, ...]:
    """Processes of this machine at neighbouring free ports, from `first_port` on if they are free.

    Raises WrongUsage if the number of nodes is out of range.
    """
    _validate_count(nodes)
    ports = choose_ports(nodes, first=first_port)
    return tuple(
        Place(get_name(i), HOST, port, f"http://{HOST}:{port}", f"http://{HOST}:{port}")
        for i, port in enumerate(ports)
    )


def make_container_places(nodes: int, *, first_port: int = PORT) -> tuple[Place, ...]:
    """Containers of one Compose project: a service a node, each with an address of its own.

    They reach each other by service name; this machine reaches them at ports from `first_port` on.
    Raises WrongUsage if the number of nodes or a port is out of range.
    """
    _validate_count(nodes)
    if not 1 <= first_port <= 65_536 - nodes:
        raise WrongUsage(f"--port {first_port}: must leave room for {nodes} ports up to 65535.")
    return tuple(
        Place(name, ANY_HOST, PORT, f"http://{name}:{PORT}", f"http://{HOST}:{first_port + i}")
        for i, name in enumerate(map(get_name, range(nodes)))
    )


def make_machine_places(hosts: Sequence[str]) -> tuple[Place, ...]:
    """A node on each of these machines, written NAME or NAME:PORT.

    Raises WrongUsage for what is no host name, or if two nodes would be at the same place.
    """
    _validate_count(len(hosts))
    places = []
    for i, written in enumerate(hosts):
        match = _HOST_NAME.fullmatch(written)
        port = int(match["port"] or PORT) if match else 0
        if match is None or not 1 <= port <= 65_535:
            raise WrongUsage(f"--host {written}: write a name, or NAME:PORT.")
        url = f"http://{match['host']}:{port}"
        places.append(Place(get_name(i), ANY_HOST, port, url, url))
    if len({place.url for place in places}) < len(places):
        raise WrongUsage("Two nodes cannot be at the same --host and port.")
    return tuple(places)


def _validate_count(nodes: int) -> None:
    if not 1 <= nodes <= MAX_NODES:
        raise WrongUsage(f"--nodes {nodes}: 1 to {MAX_NODES} are possible.")


def choose_ports(count: int, *, first: int = 0) -> tuple[int, ...]:
    """`count` neighbouring free ports on 127.0.0.1: from `first` on if free, else anywhere."""
    if first and _are_free(range(first, first + count)):
        return tuple(range(first, first + count))
    chance = SystemRandom()
    for _ in range(200):
        start = chance.randrange(PORTS.start, PORTS.stop - count)
        if _are_free(range(start, start + count)):
            return tuple(range(start, start + count))
    raise MachineCannot(
        f"{count} free neighbouring ports on {HOST} were not found.", slug="no-port"
    )


def _are_free(ports: range) -> bool:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                return False
    return True
