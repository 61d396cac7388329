"""Private keys as files: one line of hex, readable by their owner only.

A key signs whatever its holder wants, so a file that others on the machine can read is refused
rather than used with a warning.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from milepost.errors import NotAllowed, WrongUsage
from milepost_consensus.crypto import Ed25519Signer

SEED_BYTES = 32


def write_key(path: Path, seed: bytes | None = None) -> Ed25519Signer:
    """Write a new key file (mode 0600) and return its signer; refuses to replace a file."""
    if seed is None:
        seed = secrets.token_bytes(SEED_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise WrongUsage(
            f"{path} exists already. A key cannot be recovered once replaced: move it away first.",
            slug="bad-key",
        ) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(seed.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return Ed25519Signer.from_seed(seed)


def read_key(path: Path) -> Ed25519Signer:
    """The signer of a key file.

    Raises NotAllowed (slug key-readable) if group or others have any access, WrongUsage (slug
    bad-key) if it is missing or holds anything but 64 hex digits.
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
    try:
        seed = bytes.fromhex(text.strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise WrongUsage(
            f"{path} is not a key file: it must hold {2 * SEED_BYTES} hex digits.", slug="bad-key"
        )
    return Ed25519Signer.from_seed(seed)
