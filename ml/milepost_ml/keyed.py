"""Randomness as a function of (seed, batch): which records it holds, what its generator draws.

Nothing is remembered from batch to batch, so any step can be repeated alone.  Epoch e goes through
the records in the order that sorts a Philox stream keyed by (seed, e); batch j of it takes places
[j * B, (j + 1) * B), and what is left over at its end is not used in that epoch.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from milepost_consensus.crypto import compute_digest
from milepost_ml.recipe import Recipe

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

    def __init__(self, *, seed: bytes, records: int, batch_size: int, accumulate: int = 1) -> None:
        if not 1 <= batch_size <= records:
            raise ValueError(f"batches of {batch_size} from {records} records")
        self._seed, self._records, self._batch_size = seed, records, batch_size
        self._accumulate = accumulate
        self._batches_per_epoch = records // batch_size
        self._epoch = -1
        self._order: Indices = np.empty(0, dtype=np.int64)

    def get_indices(self, number: int) -> Indices:
        """The records of batch `number` (counted from 0): int64 of shape (batch size,)."""
        epoch, batch = divmod(number, self._batches_per_epoch)
        if epoch != self._epoch:
            self._order = compute_order(self._seed, epoch, self._records)
            self._epoch = epoch
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]

    def get_numbers(self, step: int) -> range:
        """The batches of step `step`."""
        return range(step * self._accumulate, (step + 1) * self._accumulate)

    def get_step_records(self, step: int) -> list[int]:
        """The records of all batches of step `step`, in order."""
        return [
            index
            for number in self.get_numbers(step)
            for index in self.get_indices(number).tolist()
        ]


def make_order(recipe: Recipe) -> Order:
    """The batches of a declared run."""
    return Order(
        seed=recipe.seed_bytes,
        records=recipe.records,
        batch_size=recipe.batch_size,
        accumulate=recipe.accumulate,
    )


def compute_generator_seed(seed: bytes, number: int) -> int:
    """What the framework's generator is seeded with before batch `number`: 63 bits."""
    digest = compute_digest("torch", seed + number.to_bytes(8, "big"))
    return int.from_bytes(digest[:8], "big") >> 1
