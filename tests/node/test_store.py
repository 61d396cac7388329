"""What the chain database promises: all or nothing, there after a crash, and damage is noticed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import encode
from milepost_node.chain import replay_chain
from milepost_node.errors import StoreError
from milepost_node.store import Decision, Store
from tests.support.ledger import Ledger, make_genesis, make_record
from tests.support.nodes import certify

GENESIS = make_genesis(4)


def make_chain(heights: int = 3) -> tuple[Ledger, list[Decision]]:
    """A chain with one submission in its first block."""
    ledger = Ledger(GENESIS)
    ledger.submit(make_record())
    ledger.run(heights - 1)
    return ledger, [Decision(block, certify(block, ledger.state), {}) for block in ledger.blocks]


def open_store(folder: Path) -> Store:
    return Store(folder / "chain.db", Ledger(GENESIS).state.network)


def test_committed_chain_and_journal_are_there_when_opened_again(tmp_path: Path) -> None:
    ledger, decisions = make_chain()
    store = open_store(tmp_path)
    assert store.get_journal() is None
    store.commit(b"first", decisions[:1])
    store.commit(b"second", decisions[1:])
    store.close()
    again = open_store(tmp_path)
    chain = replay_chain(again, GENESIS)
    assert again.get_journal() == b"second"
    assert (chain.state.height, chain.state.root) == (3, ledger.state.root)
    assert chain.certificate == decisions[-1].certificate
    again.close()


def test_commit_survives_a_process_that_never_closes_the_file(tmp_path: Path) -> None:
    _, decisions = make_chain()
    store = open_store(tmp_path)
    store.commit(b"journal", decisions)
    # What a crash leaves: the files as they are now, the log not folded in.
    copy = tmp_path / "after-crash"
    copy.mkdir()
    for file in tmp_path.glob("chain.db*"):
        shutil.copy(file, copy)
    store.close()
    crashed = open_store(copy)
    assert crashed.get_journal() == b"journal"
    assert replay_chain(crashed, GENESIS).state.height == 3
    crashed.close()


def test_failed_commit_leaves_nothing(tmp_path: Path) -> None:
    _, decisions = make_chain()
    store = open_store(tmp_path)
    store.commit(b"old", decisions[:1])
    with pytest.raises(StoreError):
        store.commit(b"new", [decisions[1], decisions[0]])
    assert store.get_journal() == b"old"
    assert [row.height for row in store.read_chain()] == [1]
    store.commit(b"new", decisions[1:2])
    assert store.get_journal() == b"new"
    store.close()


def test_log_cut_anywhere_yields_a_whole_earlier_state(tmp_path: Path) -> None:
    _, decisions = make_chain(4)
    store = open_store(tmp_path)
    for number, decision in enumerate(decisions):
        store.commit(b"journal %d" % number, [decision])
    log = (tmp_path / "chain.db-wal").read_bytes()
    heights = set()
    for part in range(9):
        copy = tmp_path / f"cut-{part}"
        copy.mkdir()
        shutil.copy(tmp_path / "chain.db", copy)
        (copy / "chain.db-wal").write_bytes(log[: len(log) * part // 8])
        cut = open_store(copy)
        height = replay_chain(cut, GENESIS).state.height
        journal = cut.get_journal()
        assert journal == (b"journal %d" % (height - 1) if height else None)
        heights.add(height)
        cut.close()
    assert heights >= {0, 4}
    store.close()


def test_changed_block_is_noticed(tmp_path: Path) -> None:
    _, decisions = make_chain()
    store = open_store(tmp_path)
    store.commit(None, decisions)
    store.close()
    other = decisions[1].block
    header = replace(other.header, time_ms=1)
    with sqlite3.connect(tmp_path / "chain.db") as connection:
        connection.execute(
            "UPDATE blocks SET block = ? WHERE height = 2", (encode(Block(header, other.txs)),)
        )
    damaged = open_store(tmp_path)
    with pytest.raises(StoreError, match="block 2 does not follow") as caught:
        replay_chain(damaged, GENESIS)
    assert caught.value.slug == "store-corrupt"
    damaged.close()


def test_missing_block_and_broken_bytes_are_noticed(tmp_path: Path) -> None:
    _, decisions = make_chain()
    for name, change in (
        ("gap", "DELETE FROM blocks WHERE height = 2"),
        ("bytes", "UPDATE blocks SET certificate = x'00' WHERE height = 3"),
    ):
        (tmp_path / name).mkdir()
        store = open_store(tmp_path / name)
        store.commit(None, decisions)
        store.close()
        with sqlite3.connect(tmp_path / name / "chain.db") as connection:
            connection.execute(change)
        damaged = open_store(tmp_path / name)
        with pytest.raises(StoreError, match="block 3"):
            replay_chain(damaged, GENESIS)
        damaged.close()


def test_file_that_is_no_database_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "chain.db").write_bytes(b"not a database at all, " * 100)
    with pytest.raises(StoreError, match=r"Move the file away") as caught:
        open_store(tmp_path)
    assert caught.value.slug == "store-corrupt"


def test_home_of_another_network_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "chain.db", b"\x01" * 32)
    assert caught.value.slug == "wrong-network"


def test_ranges_of_blocks(tmp_path: Path) -> None:
    _, decisions = make_chain(6)
    store = open_store(tmp_path)
    store.commit(None, decisions)

    def heights(first: int, limit: int, limit_bytes: int = 10**9) -> list[int]:
        rows = store.get_blocks_from(first, limit=limit, limit_bytes=limit_bytes)
        return [row.height for row in rows]

    assert heights(2, 3) == [2, 3, 4]
    assert heights(5, 10) == [5, 6]
    assert heights(7, 10) == []
    assert heights(1, 10, limit_bytes=1) == [1], "one block always fits"
    below = [store.get_block_before(height) for height in (99, 4, 1)]
    assert [row.height if row else None for row in below] == [6, 3, None]
    assert store.get_block(9) is None
    store.close()


def test_proofs_are_stored_with_their_block(tmp_path: Path) -> None:
    _, decisions = make_chain()
    store = open_store(tmp_path)
    store.commit(None, [decisions[0]._replace(proofs={b"s" * 32: b"{}"})])
    assert store.get_proof(b"s" * 32) == b"{}"
    assert store.get_proof(b"t" * 32) is None
    store.close()
