"""A network as a folder: genesis, trust file, keys, node homes, and `milepost.toml` for clients.

    milepost-dev/
      milepost.toml   network.trust   genesis.json   submitter.key
      node-arbutus/   node.toml   node.key   genesis.json

`write_network` makes one on this machine; `find_network` finds what a command should talk to.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Final, NamedTuple

from milepost.bundle import write_trust
from milepost.errors import MachineCannot, WrongUsage
from milepost.keys import read_key, write_key
from milepost_consensus.beacon import LINKS, Onion
from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.light import make_trust
from milepost_consensus.members import (
    SUBMITTER,
    VALIDATOR,
    VERIFIER,
    Genesis,
    Member,
    validate_genesis,
)
from milepost_consensus.params import MAX_AUDITORS, RULES, Params
from milepost_consensus.views import to_view

HOST: Final = "127.0.0.1"
PROFILE: Final = "milepost.toml"
TRUST: Final = "network.trust"
GENESIS: Final = "genesis.json"
SUBMITTER_KEY: Final = "submitter.key"
BEHAVIOURS: Final = (
    "ordered",
    "chaotic",
    "lazy",
    "colluding",
    "silent",
    "false-witness",
    "withholding",
)
"""Ways in which a node can be told to break the rules; `python -m milepost_node --behaviours` says
what each does, and a test that these are all."""
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

_BEHAVIOUR: Final = re.compile(r'^behaviour = ".*"$', re.MULTILINE)


class Profile(NamedTuple):
    """What `milepost.toml` says: whom to ask, whom to trust, whose key to sign with."""

    nodes: tuple[str, ...]
    trust: Path | None
    key: Path | None
    source: Path | None
    """The file, or None where the command line said everything."""


class NodeHome(NamedTuple):
    """The folder of one node of a local network."""

    name: str
    home: Path
    url: str
    behaviour: str


def get_name(index: int) -> str:
    """The name of node `index`: a tree, numbered from the second round on."""
    name = NAMES[index % len(NAMES)]
    return name if index < len(NAMES) else f"{name}-{index // len(NAMES) + 1}"


def parse_malicious(values: Sequence[str], *, nodes: int) -> dict[int, str]:
    """The behaviours of `K:KIND`, such as `1:chaotic`, dealt to the last nodes.

    Raises WrongUsage where the form is wrong or more nodes shall misbehave than there are.
    """
    behaviours: list[str] = []
    for value in values:
        count, _, kind = value.partition(":")
        if not count.isdecimal() or kind not in BEHAVIOURS:
            raise WrongUsage(
                f"--malicious {value}: write a number and a kind, such as 1:chaotic; kinds are"
                f" {', '.join(BEHAVIOURS)}."
            )
        behaviours += [kind] * min(int(count), MAX_NODES + 1)
    if len(behaviours) > nodes:
        raise WrongUsage(f"{len(behaviours)} nodes shall misbehave, but there are only {nodes}.")
    return {nodes - len(behaviours) + i: kind for i, kind in enumerate(behaviours)}


def make_local_params(*, liars: int, rule: str = RULES[0]) -> Params:
    """The constants of a network on one machine, some of whose nodes are told to lie.

    A node that was stopped holds a verdict up for about a minute.  Every interval goes to one more
    verifier than there are liars: what a demonstration shows then does not hang on the draw.  Rule
    majority checks half of the intervals, as in the Diffusion paper.
    """
    return Params(
        rule=rule,
        audit_permille=500 if rule == "majority" else 1_000,
        auditors=min(liars + 1, MAX_AUDITORS),
        attest_window=60,
        idle_block_ms=500,
    )


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


def write_network(
    folder: Path,
    *,
    name: str,
    nodes: int,
    malicious: Mapping[int, str] | None = None,
    threads: Mapping[int, int] | None = None,
    params: Params | None = None,
    first_port: int = 0,
) -> tuple[NodeHome, ...]:
    """Write a new network of `nodes` validators that are verifiers too, and one submitter.

    `threads` says how many the workers of single nodes retrain with, one where it says nothing.
    Raises WrongUsage if the number of nodes is out of range or the folder is not empty.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise WrongUsage(f"--nodes {nodes}: 1 to {MAX_NODES} are possible on one machine.")
    if folder.exists() and any(folder.iterdir()):
        raise WrongUsage(f"{folder} is not empty. Choose another --dir.", slug="folder-in-use")
    malicious = malicious or {}
    folder.mkdir(parents=True, exist_ok=True)
    ports = choose_ports(nodes, first=first_port)
    homes = tuple(
        NodeHome(
            get_name(i),
            folder / f"node-{get_name(i)}",
            f"http://{HOST}:{ports[i]}",
            malicious.get(i, ""),
        )
        for i in range(nodes)
    )
    members = [_write_home(home, (threads or {}).get(i, 1), name) for i, home in enumerate(homes)]
    submitter = write_key(folder / SUBMITTER_KEY)
    members.append(Member(submitter.public, "submitter", SUBMITTER, "submitter"))
    params = params or make_local_params(liars=len(malicious))
    genesis = Genesis(name, time.time_ns() // 1_000_000, params, tuple(members))
    validate_genesis(genesis)
    view = _dump(to_view(genesis))
    for place in (folder, *(home.home for home in homes)):
        (place / GENESIS).write_text(view)
    write_trust(folder / TRUST, make_trust(genesis))
    # Written last: a folder with a profile is complete.
    (folder / PROFILE).write_text(_profile_text([home.url for home in homes]))
    return homes


def _write_home(home: NodeHome, threads: int, network: str) -> Member:
    home.home.mkdir()
    signer = write_key(home.home / "node.key")
    port = home.url.rpartition(":")[2]
    (home.home / "node.toml").write_text(
        f'host = "{HOST}"\nport = {port}\nname = "{home.name}"\n'
        f'behaviour = "{home.behaviour}"\nbehaviour_network = {json.dumps(network)}\n'
        f"threads = {threads}\n"
    )
    return Member(
        *(signer.public, home.name, VALIDATOR | VERIFIER, home.name, home.url),
        onion=Onion(signer.derive, signer.public).get_head(0),
        onion_left=LINKS,
    )


def set_malicious(homes: Sequence[NodeHome], malicious: Mapping[int, str]) -> tuple[NodeHome, ...]:
    """The same homes with these behaviours for their next start; all others honest."""
    changed = []
    for i, home in enumerate(homes):
        kind = malicious.get(i, "")
        if kind != home.behaviour:
            file = home.home / "node.toml"
            # Only this line: the operator may have set other things beside it.
            file.write_text(_BEHAVIOUR.sub(f'behaviour = "{kind}"', file.read_text()))
        changed.append(home._replace(behaviour=kind))
    return tuple(changed)


def _profile_text(urls: Sequence[str]) -> str:
    listed = "".join(f'    "{url}",\n' for url in urls)
    return (
        "# Where the commands of this folder's network look. Paths are relative to this file.\n"
        f'nodes = [\n{listed}]\ntrust = "{TRUST}"\nkey = "{SUBMITTER_KEY}"\n'
    )


def _dump(view: object) -> str:
    return json.dumps(view, indent=2) + "\n"


def read_homes(folder: Path) -> tuple[NodeHome, ...]:
    """The node homes of a network folder, in the order of `milepost.toml`."""
    homes = []
    for path in folder.glob("node-*/node.toml"):
        settings = _read_toml(path)
        try:
            url = f"http://{settings['host']}:{settings['port']}"
            homes.append(
                NodeHome(str(settings["name"]), path.parent, url, str(settings["behaviour"]))
            )
        except KeyError as error:
            raise WrongUsage(f"{path} lacks {error}.", slug="bad-config") from error
    order = {url: i for i, url in enumerate(read_profile(folder).nodes)}
    return tuple(sorted(homes, key=lambda home: order.get(home.url, len(order))))


def read_profile(path: Path) -> Profile:
    """The profile in a `milepost.toml`, or in a folder that has one."""
    file = path / PROFILE if path.is_dir() else path
    if not file.is_file():
        raise WrongUsage(f"There is no network at {path}: no {PROFILE}.", slug="no-network")
    settings = _read_toml(file)
    nodes = settings.get("nodes", [])
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise WrongUsage(f"{file}: nodes must be a list of URLs.", slug="bad-config")

    def locate(name: str) -> Path | None:
        value = settings.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise WrongUsage(f"{file}: {name} must be the name of a file.", slug="bad-config")
        return file.parent / value

    return Profile(tuple(nodes), locate("trust"), locate("key"), file)


def read_rule(folder: Path) -> str:
    """The decision rule in the genesis of a network folder."""
    try:
        return str(json.loads((folder / GENESIS).read_text())["params"]["rule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongUsage(f"{folder / GENESIS} cannot be read: {error}", slug="bad-genesis") from (
            error
        )


def _read_toml(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}", slug="bad-config") from error


def find_profile(network: Path | None = None) -> Profile | None:
    """The first of: `network`, $MILEPOST_NETWORK, ./milepost.toml, ./milepost-dev; None if none."""
    if network is not None:
        return read_profile(network)
    named = os.environ.get("MILEPOST_NETWORK")
    if named:
        return read_profile(Path(named))
    for place in (Path(PROFILE), Path("milepost-dev")):
        if (place / PROFILE if place.is_dir() else place).is_file():
            return read_profile(place)
    return None


def find_network(network: Path | None = None, nodes: Sequence[str] = ()) -> Profile:
    """The profile to use, with `nodes` in place of its URLs where given.

    Raises WrongUsage (slug no-network) if nothing says which nodes to ask.
    """
    profile = find_profile(network)
    if nodes:
        urls = tuple(node.rstrip("/") for node in nodes)
        if profile is None:
            return Profile(urls, None, None, None)
        return profile._replace(nodes=urls)
    if profile is None or not profile.nodes:
        raise WrongUsage(
            "No network to talk to: neither --node nor --network nor MILEPOST_NETWORK is given, and"
            f" here is neither {PROFILE} nor milepost-dev. Start one with: milepost dev",
            slug="no-network",
        )
    return profile


def get_signer(profile: Profile, key: Path | None = None) -> Ed25519Signer:
    """The signer of `key`, else of the profile's key file; WrongUsage if there is neither."""
    path = key or profile.key
    if path is None:
        raise WrongUsage("No key to sign with. Name one with --key.", slug="bad-key")
    return read_key(path)
