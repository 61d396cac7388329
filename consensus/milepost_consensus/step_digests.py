"""Digests of training states and of the steps between them: the chain that a record commits to."""

from __future__ import annotations

from milepost_consensus.crypto import compute_digest


def compute_state_digest(step: int, model_digest: bytes, optimizer_digest: bytes) -> bytes:
    """The digest S_t of a complete training state after `step` steps.

    Randomness is keyed by the step number, so the step stands for the generators as well.
    """
    return compute_digest("state", step.to_bytes(8, "big") + model_digest + optimizer_digest)


def compute_gradient_commitment(gradient: bytes) -> bytes:
    """What a record says of a gradient: a digest of its content digest g, which is not published.

    Who has g has done the step, or was told by somebody who has; who has the record alone has not.
    """
    return compute_digest("gradient", gradient)


def compute_work_digest(verifier: bytes, gradient: bytes) -> bytes:
    """What a verifier says to have retrained a step: its id with the content digest g.

    Nobody can copy another's, and whoever has g can show in the ledger that one is wrong.
    """
    return compute_digest("work", verifier + gradient)


def compute_beyond_digest(leaf: bytes) -> bytes:
    """What everybody answers, under profile `tolerance`, about a step digest whose interval ends
    beyond the bound.  Retrained bits differ, so the answer is one of two: the leaf, or this."""
    return compute_digest("beyond", leaf)


def compute_step_digest(
    *, pre: bytes, batch: bytes, gradient: bytes, loss: bytes, post: bytes
) -> bytes:
    """The step digest d_t = H(S_{t-1}, batch_t, gradient_t, loss_t, S_t).

    `gradient` is the commitment, `loss` 4 bytes (float32, little-endian).
    """
    return compute_digest("step", pre + batch + gradient + loss + post)
