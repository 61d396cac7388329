"""Looks a home over before or while its node runs: `python -m milepost_node.doctor --home DIR`.

Prints one JSON array of findings, each with a state (ok, warn, fail), what was looked at, and in
words what there is and what to do.  Nothing is changed; the database is opened for reading.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from milepost_consensus.members import compute_network_id, compute_quorum, get_validators
from milepost_node.clock import read_wall_ms
from milepost_node.errors import NodeError
from milepost_node.handshake import Identity
from milepost_node.node import VERSION
from milepost_node.retracer import Workers
from milepost_node.settings import MIB, Settings, read_settings

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
LEAST_FREE_BYTES: Final = 256 * MIB
"""Below this a node soon cannot store what it signs, and stops."""
CLOCK_SECONDS: Final = 2.0
"""Peers state their time to the second; less than this cannot be told."""
ASK_SECONDS: Final = 5.0


class Finding(NamedTuple):
    """What one look found."""

    state: str
    name: str
    detail: str


class Answer(NamedTuple):
    """What came of asking one peer."""

    name: str
    url: str
    status: dict[str, Any] | None
    offset_seconds: float
    """The peer's clock less this one."""
    trouble: str


async def examine(home: Path) -> list[Finding]:
    """Everything that can be looked at; what needs settings only if they can be read."""
    try:
        settings = read_settings(home)
    except NodeError as error:
        return [Finding(FAIL, "settings", f"{error} (milepost explain {error.slug})")]
    findings = [
        Finding(OK, "settings", f"node {settings.name} listens at {settings.host}:{settings.port}"),
        Finding(OK, "key", f"{settings.signer.public.hex()[:16]}, readable by its owner only"),
        _examine_genesis(settings),
        *_examine_database(settings),
        _examine_disk(settings),
        await _examine_devices(settings),
    ]
    answers = await _ask_peers(settings)
    findings += _examine_peers(settings, answers)
    findings += _examine_clock(settings, answers)
    return findings


def _examine_genesis(settings: Settings) -> Finding:
    genesis = settings.genesis
    network = compute_network_id(genesis).hex()
    mine = [member for member in genesis.members if member.id == settings.signer.public]
    text = f"network {genesis.network}, genesis {network[:16]}"
    if mine:
        return Finding(OK, "genesis", f"{text}, this key is its member {mine[0].name}")
    return Finding(
        WARN if settings.joining else FAIL,
        "genesis",
        f"{text}; this key is not among its members. Unless they took it in later: use the"
        " genesis.json of the network that the key was made for.",
    )


def _examine_database(settings: Settings) -> Iterator[Finding]:
    file = settings.home / "chain.db"
    if not file.exists():
        yield Finding(OK, "database", "none yet: the node begins at genesis or fetches the chain")
        return
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            meta = dict(database.execute("SELECT key, value FROM meta"))
            height = database.execute("SELECT max(height) FROM blocks").fetchone()[0] or 0
    except sqlite3.Error as error:
        yield Finding(
            FAIL,
            "database",
            f"chain.db cannot be read: {error}. Move chain.db* away and start the node again: it"
            " fetches the chain and signs once it has followed two heights.",
        )
        return
    network = compute_network_id(settings.genesis)
    if meta.get("network") != network:
        yield Finding(
            FAIL,
            "database",
            f"chain.db is of genesis {bytes(meta.get('network', b'')).hex()[:16]}, genesis.json of"
            f" {network.hex()[:16]}. Put the right genesis.json back, or move chain.db* away if it"
            " was of an earlier network.",
        )
    else:
        yield Finding(OK, "database", f"{height} blocks of this network")
    if "key-in-use" in meta:
        yield Finding(
            FAIL,
            "key-in-use",
            f"{bytes(meta['key-in-use']).decode(errors='replace')} The node signs nothing until"
            " somebody looked into it: milepost explain key-in-use",
        )


def _examine_disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.home).free
    blobs = settings.home / "blobs"
    used = sum(file.stat().st_size for file in blobs.rglob("*") if file.is_file())
    wanted = max(0, settings.limits.store_bytes - used)
    text = f"{free // MIB} MiB free, files of records take {used // MIB} MiB"
    if free < LEAST_FREE_BYTES:
        return Finding(FAIL, "disk", f"{text}. Make room: a node that cannot store stops.")
    if free < wanted:
        return Finding(
            WARN,
            "disk",
            f"{text} and may come to take {wanted // MIB} MiB more. Make room, or lower"
            " limits.store_bytes in node.toml.",
        )
    return Finding(OK, "disk", text)


