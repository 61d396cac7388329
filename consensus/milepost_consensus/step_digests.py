"""Digests of training states and of the steps between them: the chain that a record commits to.

A *stride* is what one step digest covers: `steps_per_digest` consecutive steps of an interval, the
last of an interval possibly fewer, and one step where nothing else is declared.
"""

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
    """The step digest d = H(state before, batches, gradient, losses, state after) of a stride.

    `batch` holds the batch digest of every step of the stride one after the other, `loss` their
    losses, 4 bytes each (float32, little-endian); `gradient` is the commitment to the last step's.
    So the length tells how many steps there are, and of one step it is the digest d_t.
    """
    return compute_digest("step", pre + batch + gradient + loss + post)


def count_strides(steps: range, steps_per_digest: int) -> int:
    """How many step digests the steps of an interval have."""
    return -(-len(steps) // steps_per_digest)


def get_stride(steps: range, steps_per_digest: int, place: int) -> range:
    """The steps that digest number `place` of an interval covers, given the interval's steps."""
    return steps[place * steps_per_digest : (place + 1) * steps_per_digest]
