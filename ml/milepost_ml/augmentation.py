"""Augmentation of images as a declaration: which one is flipped or shifted follows from the seed.

    Flip    mirrors half of the images
    Crop    pads with zeros, then cuts a window of the old size out at a place of its own

Both move numbers and compute none, so that they are the same bits everywhere.  They apply to the
first data tensor, whose last two dimensions are rows and columns.  Batch number n draws words from
Philox 4x64-10 keyed by (seed, n); with T transformations, the k-th of the image in place i takes
the words 2 (T i + k) and 2 (T i + k) + 1: for rows and for columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from milepost_consensus.crypto import compute_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.snapshots import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from milepost_ml.digests import Array

    Words = npt.NDArray[np.uint64]

MAX_TRANSFORMATIONS: Final = 8


class Flip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="flip"):
    """Every image is mirrored with a chance of one half, in either direction by itself."""

    horizontal: bool = True
    vertical: bool = False


class Crop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="crop"):
    """A window of the image's own size, out of the image with `padding` zeros on every side."""

    padding: int


Transformation = Flip | Crop


def validate_augmentation(augment: Sequence[Transformation], data: TensorSpec) -> None:
    """Raises InvalidRecord (bad-recipe) unless records of a data tensor can be transformed so."""
    if not augment:
        return
    _require(len(augment) <= MAX_TRANSFORMATIONS, f"{len(augment)} transformations of an image")
    _require(
        len(data.shape) in (3, 4),
        f"{data.name} has the shape {list(data.shape)}, but images to augment are (N, H, W) or"
        " (N, C, H, W)",
    )
    for each in augment:
        if isinstance(each, Flip):
            _require(each.horizontal or each.vertical, "a flip in no direction")
        else:
            high = min(data.shape[-2:]) - 1
            _require(
                1 <= each.padding <= high,
                f"a crop with padding {each.padding}; images of {data.shape[-2]} x"
                f" {data.shape[-1]} allow 1 to {high}",
            )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


def augment_batch(
    images: Array, augment: Sequence[Transformation], *, seed: bytes, number: int
) -> Array:
    """Images (N, H, W) or (N, C, H, W) of batch `number`, as the model sees them."""
    import numpy as np

    digest = compute_digest("augment", seed + number.to_bytes(8, "big"))
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(2 * len(images) * len(augment))
    words = words.reshape(len(images), len(augment), 2)
    for place, each in enumerate(augment):
        rows, columns = words[:, place, 0], words[:, place, 1]
        if isinstance(each, Flip):
            images = _flip(images, rows, columns, each)
        else:
            images = _crop(images, rows, columns, each.padding)
    return np.ascontiguousarray(images)


def _flip(images: Array, rows: Words, columns: Words, flip: Flip) -> Array:
    import numpy as np

    flipped = images.copy()
    for wanted, words, axis in ((flip.vertical, rows, -2), (flip.horizontal, columns, -1)):
        if wanted:
            chosen = words >> np.uint64(63) == 1
            flipped[chosen] = np.flip(flipped[chosen], axis)
    return flipped


def _crop(images: Array, rows: Words, columns: Words, padding: int) -> Array:
    import numpy as np

    still = [(0, 0)] * (images.ndim - 2)
    padded = np.pad(images, [*still, (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[-2:], axis=(-2, -1))
    # (N, ..., 2 p + 1, 2 p + 1, H, W): the places a window may have.
    half, places = np.uint64(32), np.uint64(2 * padding + 1)
    tops, lefts = (((words >> half) * places >> half).astype(np.int64) for words in (rows, columns))
    return np.stack(
        [
            window[..., top, left, :, :]
            for window, top, left in zip(windows, tops, lefts, strict=True)
        ]
    )
