"""An image hashes to the content digest of the tensors copied into it."""

from __future__ import annotations

import numpy as np
import pytest

from milepost_ml.digests import NUMPY_CODES, compute_content_digest
from milepost_ml.images import SMALL_BYTES, ContentImage, unify_nans
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


@pytest.mark.parametrize("small_bytes", [0, SMALL_BYTES])
def test_all_nans_of_an_image_become_one_value(
    small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_ml.images.SMALL_BYTES", small_bytes)
    odd = np.array([0x7FC00001, 0xFFC00000, 0x7F800001, 0x7F800000, 0x80000000, 1], dtype=np.uint32)
    wide = np.array([0xFFF8000000000001], dtype=np.uint64).view(np.float64)
    values = odd.view(np.float32).reshape(3, 2)
    image = ContentImage([SPECS[0], SPECS[3], TensorSpec("i", "I32", (2,))])
    integers = np.array([-1, 0x7FC00001], dtype=np.int32)
    image.fill([array.ctypes.data for array in (integers, values, wide)])
    before = image.compute_digest()
    image.unify_nans()
    assert image.compute_digest() != before
    found = image.get_arrays()
    assert found["w"].reshape(-1).view(np.uint32).tolist() == [0x7FC00000] * 3 + odd[3:].tolist()
    assert found["é"].view(np.uint64).tolist() == [0x7FF8000000000000]
    assert found["i"].tolist() == integers.tolist()
    alone = unify_nans(values)
    assert alone.tobytes() == found["w"].tobytes()
    assert values.view(np.uint32)[0, 0] == odd[0], "the source stays as it was"
    clean = np.array([1.0, -0.0, np.inf], dtype=np.float32)
    assert unify_nans(clean) is clean
    assert unify_nans(integers) is integers
    assert unify_nans(values[0, 0:1].reshape(())).view(np.uint32) == 0x7FC00000


def test_an_image_of_nothing() -> None:
    image = ContentImage([])
    image.fill([])
    assert image.compute_digest() == compute_content_digest({})
