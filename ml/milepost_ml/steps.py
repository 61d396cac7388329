"""What retraining a step gives, whichever framework does it; loads none."""

from __future__ import annotations

from typing import NamedTuple


class StepFailed(Exception):
    """A step cannot be computed from this state and batch, on any machine.

    `batch` are the batch digests of the whole stride.
    """

    def __init__(self, message: str, batch: bytes) -> None:
        super().__init__(message)
        self.batch = batch


class StepResult(NamedTuple):
    """What a step digest is made of: digests, and each loss as 4 bytes (float32, little-endian)."""

    batch: bytes
    """The batch digest of every step, one after the other; so with `loss`."""
    gradient: bytes
    """The content digest of the last step's; a record holds a digest of it."""
    loss: bytes
    post: bytes
