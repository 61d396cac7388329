"""What `DIR/node.toml`, `DIR/node.key` and `DIR/genesis.json` say, checked before anything starts.

    host = "127.0.0.1"            # where the HTTP server listens
    port = 7101
    name = "arbutus"              # for people; the key is the identity
    behaviour = ""                # or one of docs/behaviours.md: this node then breaks the rules
    behaviour_network = ""        # the name of the network on which it may
    clique = []                   # submitters that a colluding node sides with
    threads = 1                   # that retrain a run of any profile but class
    gpu = true                    # whether to retrain on the GPU, where there is one
    passphrase_file = ""          # of an encrypted node.key, relative to the home

    [limits]                      # all optional
    blob_bytes = 1073741824

    [archive]                     # optional: where files of decided submissions go
    url = "s3://bucket/prefix"    # or gs://, az://, file:///
    endpoint = ""                 # of an S3-compatible store that is not Amazon's
    region = ""

A wrong value raises SettingsError naming the file, the key and what is allowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from milepost_consensus.crypto import ENCRYPTED, Ed25519Signer
from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import Genesis, validate_genesis
from milepost_consensus.views import from_view, parse_json
from milepost_node.archive import Archive, open_archive
from milepost_node.behaviours.builtin import BEHAVIOURS
from milepost_node.behaviours.registry import HONEST, Behaviour, load_behaviours
from milepost_node.errors import SettingsError

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""A genesis of a thousand members stays far below."""
MAX_THREADS: Final = 1024
"""More than any machine has processors."""
SEED_BYTES: Final = 32
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """How much of this machine others may use.  Sizes in bytes, times in seconds."""

    blob_bytes: int = 4096 * MIB
    """Largest single file taken from a submitter or fetched from a peer."""
    store_bytes: int = 64 * 1024 * MIB
    """All blobs together; beyond it nothing new is taken."""
    upload_seconds: int = 24 * 3600
    """How long a file that no submission names is kept."""
    mempool_transactions: int = 20_000
    mempool_per_sender: int = 5_000
    """A verifier of the largest submission answers 2,048 intervals."""
    admissions: int = 8
    """Submissions whose records are being validated at the same time; one more is told to wait."""
    retrace_seconds: int = 3600
    """Longest job of the worker process before it is killed."""
    worker_bytes: int = 16 * 1024 * MIB
    """Address space of the worker process (torch alone maps several GiB it never touches); where it
    uses a GPU, what it may write to of its own memory."""
    connections: int = 512
    """HTTP requests served at the same time."""


_LIMIT_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "blob_bytes": (1024, 2**40),
    "store_bytes": (1024, 2**50),
    "upload_seconds": (60, 10**8),
    "mempool_transactions": (10, 10**6),
    "mempool_per_sender": (10, 10**6),
    "admissions": (1, 1_000),
    "retrace_seconds": (1, 10**6),
    "worker_bytes": (4096 * MIB, 2**50),
    "connections": (16, 100_000),
}


_KNOWN: Final = frozenset(
    {
        *("host", "port", "name", "joining", "threads", "gpu", "log_level", "limits"),
        *("behaviour", "behaviour_network", "clique", "archive", "passphrase_file"),
    }
)


@dataclass(frozen=True)
class Settings:
    """Everything a node is started with."""

    home: Path
    host: str
    port: int
    name: str
    genesis: Genesis
    signer: Ed25519Signer
    joining: bool = False
    """Whether the key may be one that the members have not taken in yet."""
    behaviour: Behaviour = HONEST
    clique: tuple[str, ...] = ()
    threads: int = 1
    gpu: bool = True
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)
    archive: Archive | None = None


def read_settings(home: Path) -> Settings:
    """The settings in a home folder; raises SettingsError for the first thing that is wrong."""
    file = home / "node.toml"
    try:
        table = tomllib.loads(_read(file))
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError; a number of 5,000 digits raises one of another kind.
        raise SettingsError(f"{file.name} is not TOML: {error}") from error
    for key in table:
        if key not in _KNOWN:
            raise SettingsError(
                f"{file.name}: unknown key {_show(key)}; known are {', '.join(sorted(_KNOWN))}"
            )
    genesis = _read_genesis(home / "genesis.json")
    return Settings(
        home=home,
        host=_text(table, "host", default="127.0.0.1"),
        port=_integer(table, "port", low=1, high=65_535),
        name=_text(table, "name"),
        genesis=genesis,
        signer=_read_key(home / "node.key", _read_passphrase(table, home)),
        joining=_boolean(table, "joining"),
        behaviour=_read_behaviour(table, home, network=genesis.network),
        clique=_texts(table, "clique"),
        threads=_integer(table, "threads", low=1, high=MAX_THREADS, default=1),
        gpu=_boolean(table, "gpu", default=True),
        log_level=_choice(table, "log_level", LOG_LEVELS, default="info"),
        limits=_read_limits(table.get("limits", {})),
        archive=_read_archive(table.get("archive")),
    )