async def _examine_devices(settings: Settings) -> Finding:
    """The known-answer tests, in a process of their own as the node runs them."""
    limits = settings.limits
    workers = Workers(
        settings.home / "blobs",
        memory_bytes=limits.worker_bytes,
        limit_seconds=limits.retrace_seconds,
        threads=settings.threads,
        gpu=settings.gpu,
    )
    try:
        found = await workers.get_device_classes()
    except NodeError as error:
        return Finding(FAIL, "devices", f"the worker does not start: {error}")
    finally:
        await workers.stop()
    if found.fault or not found.names:
        return Finding(
            FAIL,
            "devices",
            f"it repeats {', '.join(found.names) or 'nothing'}: {found.fault}"
            " (milepost explain known-answer-failed)",
        )
    return Finding(OK, "devices", f"it repeats {', '.join(found.names)}")


async def _ask_peers(settings: Settings) -> list[Answer]:
    async with httpx.AsyncClient(timeout=ASK_SECONDS, trust_env=False) as client:
        asked = [
            _ask(client, member.name, member.endpoint)
            for member in settings.genesis.members
            if member.endpoint and member.id != settings.signer.public
        ]
        return await asyncio.gather(*asked)


async def _ask(client: httpx.AsyncClient, name: str, url: str) -> Answer:
    before = read_wall_ms()
    try:
        response = await client.get(f"{url.rstrip('/')}/v1/status")
        status = response.json()
        if not isinstance(status, dict) or "network_id" not in status:
            return Answer(name, url, None, 0.0, "what answers there is not a node")
        # The date is cut to the second, so on average half a second is missing.
        date = parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(name, url, None, 0.0, type(error).__name__)
    except (KeyError, ValueError, TypeError, RecursionError):
        return Answer(name, url, None, 0.0, "what answers there is not a node")
    return Answer(name, url, status, date - (before + read_wall_ms()) / 2000, "")


def _examine_peers(settings: Settings, answers: Sequence[Answer]) -> Iterator[Finding]:
    own = Identity(settings.genesis.network, compute_network_id(settings.genesis))
    fit = {settings.signer.public}
    ids = {member.name: member.id for member in settings.genesis.members}
    for answer in answers:
        name = f"peer {answer.name}"
        if answer.status is None:
            yield Finding(
                WARN,
                name,
                f"not reached at {answer.url}: {answer.trouble}. Is it running, and does the way"
                " there let HTTP through?",
            )
            continue
        status = answer.status
        theirs = (status.get("network_id"), status.get("protocol"))
        if theirs != (own.network.hex(), own.protocol):
            yield Finding(FAIL, name, own.describe_refusal(json.dumps(status).encode()))
            continue
        fit.add(ids[answer.name])
        if status.get("version") != VERSION:
            yield Finding(
                WARN,
                name,
                f"it runs milepost {str(status.get('version'))[:20]}, this machine {VERSION}."
                " They understand each other; still, run the same release.",
            )
        else:
            yield Finding(OK, name, f"reached, at height {str(status.get('height'))[:20]}")
    validators = get_validators(settings.genesis.members)
    present = sum(member.id in fit for member in validators)
    needed = compute_quorum(len(validators))
    text = f"{present} of {len(validators)} validators with this node, {needed} are needed"
    if present < needed:
        yield Finding(FAIL, "quorum", f"{text}. Until more are there nothing is decided.")
    else:
        yield Finding(OK, "quorum", text)


def _examine_clock(settings: Settings, answers: Sequence[Answer]) -> Iterator[Finding]:
    offsets = [answer.offset_seconds for answer in answers if answer.status is not None]
    if not offsets:
        yield Finding(WARN, "clock", "not compared: no peer answered")
        return
    # Of many clocks the one in the middle; a few that are wrong do not move it.
    offset = statistics.median(offsets)
    allowed = settings.genesis.params.max_clock_drift_ms / 1000
    if abs(offset) <= CLOCK_SECONDS:
        yield Finding(OK, "clock", f"within {CLOCK_SECONDS:.0f} s of {len(offsets)} peers")
        return
    text = f"this machine's clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'}"
    yield Finding(
        FAIL if abs(offset) > allowed else WARN,
        "clock",
        f"{text} its peers; the network allows {allowed:.0f} s. Set it by NTP: timedatectl status",
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="milepost-doctor", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    findings = asyncio.run(examine(parser.parse_args().home))
    print(json.dumps([finding._asdict() for finding in findings]))


if __name__ == "__main__":
    main()
