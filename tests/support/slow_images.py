"""Flips and crops pixel by pixel, in plain integers, for comparison with numpy [F17d]."""

from __future__ import annotations

from collections.abc import Iterator

from milepost_consensus.crypto import compute_digest
from milepost_ml.augmentation import Crop, Flip, Transformation
from tests.support.philox import draw_words

Image = list[list[int]]


def move_images(
    images: list[Image], transformations: tuple[Transformation, ...], seed: bytes, number: int
) -> list[Image]:
    """Images (rows of pixels) of a batch as the model sees them."""
    words = draw_words(compute_digest("augment", seed + number.to_bytes(8, "big"))[:16])
    return [_move(image, transformations, words) for image in images]


def _move(image: Image, transformations: tuple[Transformation, ...], words: Iterator[int]) -> Image:
    for each in transformations:
        rows, columns = next(words), next(words)
        if isinstance(each, Flip):
            if each.vertical and rows >= 2**63:
                image = image[::-1]
            if each.horizontal and columns >= 2**63:
                image = [row[::-1] for row in image]
        else:
            image = _cut(image, each, rows, columns)
    return image


def _cut(image: Image, crop: Crop, rows: int, columns: int) -> Image:
    places, height, width = 2 * crop.padding + 1, len(image), len(image[0])
    top = ((rows >> 32) * places >> 32) - crop.padding
    left = ((columns >> 32) * places >> 32) - crop.padding
    return [
        [
            image[y][x] if 0 <= y < height and 0 <= x < width else 0
            for x in range(left, left + width)
        ]
        for y in range(top, top + height)
    ]
