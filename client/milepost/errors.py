"""What the client tells a person who cannot get what they asked for.

The kind decides the exit code of the command line, the slug names the long explanation.  Bytes
that break a rule keep their own errors (`InvalidInput` of the consensus and learning packages).
"""

from __future__ import annotations


class MilepostError(Exception):
    """Something the person asked for did not happen.  `slug` names the explanation."""

    slug = "client-error"

    def __init__(self, message: str, *, slug: str | None = None) -> None:
        super().__init__(message)
        if slug is not None:
            self.slug = slug


class WrongUsage(MilepostError):
    """The command or call names something that does not exist or does not fit."""

    slug = "bad-usage"


class CannotTell(MilepostError):
    """Neither yes nor no: a proof, a trust file or a decision is missing."""

    slug = "cannot-tell"


class NotAllowed(MilepostError):
    """The key may not do this, or the key file is not safe to use."""

    slug = "not-allowed"


class Unreachable(MilepostError):
    """No node of the network answered.  Trying again may help."""

    slug = "unreachable"


class MachineCannot(MilepostError):
    """This machine lacks a package, a version or a device."""

    slug = "missing-extra"


class Refused(MilepostError):
    """A node looked at what was sent and said no.  `status` is the HTTP status."""

    slug = "refused"

    def __init__(self, message: str, *, slug: str, status: int) -> None:
        super().__init__(message, slug=slug)
        self.status = status
