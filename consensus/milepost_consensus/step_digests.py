"""Digests of training states and of the steps between them: the chain that a record commits to."""

from __future__ import annotations

from milepost_consensus.crypto import compute_digest


def compute_state_digest(step: int, model_digest: bytes, optimizer_digest: bytes) -> bytes:
    """The digest S_t of a complete training state after `step` steps.

    Randomness is keyed by the step number, so the step stands for the generators as well.
    """
    return compute_digest("state", step.to_bytes(8, "big") + model_digest + optimizer_digest)


def compute_step_digest(
    *, pre: bytes, batch: bytes, gradient: bytes, loss: bytes, post: bytes
) -> bytes:
    """The step digest d_t = H(S_{t-1}, batch_t, gradient_t, loss_t, S_t); loss is 4 bytes (f32)."""
    return compute_digest("step", pre + batch + gradient + loss + post)
