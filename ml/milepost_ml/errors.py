"""What can go wrong with a training record, and with the script that makes one.

`InvalidRecord`: somebody's files or recipe break a rule (they erred).  `RecordingError`: the
training script does what cannot be recorded (the user erred, at their own machine).  Both carry a
`slug`, the stable name under which `milepost explain` tells the long story.
"""

from __future__ import annotations


class MilepostMLError(Exception):
    """Root of this package's errors; `slug` names the explanation."""

    slug = "bad-record"

    def __init__(self, message: str, *, slug: str | None = None) -> None:
        super().__init__(message)
        if slug is not None:
            self.slug = slug


class InvalidRecord(MilepostMLError):
    """A record's file, recipe or commitment is not what it must be."""


class RecordingError(MilepostMLError):
    """The training script cannot be recorded as it stands, or left what it declared."""

    slug = "not-recordable"


class RefusedOperator(RuntimeError):
    """Exact arithmetic has no kernel for an operator, or not for these arguments of it.

    Not a MilepostMLError: it travels through PyTorch as PyTorch's own errors do, and whoever asked
    for exact arithmetic says what it means for a record.
    """

    def __init__(self, operator: str, reason: str = "") -> None:
        super().__init__(
            f"{operator} has no exact kernel{': ' if reason else ''}{reason}."
            " What is not part of the run belongs inside `with run.paused():`"
        )
        self.operator, self.reason = operator, reason
        """ATen's name, such as "aten.linalg_svd.default"."""


class MissingFramework(RuntimeError):
    """A record needs a framework that is not installed here.

    Not a MilepostMLError: the record may be in order, this machine cannot tell.
    """


class MissingGpu(RuntimeError):
    """A record needs a GPU, and there is none here, or the one here could not do it.

    Not a MilepostMLError either, and for the same reason.
    """
