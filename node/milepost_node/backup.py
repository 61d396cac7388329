"""A home as one file, and back: `python -m milepost_node.backup write HOME FILE|restore FILE HOME`.

    backup.json                    format, network, key, height
    node.toml  genesis.json        as they are
    node.key                       as it is: encrypted if it was
    chain.db                       blocks and proofs, without the journal
    accepted/*.tx                  submissions acknowledged and in no block yet

What a key signed goes on growing after a backup was taken, so no backup knows it.  The journal is
therefore left out, and a restored home bears a mark, the file `restored`: its node follows in
quarantine, longer than one that was wiped, and watches whether its key signs elsewhere (decision
0005).  Records are left out too: the node fetches what it needs from its peers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from milepost_consensus.crypto import ENCRYPTED
from milepost_consensus.members import compute_network_id
from milepost_node.errors import NodeError, SettingsError
from milepost_node.settings import Settings, read_settings

FORMAT: Final = "milepost/backup/1"
HEAD: Final = "backup.json"
SETTINGS: Final = ("node.toml", "genesis.json", "node.key")
CHAIN: Final = "chain.db"
ACCEPTED: Final = "accepted/"
RESTORED: Final = "restored"
"""The mark of a home that comes from a backup."""
NOTICE: Final = (
    "This home comes from a backup. Do not delete this file: without it the node might sign what"
    " its key has signed before.\n"
)


def is_restored(home: Path) -> bool:
    """Whether a home comes from a backup."""
    return (home / RESTORED).exists()


def write_backup(home: Path, file: Path) -> dict[str, object]:
    """Write a backup, also of a running node; returns its head.

    Raises NodeError if the home cannot be read or the file exists.
    """
    settings = read_settings(home)
    try:
        # Not group's, not others': the key is in it.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be written: {error.strerror}", slug="bad-usage"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as raw:
            head = _fill(settings, raw)
            raw.flush()
            os.fsync(raw.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return head


def _fill(settings: Settings, raw: io.BufferedWriter) -> dict[str, object]:
    home = settings.home
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        chain = Path(scratch) / CHAIN
        height = _copy_chain(home / CHAIN, chain)
        head: dict[str, object] = {
            "format": FORMAT,
            "network": settings.genesis.network,
            "network_id": compute_network_id(settings.genesis).hex(),
            "node": settings.name,
            "key": settings.signer.public.hex(),
            "height": height,
        }
        with tarfile.open(fileobj=raw, mode="w") as archive:
            text = json.dumps(head, indent=2).encode()
            entry = tarfile.TarInfo(HEAD)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
            for name in SETTINGS:
                archive.add(home / name, name)
            if chain.exists():
                archive.add(chain, CHAIN)
            for each in sorted((home / ACCEPTED).glob("*.tx")):
                archive.add(each, ACCEPTED + each.name)
    return head


def _copy_chain(source: Path, target: Path) -> int:
    """Copy blocks and proofs as of one moment; returns their height."""
    if not source.exists():
        return 0
    try:
        with (
            closing(sqlite3.connect(source)) as before,
            closing(sqlite3.connect(target, isolation_level=None)) as after,
        ):
            before.backup(after)
            after.execute("PRAGMA journal_mode=DELETE")
            after.execute("DELETE FROM journal")
            after.execute("VACUUM")  # what was deleted is gone from the file as well
            return int(after.execute("SELECT max(height) FROM blocks").fetchone()[0] or 0)
    except sqlite3.Error as error:
        raise NodeError(f"{source.name} cannot be copied: {error}", slug="store-corrupt") from error


def restore(file: Path, home: Path) -> dict[str, object]:
    """Make a home from a backup; returns its head.  Raises NodeError if it is none, or `home` is
    there."""
    try:
        home.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise SettingsError(
            f"{home} cannot be made: {error.strerror}. Name a folder that does not exist.",
            slug="folder-in-use",
        ) from error
    # First of all: a home that is there in part must not pass for a new one.
    (home / RESTORED).write_text(NOTICE)
    try:
        with tarfile.open(file, mode="r:") as archive:
            names = [member.name for member in archive]
            head = json.loads(_read(archive, HEAD))
            if head["format"] != FORMAT:
                raise ValueError("another format")
            for name in _choose(names):
                _write(home / name, _read(archive, name))
        if not (home / "node.key").read_bytes().startswith(ENCRYPTED):
            read_settings(home)  # else the passphrase has yet to be brought
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{file.name} is not a whole backup of a node: {error}", slug="bad-backup"
        ) from error
    assert isinstance(head, dict)
    return head


def _choose(names: list[str]) -> Iterator[str]:
    """What of an archive belongs into a home; nothing else is unpacked, wherever it wants to."""
    yield from SETTINGS
    for name in names:
        stem = name.removeprefix(ACCEPTED).removesuffix(".tx")
        if name == CHAIN or (name == f"{ACCEPTED}{stem}.tx" and stem.isalnum()):
            yield name


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file")
    return member.read()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """The command: prints the head as JSON, or what is wrong and exit code 1."""
    parser = argparse.ArgumentParser(prog="milepost-backup", description=__doc__)
    parser.add_argument("what", choices=("write", "restore"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    work = write_backup if options.what == "write" else restore
    try:
        print(json.dumps(work(options.source, options.target)))
    except NodeError as error:
        print(json.dumps({"problem": {"slug": error.slug, "detail": str(error)}}))
        sys.exit(1)


if __name__ == "__main__":
    main()
