"""Randomness as a function of (seed, step): which records a step sees, what its generator draws.

Nothing is remembered from step to step, so any step can be repeated alone.  Epoch e goes through
the records in the order that sorts a Philox stream keyed by (seed, e); batch j of it takes places
[j * B, (j + 1) * B), and what is left over at its end is not used in that epoch.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from milepost_consensus.crypto import compute_digest

SEED_BYTES: Final = 32

Indices = npt.NDArray[np.int64]


def make_seed(seed: bytes | int | None) -> bytes:
    """The 32-byte seed of a run: as given, an integer as big-endian, or freshly drawn.

    Raises ValueError for other lengths and for integers outside [0, 2^256).
    """
    if seed is None:
        return secrets.token_bytes(SEED_BYTES)
    if isinstance(seed, int):
        if not 0 <= seed < 2 ** (8 * SEED_BYTES):
            raise ValueError(f"seed {seed} does not lie in [0, 2^256)")
        return seed.to_bytes(SEED_BYTES, "big")
    if len(seed) != SEED_BYTES:
        raise ValueError(f"the seed has {len(seed)} bytes, {SEED_BYTES} are needed")
    return seed


def compute_order(seed: bytes, epoch: int, records: int) -> Indices:
    """The order in which epoch `epoch` goes through the records: int64 of shape (records,)."""
    digest = compute_digest("order", seed + epoch.to_bytes(8, "big"))
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    stream = np.random.Philox(key=key).random_raw(records)
    return np.argsort(stream, kind="stable").astype(np.int64)


class Order:
    """Batches of a run; keeps the order of one epoch at a time."""

    def __init__(self, *, seed: bytes, records: int, batch_size: int) -> None:
        if not 1 <= batch_size <= records:
            raise ValueError(f"batches of {batch_size} from {records} records")
        self._seed, self._records, self._batch_size = seed, records, batch_size
        self._batches_per_epoch = records // batch_size
        self._epoch = -1
        self._order: Indices = np.empty(0, dtype=np.int64)

    def get_indices(self, step: int) -> Indices:
        """The records of step `step` (counted from 0): int64 of shape (batch size,)."""
        epoch, batch = divmod(step, self._batches_per_epoch)
        if epoch != self._epoch:
            self._order = compute_order(self._seed, epoch, self._records)
            self._epoch = epoch
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]


def compute_generator_seed(seed: bytes, step: int) -> int:
    """What the framework's generator is seeded with before step `step`: 63 bits."""
    digest = compute_digest("torch", seed + step.to_bytes(8, "big"))
    return int.from_bytes(digest[:8], "big") >> 1