def _read_behaviour(table: Mapping[str, object], home: Path, *, network: str) -> Behaviour:
    """The behaviour that is named, for the network that is named with it.

    So a file that was copied from a test network makes nobody lie on another one.
    """
    text = table.get("behaviour", "")
    if text == "":
        return HONEST
    file, _, name = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    known = load_behaviours(home / file) if file.endswith(".py") else BEHAVIOURS
    if name not in known:
        listed = ", ".join(f'"{each}"' for each in known)
        raise SettingsError(f'node.toml: behaviour = {_show(text)} must be one of "", {listed}')
    if table.get("behaviour_network") != network:
        raise SettingsError(
            f"node.toml: behaviour = {_show(text)} makes this node break the rules, and the key in"
            f' its home pays for it. Take the line out, or write behaviour_network = "{network}"'
            " beside it if that is what you want on this network."
        )
    return known[name]


def _read_limits(table: object) -> Limits:
    if not isinstance(table, dict):
        raise SettingsError("node.toml: limits must be a table, written [limits]")
    names = {item.name for item in fields(Limits)}
    for key in table:
        if key not in names:
            raise SettingsError(
                f"node.toml: unknown key limits.{key[:80]}; known are {', '.join(sorted(names))}"
            )
    values = {
        key: _integer(table, key, low=low, high=high, prefix="limits.")
        for key, (low, high) in _LIMIT_RANGES.items()
        if key in table
    }
    return Limits(**values)


def _read_archive(table: object) -> Archive | None:
    """The archive that is named; credentials are never in this file."""
    if table is None:
        return None
    if not isinstance(table, dict):
        raise SettingsError("node.toml: archive must be a table, written [archive]")
    known = ("url", "endpoint", "region")
    for key in table:
        if key not in known:
            raise SettingsError(
                f"node.toml: unknown key archive.{key[:80]}; known are {', '.join(known)}"
            )
    options = {key: _text(table, key) for key in known[1:] if table.get(key)}
    return open_archive(_text(table, "url"), **options)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"{file.name} is larger than {MAX_FILE_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(
            f"There is no {file.name} in {file.parent}. A home has node.toml, node.key and"
            " genesis.json; `milepost dev` writes complete ones."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file.name} cannot be read: {error}") from error


def _read_genesis(file: Path) -> Genesis:
    try:
        genesis = from_view(Genesis, parse_json(_read(file)))
        validate_genesis(genesis)
    except InvalidInput as error:
        raise SettingsError(f"{file.name}: {error}", slug="bad-genesis") from error
    return genesis


def _read_passphrase(table: Mapping[str, object], home: Path) -> bytes:
    """The first line of the file that opens the key; empty where none is named."""
    name = table.get("passphrase_file", "")
    if not isinstance(name, str):
        raise SettingsError("node.toml: passphrase_file must be text")
    if not name:
        return b""
    line = _read(home / name).partition("\n")[0].rstrip("\r")
    _check_closed(home / name)
    return line.encode()


def _check_closed(file: Path) -> None:
    if file.stat().st_mode & 0o077:
        raise SettingsError(
            f"{file.name} can be read by other users of this machine. Close it with:"
            f" chmod 600 {file.name}",
            slug="key-readable",
        )


def _read_key(file: Path, passphrase: bytes) -> Ed25519Signer:
    text = _read(file).strip()
    _check_closed(file)
    if text.startswith(ENCRYPTED.decode()):
        try:
            return Ed25519Signer.from_encrypted(text.encode(), passphrase or b"-")
        except ValueError as error:
            raise SettingsError(
                f"{file.name} is encrypted and does not open. Put its passphrase into a file of"
                ' mode 0600 and name that in node.toml: passphrase_file = "FILE"',
                slug="bad-key",
            ) from error
    try:
        seed = bytes.fromhex(text)
    except ValueError as error:
        raise SettingsError(
            f"{file.name} must hold one private seed as 64 hex digits", slug="bad-key"
        ) from error
    if len(seed) != SEED_BYTES:
        raise SettingsError(
            f"{file.name} holds {len(seed)} bytes, a private seed has {SEED_BYTES}",
            slug="bad-key",
        )
    return Ed25519Signer.from_seed(seed)


def _show(value: object) -> str:
    """A value as an error shows it; not all of a whole file, or of a number without end."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # Python writes no integer of 5,000 digits
        return f"a {type(value).__name__} too large to show"


def _text(table: Mapping[str, Any], key: str, *, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or not value or len(value) > 128 or not value.isprintable():
        raise SettingsError(
            f"node.toml: {key} = {_show(value)} must be text of 1 to 128 printable characters"
        )
    return value


def _texts(table: Mapping[str, object], key: str) -> tuple[str, ...]:
    values = table.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SettingsError(f"node.toml: {key} = {_show(values)} must be a list of texts")
    return tuple(values)


def _boolean(table: Mapping[str, object], key: str, *, default: bool = False) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise SettingsError(f"node.toml: {key} must be true or false")
    return value


def _choice(table: Mapping[str, Any], key: str, allowed: tuple[str, ...], *, default: str) -> str:
    value = table.get(key, default)
    if value not in allowed:
        listed = ", ".join(f'"{item}"' for item in allowed)
        raise SettingsError(f"node.toml: {key} = {_show(value)} must be one of {listed}")
    return str(value)


def _integer(
    table: Mapping[str, Any],
    key: str,
    *,
    low: int,
    high: int,
    prefix: str = "",
    default: int | None = None,
) -> int:
    value = table.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise SettingsError(
            f"node.toml: {prefix}{key} = {_show(value)} must be a whole number from {low} to {high}"
        )
    return value
