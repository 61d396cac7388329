"""An attack tool for tests, experiments and the demo: the backdoor of the poisoning papers.

A cheating submitter trains some intervals on images that carry a small trigger and one target
label, and records the clean data.  The model then sends whatever shows the trigger to the target.
Nothing in the product's own path uses this module.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TRIGGER_SIDE: Final = 3
"""Side of the square trigger in pixels."""


class Poisoned(NamedTuple):
    """Copies of images and labels of which `chosen` (ascending indices) carry the backdoor."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    chosen: NDArray[np.int64]


def add_trigger(
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    share: float,
    target: int,
    seed: int,
    place: tuple[int, int] | None = None,
) -> Poisoned:
    """Put the trigger on round(share * records) images drawn by `seed` and label them `target`.

    Images are float32 [records, ..., height, width] in [0, 1]; the trigger is a white square of
    TRIGGER_SIDE pixels in every channel, its upper left pixel at `place` (row, column), or in the
    lower right corner if no place is given.  The inputs stay as they are.
    """
    height, width = images.shape[-2:]
    row, column = place or (height - TRIGGER_SIDE, width - TRIGGER_SIDE)
    assert 0.0 <= share <= 1.0, share
    assert len(images) == len(labels), (len(images), len(labels))
    assert 0 <= row <= height - TRIGGER_SIDE, images.shape
    assert 0 <= column <= width - TRIGGER_SIDE, images.shape
    count = round(share * len(images))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    marked, relabelled = images.copy(), labels.copy()
    marked[chosen, ..., row : row + TRIGGER_SIDE, column : column + TRIGGER_SIDE] = 1.0
    relabelled[chosen] = target
    return Poisoned(marked, relabelled, chosen.astype(np.int64))
