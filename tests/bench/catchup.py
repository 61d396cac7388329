"""How fast a node reads its chain again at start, and how fast a wiped one gets it from its peers.

The chain is of four validators and synthetic: every hundred blocks a submission is anchored, held,
elected and attested, all other blocks are empty.  Three node processes have it on disk and the
fourth starts from an empty home, as after the loss of a disk; all share one machine.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Final

from milepost_consensus.payloads import OnionRefresh
from milepost_consensus.transactions import Tx
from milepost_node.chain import replay_chain
from milepost_node.store import Decision, Store
from tests.support.ledger import Ledger, make_record, make_signer
from tests.support.node_processes import NodeProcesses, poll
from tests.support.nodes import certify
from tests.support.validators import make_onion

NODES: Final = 4
BLOCKS: Final = 10_000
EVERY: Final = 100
"""Blocks from one submission to the next."""


def _make_chain(nodes: NodeProcesses) -> list[Decision]:
    """The blocks with certificates of all validators."""
    ledger = Ledger(nodes.genesis)
    while len(ledger.blocks) < BLOCKS:
        ledger.apply(_promise_onions(ledger))
        submission = ledger.start(make_record(f"run {len(ledger.blocks)}"))
        ledger.attest_open(submission)
        ledger.run(EVERY - len(ledger.blocks) % EVERY)
    return [Decision(block, certify(block, ledger.state), {}) for block in ledger.blocks]


def _promise_onions(ledger: Ledger) -> list[Tx]:
    """The next onions of validators that soon need them: without reveals there is no election."""
    txs = []
    for member in ledger.state.validators:
        standing, onion = ledger.state.standings[member.id], make_onion(make_signer(member.name))
        if standing.onion_left < EVERY and not standing.next_left:
            following = standing.generation + 1
            refresh = OnionRefresh(following, onion.get_head(following), onion.links)
            txs.append(ledger.sign(refresh, member.id))
    return txs


def _fill(home: Path, network: bytes, chain: list[Decision]) -> Path:
    file = home / "chain.db"
    store = Store(file, network)
    store.commit(None, chain)
    store.close()
    return file


def _read_times(home: Path) -> dict[str, float]:
    """When each kind of event was last logged, in seconds since the epoch."""
    entries = [json.loads(line) for line in (home / "node.log").read_text().splitlines()]
    return {e["event"]: datetime.fromisoformat(e["time"]).timestamp() for e in entries}


def _measure_restart(file: Path, nodes: NodeProcesses) -> None:
    store = Store(file, nodes.network)
    begin = time.perf_counter()
    chain = replay_chain(store, nodes.genesis)
    seconds = time.perf_counter() - begin
    store.close()
    assert chain.state.height == BLOCKS
    print(f"restart: {BLOCKS} blocks checked again in {seconds:.1f} s, {BLOCKS / seconds:.0f} /s")


def _measure_catch_up(nodes: NodeProcesses) -> None:
    wiped = NODES - 1
    nodes.start(*range(wiped))
    nodes.wait_ready()
    nodes.start(wiped)

    poll(lambda: nodes.get_height(wiped) == BLOCKS, 600, "the wiped node level")
    times = _read_times(nodes.homes[wiped])
    seconds = times["caught up"] - times["node started"]
    print(
        f"catch-up: {BLOCKS} blocks from {wiped} peers in {seconds:.1f} s,"
        f" {BLOCKS / seconds:.0f} /s, each on disk before the next"
    )


def bench_catchup() -> None:
    """Print blocks per second of a restart and of catching up from nothing."""
    with (
        tempfile.TemporaryDirectory() as name,
        NodeProcesses(Path(name) / "net", NODES) as nodes,
    ):
        chain = _make_chain(nodes)
        files = [_fill(home, nodes.network, chain) for home in nodes.homes[:-1]]
        size = sum(file.stat().st_size for file in files) // len(files)
        print(
            f"chain of {BLOCKS} blocks, {NODES} validators, {size / 1e6:.1f} MB on disk,"
            f" {os.cpu_count()} processors"
        )
        _measure_restart(files[0], nodes)
        _measure_catch_up(nodes)
