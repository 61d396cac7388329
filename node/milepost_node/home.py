"""What a node asks of its home before it uses the key there: that nobody else does, and that the
network knows it."""

from __future__ import annotations

import fcntl
from typing import IO

from milepost_consensus.state import LedgerState
from milepost_node.errors import SettingsError
from milepost_node.settings import Settings


def lock_home(settings: Settings) -> IO[bytes]:
    """Keep a second process away from the home; it would sign with the same key.

    Held as long as the file is open.  Raises SettingsError (home-in-use).
    """
    lock = (settings.home / "node.lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise SettingsError(
            f"Another process runs node {settings.name} from this home already. Two would sign"
            " with one key, which looks like lying. Stop the other one first.",
            slug="home-in-use",
        ) from error
    return lock


def check_member(settings: Settings, state: LedgerState) -> None:
    """Raises SettingsError (not-a-member) for a key that is not a member's and does not join."""
    if settings.signer.public in state.members or settings.joining:
        return
    raise SettingsError(
        f"The key in node.key ({settings.signer.public.hex()[:16]}) is not among the"
        f" {len(state.members)} members of network {settings.genesis.network}."
        " Use the genesis.json of the network that this key was made for. To follow the network"
        " until its members take the key in, write joining = true into node.toml.",
        slug="not-a-member",
    )
