"""What retraining a step gives, whichever framework does it; loads none."""

from __future__ import annotations

from typing import NamedTuple


class StepFailed(Exception):
    """The step cannot be computed from this state and batch, on any machine."""

    def __init__(self, message: str, batch: bytes) -> None:
        super().__init__(message)
        self.batch = batch


class StepResult(NamedTuple):
    """What a step digest is made of: digests, and the loss as 4 bytes (float32, little-endian)."""

    batch: bytes
    gradient: bytes
    """The content digest itself; a record holds a digest of it."""
    loss: bytes
    post: bytes
