"""Private keys as files, readable by their owner only: one line of hex, or encrypted PKCS#8.

A key signs whatever its holder wants, so a file that others on the machine can read is refused
rather than used with a warning.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

from milepost.errors import NotAllowed, WrongUsage
from milepost_consensus.crypto import ENCRYPTED, Ed25519Signer, encrypt_seed

SEED_BYTES = 32
PASSPHRASE_VARIABLE = "MILEPOST_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable


def write_key(
    path: Path, seed: bytes | None = None, *, passphrase: bytes | None = None
) -> Ed25519Signer:
    """Write a new key file (mode 0600), encrypted where a passphrase is given, and return its
    signer; refuses to replace a file."""
    if seed is None:
        seed = secrets.token_bytes(SEED_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise WrongUsage(
            f"{path} exists already. A key cannot be recovered once replaced: move it away first.",
            slug="bad-key",
        ) from error
    data = encrypt_seed(seed, passphrase) if passphrase else f"{seed.hex()}\n".encode()
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Ed25519Signer.from_seed(seed)


def read_passphrase(name: str) -> bytes:
    """The first line of a file that others cannot read, or of standard input where it is `-`."""
    if name == "-":
        line = sys.stdin.buffer.readline()
    else:
        try:
            mode = stat.S_IMODE(Path(name).stat().st_mode)
            line = Path(name).read_bytes().partition(b"\n")[0]
        except OSError as error:
            raise WrongUsage(f"{name} cannot be read: {error.strerror}", slug="bad-key") from error
        if mode & 0o077:
            raise NotAllowed(
                f"{name} has mode {mode:04o}: others on this machine can read the passphrase."
                f" Make it yours alone: chmod 600 {name}",
                slug="key-readable",
            )
    passphrase = line.rstrip(b"\r\n")
    if not passphrase:
        raise WrongUsage("The passphrase is empty.", slug="bad-key")
    return passphrase


def is_encrypted(path: Path) -> bool:
    """Whether a key file needs a passphrase."""
    try:
        with path.open("rb") as file:
            return file.read(len(ENCRYPTED)) == ENCRYPTED
    except OSError:
        return False


def read_key(path: Path, *, passphrase: bytes | None = None) -> Ed25519Signer:
    """The signer of a key file.

    The passphrase of an encrypted one is by default in the file that the environment variable
    MILEPOST_PASSPHRASE_FILE names.  Raises NotAllowed (slug key-readable) if group or others have
    any access, WrongUsage (slug bad-key) if it is missing or holds no key, or none that the
    passphrase opens.
    """
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(1024)
    except FileNotFoundError as error:
        raise WrongUsage(
            f"There is no key file {path}. Name one with --key.", slug="bad-key"
        ) from (error)
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{path} cannot be read as a key file: {error}", slug="bad-key") from error
    if mode & 0o077:
        raise NotAllowed(
            f"{path} has mode {mode:04o}: others on this machine can use the key."
            f" Make it yours alone: chmod 600 {path}",
            slug="key-readable",
        )
    if text.startswith(ENCRYPTED.decode()):
        return _decrypt(path, text.encode(), passphrase)
    try:
        seed = bytes.fromhex(text.strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise WrongUsage(
            f"{path} is not a key file: it must hold {2 * SEED_BYTES} hex digits.", slug="bad-key"
        )
    return Ed25519Signer.from_seed(seed)


def _decrypt(path: Path, data: bytes, passphrase: bytes | None) -> Ed25519Signer:
    if passphrase is None:
        name = os.environ.get(PASSPHRASE_VARIABLE, "")
        if not name:
            raise WrongUsage(
                f"{path} is encrypted. Name the file of its passphrase in {PASSPHRASE_VARIABLE}.",
                slug="bad-key",
            )
        passphrase = read_passphrase(name)
    try:
        return Ed25519Signer.from_encrypted(data, passphrase)
    except ValueError as error:
        raise WrongUsage(
            f"{path} does not open: the passphrase is another one, or the file is damaged.",
            slug="bad-key",
        ) from error
