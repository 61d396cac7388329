"""The chain on disk: one SQLite file with the decided blocks, the journal and the proofs.

    meta(key, value)                            network id, layout version; key-in-use, if it is
    journal(row, data, digest)                  the machine's signatures and locks, one row
    blocks(height, id, block, certificate,      everything decided, without gaps from height 1
           digest)
    proofs(submission, json)                    proof files, made when the verdict was decided

`synchronous=FULL` in WAL mode: what `commit` returned from survives a power loss, so no signature
leaves this machine that it could forget.  Digests stand beside what was written, so that a changed
bit changes no lock, and a start need not check every signature of the past again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.encoding import decode, encode
from milepost_node.errors import StoreError

LAYOUT: Final = b"2"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal(
    row INTEGER PRIMARY KEY CHECK (row = 1), data BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blocks(
    height INTEGER PRIMARY KEY, id BLOB NOT NULL, block BLOB NOT NULL, certificate BLOB NOT NULL,
    digest BLOB NOT NULL);
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
    What reads whole blocks for others, `read_block` and `get_blocks_from`, may run in any thread.
    All methods raise StoreError when the disk or the file fails.
    """

    def __init__(self, file: Path, network: bytes) -> None:
        self._file = file
        self._network = network
        with self._failing("opened"):
            self._write = self._connect()
            self._read = self._connect()
            self._write.executescript(_SCHEMA)
        self._check_meta()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes  # a damaged file may say text where bytes were written
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

    def commit(
        self,
        journal: bytes | None,
        decisions: Sequence[Decision],
        *,
        key_in_use: str | None = None,
    ) -> None:
        """Make all of it durable in one transaction, or nothing of it."""
        with self._failing("written"):
            self._write.execute("BEGIN IMMEDIATE")
            try:
                for block, certificate, proofs in decisions:
                    height, data, final = block.header.height, encode(block), encode(certificate)
                    block_id = compute_block_id(block.header, self._network)
                    self._write.execute(
                        "INSERT INTO blocks VALUES(?, ?, ?, ?, ?)",
                        (height, block_id, data, final, _compute_digest(data, final)),
                    )
                    self._write.executemany(
                        "INSERT OR REPLACE INTO proofs VALUES(?, ?)", list(proofs.items())
                    )
                if journal is not None:
                    self._write.execute(
                        "INSERT OR REPLACE INTO journal VALUES(1, ?, ?)",
                        (journal, _compute_digest(journal)),
                    )
                if key_in_use is not None:
                    self._write.execute(
                        "INSERT OR REPLACE INTO meta VALUES('key-in-use', ?)",
                        (key_in_use.encode(),),
                    )
                self._write.execute("COMMIT")
            except BaseException:
                if self._write.in_transaction:  # SQLite itself gives some up, as on a full disk
                    self._write.execute("ROLLBACK")
                raise

    def get_journal(self) -> bytes | None:
        """What the last commit with a journal stored; raises StoreError for another than that."""
        data = self._one("SELECT data FROM journal")
        if data is not None and self._one("SELECT digest FROM journal") != _compute_digest(data):
            raise StoreError(
                f"the journal in {self._file.name} is damaged: it is not what was written."
                f" {REMEDY}",
                slug="store-corrupt",
            )
        return data

    def get_key_in_use(self) -> str:
        """Why this node must sign nothing, as a commit said once; empty if it may."""
        return (self._one("SELECT value FROM meta WHERE key = 'key-in-use'") or b"").decode()

    def get_height(self) -> int:
        """The height of the last block, 0 without any."""
        newest = self.get_block_before(2**62)
        return newest.height if newest else 0

    def get_block(self, height: int) -> StoredBlock | None:
        """The decided block at a height."""
        return next(self._rows("WHERE height = ?", (height,)), None)

    def read_block(self, height: int) -> tuple[Block, Certificate]:
        """A block that was decided, decoded."""
        stored, *_ = self.get_blocks_from(height, limit=1, limit_bytes=0)
        assert stored.height == height, f"block {height} was decided"
        return decode(Block, stored.block), decode(Certificate, stored.certificate)

    def get_blocks_from(self, height: int, *, limit: int, limit_bytes: int) -> list[StoredBlock]:
        """Consecutive blocks from `height` on: at most `limit`, and after the first not more than
        `limit_bytes`."""
        found: list[StoredBlock] = []
        size = 0
        where = "WHERE height >= ? ORDER BY height LIMIT ?"
        with self._failing("read"), closing(self._connect()) as connection:
            for row in self._rows(where, (height, limit), connection):
                size += len(row.block) + len(row.certificate)
                if found and size > limit_bytes:
                    break
                found.append(row)
        return found

    def get_block_before(self, height: int) -> StoredBlock | None:
        """The newest block below `height`; one at a time, since each may have megabytes."""
        return next(self._rows("WHERE height < ? ORDER BY height DESC LIMIT 1", (height,)), None)

    def read_chain(self) -> Iterator[StoredBlock]:
        """Every decided block, lowest height first; raises StoreError for one that changed."""
        with self._failing("read"):
            digests = self._read.execute("SELECT digest FROM blocks ORDER BY height")
            for row in self._rows("ORDER BY height", ()):
                if digests.fetchone()[0] != _compute_digest(row.block, row.certificate):
                    raise sqlite3.DatabaseError(f"block {row.height} is not what was written")
                yield row

    def get_proof(self, submission: bytes) -> bytes | None:
        """The proof file of a decided submission as JSON bytes."""
        return self._one("SELECT json FROM proofs WHERE submission = ?", submission)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._read.close()
        self._write.close()

    def _rows(
        self, where: str, values: tuple[int, ...], connection: sqlite3.Connection | None = None
    ) -> Iterator[StoredBlock]:
        query = f"SELECT height, id, block, certificate FROM blocks {where}"  # noqa: S608 constants
        with self._failing("read"):
            for row in (connection or self._read).execute(query, values):
                if [type(value) for value in row] != [int, bytes, bytes, bytes]:
                    raise sqlite3.DatabaseError("a block is not of bytes")
                yield StoredBlock(*row)

    def _one(self, query: str, *values: bytes) -> bytes | None:
        with self._failing("read"):
            row = self._read.execute(query, values).fetchone()
            if row is not None and not isinstance(row[0], bytes):
                raise sqlite3.DatabaseError("a value is not of bytes")
        return None if row is None else row[0]

    def _failing(self, doing: str) -> _Failing:
        return _Failing(f"{self._file.name} cannot be {doing}")


REMEDY: Final = (
    "Move chain.db and, where they are there, chain.db-wal and chain.db-shm away and start again:"
    " the node fetches the chain from its peers, and signs once it has followed two heights."
)
_WORLD: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
"""Primary result codes that say nothing about what the file holds; all others do."""


class _Failing:
    """Turns SQLite's errors into StoreError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error | UnicodeDecodeError):
            return  # the second comes from a message about a damaged schema
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _WORLD:
            raise StoreError(f"{self._what}: {error}. {REMEDY}", slug="store-corrupt") from error
        raise StoreError(
            f"{self._what}: {error}. A node that cannot store what it signs does not send it."
            " Make room or repair the disk, then start the node again: nothing is lost."
        ) from error


def _compute_digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _show(value: bytes) -> str:
    return value.decode() if len(value) < 8 else value.hex()[:16]
