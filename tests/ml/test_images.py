"""An image hashes to the content digest of the tensors copied into it."""

from __future__ import annotations

import numpy as np

from milepost_ml.digests import NUMPY_CODES, compute_content_digest
from milepost_ml.images import ContentImage
from milepost_ml.snapshots import TensorSpec

SPECS = [
    TensorSpec("w", "F32", (3, 2)),
    TensorSpec("count", "I64", ()),
    TensorSpec("mask", "BOOL", (5,)),
    TensorSpec("é", "F64", (1,)),
]


def test_an_image_is_a_content_digest_in_waiting() -> None:
    image = ContentImage(SPECS)
    assert image.names == ("count", "mask", "w", "é")
    rng = np.random.default_rng(1)
    for _ in range(3):
        tensors = {
            spec.name: (100 * rng.random(spec.shape)).astype(NUMPY_CODES[spec.dtype])
            if spec.dtype != "BOOL"
            else rng.random(spec.shape) > 0.5
            for spec in SPECS
        }
        tensors["count"] = np.array(rng.integers(100))
        image.fill([tensors[name].ctypes.data for name in image.names])
        assert image.compute_digest() == compute_content_digest(tensors)
        assert compute_content_digest(image.get_arrays()) == image.compute_digest()
        # What was copied stays when the source changes.
        tensors["w"] += 1
        assert compute_content_digest(tensors) != image.compute_digest()


def test_an_image_of_nothing() -> None:
    image = ContentImage([])
    image.fill([])
    assert image.compute_digest() == compute_content_digest({})
