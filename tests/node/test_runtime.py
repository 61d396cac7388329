"""The runtime's one promise: what a message says is on disk before the message leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import BlockFetched, Message, ReceivedVote, TransactionsWaiting
from milepost_consensus.journal import Journal
from milepost_consensus.machine import Machine
from milepost_consensus.params import Params
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import PREVOTE, Proposal, Vote
from milepost_node.errors import StoreError
from milepost_node.mempool import Mempool
from milepost_node.proofs import build_proofs
from milepost_node.runtime import QUEUE_EVENTS, Runtime
from milepost_node.store import Decision, Store
from tests.support.ledger import Ledger, make_genesis, make_record, make_signer
from tests.support.nodes import certify, wait_until
from tests.support.validators import make_onion

PARAMS = Params(min_block_ms=0, idle_block_ms=1, timeout_ms=60_000)


class Wire:
    """A network that looks at the disk each time something is sent."""

    def __init__(self, look: Callable[[Message], None]) -> None:
        self.sent: list[Message] = []
        self._look = look

    def broadcast(self, message: Message) -> None:
        self._look(message)
        self.sent.append(message)


class Bench:
    """One runtime, of the only validator of a network or of the first of four."""

    def __init__(self, folder: Path, validators: int) -> None:
        self.ledger = Ledger(make_genesis(validators, params=PARAMS))
        network = self.ledger.state.network
        self.store = Store(folder / "chain.db", network)
        self.mempool = Mempool(network, limit=100, per_sender=100)
        self.wire = Wire(self.look)
        self.behind: list[bytes] = []
        self.decided: list[int] = []
        self.accused: list[bytes] = []
        self.runtime = Runtime(
            Machine(self.ledger.state, make_signer("node-0"), make_onion(make_signer("node-0"))),
            store=self.store,
            mempool=self.mempool,
            network=self.wire,
            on_behind=self.behind.append,
            on_decided=lambda block, state: self.decided.append(state.height),
            on_equivocation=lambda first, second: self.accused.append(first.sender),
        )
        self.tx: Tx = self.ledger.sign(make_record().submit, "submitter")

    def look(self, message: Message) -> None:
        """Whatever leaves is in the journal, or below the last block, by now."""
        data = self.store.get_journal()
        assert data is not None, "a message left before anything was on disk"
        journal = decode(Journal, data)
        stored = self.store.get_block(message.height)
        if stored is None:
            kept = journal.votes if isinstance(message, Vote) else journal.proposals
            assert message in kept


@asynccontextmanager
async def open_bench(folder: Path, validators: int = 1) -> AsyncIterator[Bench]:
    bench = Bench(folder, validators)
    running = asyncio.create_task(bench.runtime.run())
    try:
        yield bench
    finally:
        bench.runtime.stop()
        await asyncio.gather(running, return_exceptions=True)
        bench.store.close()


async def test_nothing_leaves_before_it_is_on_disk(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        bench.mempool.add(bench.runtime.state, bench.tx)
        bench.runtime.post(TransactionsWaiting())
        await wait_until(lambda: bench.decided)
        kinds = [type(message) for message in bench.wire.sent[:3]]
        assert kinds == [Proposal, Vote, Vote]
        assert bench.store.get_block(1) is not None
        assert len(bench.mempool) == 0
        assert bench.decided[0] == 1


async def test_state_that_others_see_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bench(tmp_path) as bench:
        seen: list[int] = []
        commit = bench.store.commit

        def watch(journal: bytes | None, decisions: list[Decision], **more: Any) -> None:
            if decisions:
                seen.append(bench.runtime.state.height)
            commit(journal, decisions, **more)

        monkeypatch.setattr(bench.store, "commit", watch)
        block = bench.ledger.apply([bench.tx])
        certificate = certify(block, bench.ledger.state)
        await bench.runtime.deliver(BlockFetched(block, certificate))
        assert seen[0] == 0, "the new state was shown before it was stored"
        assert bench.runtime.state.height >= 1


async def test_blocks_delivered_together_are_written_in_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bench(tmp_path, 4) as bench:
        commits: list[tuple[int, list[int]]] = []
        commit = bench.store.commit

        def watch(journal: bytes | None, decisions: list[Decision], **more: Any) -> None:
            heights = [decision.block.header.height for decision in decisions]
            if heights:
                commits.append((bench.runtime.state.height, heights))
            commit(journal, decisions, **more)

        monkeypatch.setattr(bench.store, "commit", watch)
        bench.ledger.run(5)
        fetched = [BlockFetched(b, certify(b, bench.ledger.state)) for b in bench.ledger.blocks]
        await bench.runtime.deliver(*fetched[:3])
        assert commits == [(0, [1, 2, 3])]
        assert bench.decided == [1, 2, 3]
        # What came before a bad one is not lost: the machine has moved by it.
        forged = BlockFetched(fetched[4].block, fetched[3].certificate)
        with pytest.raises(InvalidInput):
            await bench.runtime.deliver(fetched[3], forged, fetched[4])
        assert commits[1:] == [(3, [4])]
        assert bench.runtime.state.height == 4
        await bench.runtime.deliver()
        await bench.runtime.deliver(fetched[4])
        assert bench.runtime.state.last_id == bench.ledger.state.last_id


async def test_proofs_are_made_where_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_bench(tmp_path, 4) as bench:
        threads: list[str] = []

        def watch(*given: Any) -> dict[bytes, bytes]:
            threads.append(threading.current_thread().name)
            return build_proofs(*given)

        monkeypatch.setattr("milepost_node.runtime.build_proofs", watch)
        block = bench.ledger.apply([bench.tx])
        await bench.runtime.deliver(BlockFetched(block, certify(block, bench.ledger.state)))
        assert threads == ["disk_0"], "a large proof would keep the loop from votes and timers"


async def test_invalid_events_change_nothing_and_are_counted(tmp_path: Path) -> None:
    async with open_bench(tmp_path, 4) as bench:
        forged = Vote(1, 0, PREVOTE, bytes(32), make_signer("node-1").public, bytes(64))
        with pytest.raises(InvalidInput):
            await bench.runtime.deliver(ReceivedVote(forged))
        assert bench.runtime.counts["bad-signature"] == 1
        block = bench.ledger.apply([bench.tx])
        bad = certify(block, bench.ledger.state)
        with pytest.raises(InvalidInput):
            await bench.runtime.deliver(BlockFetched(block, type(bad)(1, 0, bad.block_id, (), ())))
        assert bench.runtime.state.height == 0
        # And it goes on as if nothing had been.
        await bench.runtime.deliver(BlockFetched(block, bad))
        assert bench.runtime.state.height == 1


async def test_disk_that_fails_stops_the_node_before_it_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, 1)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(bench.store, "commit", fail)
    bench.mempool.add(bench.runtime.state, bench.tx)
    running = asyncio.create_task(bench.runtime.run())
    with pytest.raises(StoreError):
        await running
    assert bench.wire.sent == []
    assert bench.runtime.state.height == 0
    bench.store.close()


async def test_flood_of_messages_is_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4)
    vote = ReceivedVote(Vote(1, 0, PREVOTE, bytes(32), make_signer("node-1").public, bytes(64)))
    for _ in range(QUEUE_EVENTS + 5):
        bench.runtime.offer(vote)
    assert bench.runtime.counts["queue-full"] == 5
    bench.runtime.stop()
    await bench.runtime.run()
    bench.store.close()


async def test_stop_lets_nobody_wait_for_ever(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4)
    waiting = asyncio.create_task(
        bench.runtime.deliver(ReceivedVote(Vote(1, 0, PREVOTE, bytes(32), b"", b"")))
    )
    await asyncio.sleep(0)
    bench.runtime.stop()
    await bench.runtime.run()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.store.close()
