"""Exit codes: what happened, for scripts.  `--help` and the documents give the same list."""

from __future__ import annotations

from typing import Final

from milepost.errors import (
    CannotTell,
    MachineCannot,
    MilepostError,
    NotAllowed,
    Unreachable,
    WrongUsage,
)

YES: Final = 0
NO: Final = 1
USAGE: Final = 2
CANNOT_TELL: Final = 3
NOT_ALLOWED: Final = 4
UNREACHABLE: Final = 5
MACHINE_CANNOT: Final = 6
INTERRUPTED: Final = 130

EXIT_CODES: Final[dict[int, str]] = {
    YES: "yes, or done",
    NO: "no: looked, and it is false (rejected, refused, differs)",
    USAGE: "wrong usage",
    CANNOT_TELL: "cannot tell (no proof, no trust file, undecided, timed out)",
    NOT_ALLOWED: "not allowed (key or membership)",
    UNREACHABLE: "network or node unreachable; trying again may help",
    MACHINE_CANNOT: "this machine cannot (missing extra, version, device)",
    INTERRUPTED: "interrupted; the same command goes on where it stopped",
}

_KINDS: Final[tuple[tuple[type[MilepostError], int], ...]] = (
    (WrongUsage, USAGE),
    (CannotTell, CANNOT_TELL),
    (NotAllowed, NOT_ALLOWED),
    (Unreachable, UNREACHABLE),
    (MachineCannot, MACHINE_CANNOT),
)
_SLUGS: Final = {
    "not-a-member": NOT_ALLOWED,
    "bad-signature": NOT_ALLOWED,
    "missing-extra": MACHINE_CANNOT,
    "not-served": MACHINE_CANNOT,
    "wrong-network": USAGE,
}
"""Refusals that come from a node or from the learning package, by their slug; all others are NO."""


def get_exit_code(error: Exception) -> int:
    """The exit code for an error that carries a slug."""
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return code
    return _SLUGS.get(str(getattr(error, "slug", "")), NO)
