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
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from milepost.bundle import write_trust
from milepost.errors import WrongUsage
from milepost.keys import read_key, write_key
from milepost.places import HOST, MAX_NODES, Place, make_local_places
from milepost_consensus.beacon import LINKS, Onion
from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.errors import InvalidInput
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
from milepost_consensus.views import from_view, parse_json, to_view

PROFILE: Final = "milepost.toml"
TRUST: Final = "network.trust"
GENESIS: Final = "genesis.json"
SUBMITTER_KEY: Final = "submitter.key"
BEHAVIOURS: Final = (
    "ordered",
    "chaotic",
    "lazy",
    "copycat",
    "colluding",
    "silent",
    "false-witness",
    "withholding",
)
"""Ways in which a node can be told to break the rules; `python -m milepost_node --behaviours` says
what each does, and a test that these are all."""
ATTEST_WINDOW: Final = 60
"""Heights in which an interval must be answered, on one machine."""
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


def make_local_params(
    *, liars: int, rule: str = RULES[0], attest_window: int = ATTEST_WINDOW
) -> Params:
    """The constants of a network on one machine, some of whose nodes are told to lie.

    A node that was stopped holds a verdict up for about a minute.  Every interval goes to one more
    verifier than there are liars: what a demonstration shows then does not hang on the draw.  Rule
    majority checks half of the intervals, as in the Diffusion paper.
    """
    return Params(
        rule=rule,
        audit_permille=500 if rule == "majority" else 1_000,
        auditors=min(liars + 1, MAX_AUDITORS),
        attest_window=attest_window,
        idle_block_ms=500,
    )


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
    """Write a new network of `nodes` validators on this machine, as `found_network` does.

    Raises WrongUsage if the number of nodes is out of range or the folder is not empty.
    """
    _require_unused(folder)
    return found_network(
        folder,
        make_local_places(nodes, first_port=first_port),
        name=name,
        malicious=malicious,
        threads=threads,
        params=params,
    )


def found_network(
    folder: Path,
    places: Sequence[Place],
    *,
    name: str,
    malicious: Mapping[int, str] | None = None,
    threads: Mapping[int, int] | None = None,
    params: Params | None = None,
    submitter_folder: str = ".",
) -> tuple[NodeHome, ...]:
    """Write a new network: a validator that is a verifier too at every place, and one submitter.

    `threads` says how many the workers of single nodes retrain with, one where it says nothing.
    The submitter's key lies in `submitter_folder` of the folder.  Raises WrongUsage if the folder
    is not empty.
    """
    _require_unused(folder)
    malicious = malicious or {}
    (folder / submitter_folder).mkdir(parents=True, exist_ok=True)
    homes = tuple(
        NodeHome(place.name, folder / f"node-{place.name}", place.url, malicious.get(i, ""))
        for i, place in enumerate(places)
    )
    members = [
        _write_home(home, places[i], (threads or {}).get(i, 1), name)
        for i, home in enumerate(homes)
    ]
    submitter = write_key(folder / submitter_folder / SUBMITTER_KEY)
    members.append(Member(submitter.public, "submitter", SUBMITTER, "submitter"))
    params = params or make_local_params(liars=len(malicious))
    genesis = Genesis(name, time.time_ns() // 1_000_000, params, tuple(members))
    validate_genesis(genesis)
    view = _dump(to_view(genesis))
    for holder in (folder, *(home.home for home in homes)):
        (holder / GENESIS).write_text(view)
    write_trust(folder / TRUST, make_trust(genesis))
    # Written last: a folder with a profile is complete.
    key = (Path(submitter_folder) / SUBMITTER_KEY).as_posix()
    write_profile(folder, [home.url for home in homes], key=key)
    return homes


def _require_unused(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise WrongUsage(f"{folder} is not empty. Choose another folder.", slug="folder-in-use")


def _write_home(home: NodeHome, place: Place, threads: int, network: str) -> Member:
    home.home.mkdir()
    signer = write_key(home.home / "node.key")
    (home.home / "node.toml").write_text(
        f'host = "{place.host}"\nport = {place.port}\nname = "{home.name}"\n'
        f'behaviour = "{home.behaviour}"\nbehaviour_network = {json.dumps(network)}\n'
        f"threads = {threads}\n"
    )
    return Member(
        *(signer.public, home.name, VALIDATOR | VERIFIER, home.name, place.endpoint),
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


def write_profile(folder: Path, urls: Sequence[str], *, key: str = SUBMITTER_KEY) -> None:
    """Write the `milepost.toml` of a folder that has a trust file."""
    listed = "".join(f'    "{url}",\n' for url in urls)
    (folder / PROFILE).write_text(
        "# Where the commands of this folder's network look. Paths are relative to this file.\n"
        f'nodes = [\n{listed}]\ntrust = "{TRUST}"\nkey = "{key}"\n'
    )


def _dump(view: object) -> str:
    return json.dumps(view, indent=2) + "\n"


def read_homes(folder: Path) -> tuple[NodeHome, ...]:
    """The node homes of a network folder, in the order of `milepost.toml`."""
    homes = []
    for path in folder.glob("node-*/node.toml"):
        settings = _read_toml(path)
        try:
            if settings["host"] != HOST:
                raise WrongUsage(
                    f"The nodes of {folder} run in containers or on several machines, not as"
                    " processes of this one.",
                    slug="folder-in-use",
                )
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


def read_genesis(folder: Path) -> Genesis:
    """The genesis in a network folder or in the home of a node."""
    file = folder / GENESIS
    try:
        genesis = from_view(Genesis, parse_json(file.read_bytes()))
        validate_genesis(genesis)
    except (OSError, InvalidInput) as error:
        raise WrongUsage(f"{file} cannot be read: {error}", slug="bad-genesis") from error
    return genesis


def read_rule(folder: Path) -> str:
    """The decision rule in the genesis of a network folder."""
    return read_genesis(folder).params.rule


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
