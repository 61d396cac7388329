"""What can be wrong with bytes that somebody else sent.

Every class here means *they* erred: the object is refused, counted and answered, and the state
stays as it was.  Our own mistakes are assertions.  Each error carries a `slug`, the stable name
under which `milepost explain` tells the long story.
"""

from __future__ import annotations

MAX_MESSAGE = 1_000
"""Characters.  Messages quote what was wrong, and that may be a megabyte of it."""


class InvalidInput(Exception):
    """Something that a peer or a user sent breaks a rule.  `slug` names the rule's explanation."""

    slug = "invalid-input"

    def __init__(self, message: str, *, slug: str | None = None) -> None:
        super().__init__(message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " ...")
        if slug is not None:
            self.slug = slug


class InvalidEncoding(InvalidInput):
    """Bytes that are not the one canonical encoding of a value of the expected type."""

    slug = "bad-encoding"


class InvalidSignature(InvalidInput):
    """A signature that does not verify, or a public key that no honest signer can hold."""

    slug = "bad-signature"


class InvalidPath(InvalidInput):
    """An inclusion path that does not lead from the leaf to the root."""

    slug = "bad-path"


class InvalidTransaction(InvalidInput):
    """A transaction that the ledger rules refuse in this state."""

    slug = "bad-transaction"


class InvalidBlock(InvalidInput):
    """A block, header or certificate that does not extend the chain it claims to extend."""

    slug = "bad-block"


class InvalidMessage(InvalidInput):
    """A proposal or vote that no correct member sends."""

    slug = "bad-message"
