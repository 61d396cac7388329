"""The chain on disk: one SQLite file with the decided blocks, the journal and the proofs.

    meta(key, value)                            network id and layout version
    journal(row, data)                          the machine's signatures and locks, one row
    blocks(height, id, block, certificate)      everything decided, without gaps from height 1
    proofs(submission, json)                    proof files, made when the verdict was decided

`synchronous=FULL` in WAL mode: what `commit` returned from survives a power loss, so no signature
leaves this machine that it could forget.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.encoding import decode, encode
from milepost_node.errors import StoreError

LAYOUT: Final = b"1"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal(row INTEGER PRIMARY KEY CHECK (row = 1), data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blocks(
    height INTEGER PRIMARY KEY, id BLOB NOT NULL, block BLOB NOT NULL, certificate BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS proofs(submission BLOB PRIMARY KEY, json BLOB NOT NULL);
"""


class StoredBlock(NamedTuple):
    """One decided block as canonical bytes."""

    height: int
    id: bytes
    block: bytes
    certificate: bytes


class Decision(NamedTuple):
    """A block to append and the proof files of the verdicts it decided."""

    block: Block
    certificate: Certificate
    proofs: Mapping[bytes, bytes]


class Store:
    """The chain database of one node.

    `commit` may be called from another thread than the reading methods, but never twice at once.
    All methods raise StoreError when the disk or the file fails.
    """

    def __init__(self, file: Path, network: bytes) -> None:
        self._file = file
        self._network = network
        try:
            self._write = self._connect()
            self._read = self._connect()
            self._write.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(
                f"{file.name} cannot be opened: {error}. {REMEDY}", slug="store-corrupt"
            ) from error
        self._check_meta()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=10000")
        return connection

    def _check_meta(self) -> None:
        for key, value in (("layout", LAYOUT), ("network", self._network)):
            with self._failing("read"):
                self._write.execute("INSERT OR IGNORE INTO meta VALUES(?, ?)", (key, value))
                row = self._write.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if row[0] != value:
                raise StoreError(
                    f"{self._file.name} has {key} {_show(row[0])}, this node has {_show(value)}."
                    " The home folder was used for another network or by another release: give"
                    " this node a home of its own.",
                    slug="wrong-network",
                )

    def commit(self, journal: bytes | None, decisions: Sequence[Decision]) -> None:
        """Make all of it durable in one transaction, or nothing of it."""
        with self._failing("written"):
            self._write.execute("BEGIN IMMEDIATE")
            try:
                for block, certificate, proofs in decisions:
                    self._write.execute(
                        "INSERT INTO blocks VALUES(?, ?, ?, ?)",
                        (
                            block.header.height,
                            compute_block_id(block.header, self._network),
                            encode(block),
                            encode(certificate),
                        ),
                    )
                    self._write.executemany(
                        "INSERT OR REPLACE INTO proofs VALUES(?, ?)", list(proofs.items())
                    )
                if journal is not None:
                    self._write.execute("INSERT OR REPLACE INTO journal VALUES(1, ?)", (journal,))
            except BaseException:
                self._write.execute("ROLLBACK")
                raise
            self._write.execute("COMMIT")

    def get_journal(self) -> bytes | None:
        """What the last commit with a journal stored."""
        return self._one("SELECT data FROM journal")

    def get_block(self, height: int) -> StoredBlock | None:
        """The decided block at a height."""
        return next(self._rows("WHERE height = ?", (height,)), None)

    def read_block(self, height: int) -> tuple[Block, Certificate]:
        """A block that was decided, decoded."""
        stored = self.get_block(height)
        assert stored is not None, f"block {height} was decided"
        return decode(Block, stored.block), decode(Certificate, stored.certificate)

    def get_blocks_from(self, height: int, *, limit: int, limit_bytes: int) -> list[StoredBlock]:
        """Consecutive blocks from `height` on: at most `limit`, and after the first not more than
        `limit_bytes`."""
        found: list[StoredBlock] = []
        size = 0
        for row in self._rows("WHERE height >= ? ORDER BY height LIMIT ?", (height, limit)):
            size += len(row.block) + len(row.certificate)
            if found and size > limit_bytes:
                break
            found.append(row)
        return found

    def get_block_before(self, height: int) -> StoredBlock | None:
        """The newest block below `height`; one at a time, since each may have megabytes."""
        return next(self._rows("WHERE height < ? ORDER BY height DESC LIMIT 1", (height,)), None)

    def read_chain(self) -> Iterator[StoredBlock]:
        """Every decided block, lowest height first."""
        yield from self._rows("ORDER BY height", ())

    def get_proof(self, submission: bytes) -> bytes | None:
        """The proof file of a decided submission as JSON bytes."""
        return self._one("SELECT json FROM proofs WHERE submission = ?", submission)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._read.close()
        self._write.close()

    def _rows(self, where: str, values: tuple[int, ...]) -> Iterator[StoredBlock]:
        query = f"SELECT height, id, block, certificate FROM blocks {where}"  # noqa: S608 constants
        with self._failing("read"):
            for row in self._read.execute(query, values):
                yield StoredBlock(*row)

    def _one(self, query: str, *values: bytes) -> bytes | None:
        with self._failing("read"):
            row = self._read.execute(query, values).fetchone()
        return None if row is None else bytes(row[0])

    def _failing(self, doing: str) -> _Failing:
        return _Failing(f"{self._file.name} cannot be {doing}")


REMEDY: Final = (
    "Move the file away once the other nodes have finished at least one more block without this"
    " one, then start again: the node fetches the chain from its peers. (Earlier it might sign a"
    " height twice, because its journal is in that file.)"
)


class _Failing:
    """Turns SQLite's errors into StoreError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            raise StoreError(f"{self._what}: {error}. {REMEDY}", slug="store-corrupt") from error
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"{self._what}: {error}") from error


def _show(value: bytes) -> str:
    return value.decode() if len(value) < 8 else value.hex()[:16]
