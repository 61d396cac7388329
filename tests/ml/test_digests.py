"""Digests: the layout by hand, and that names, dtypes, shapes and bytes all count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from numpy.typing import NDArray

from milepost_consensus.crypto import compute_digest
from milepost_consensus.merkle import compute_root
from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.digests import (
    compute_batch_digest,
    compute_content_digest,
    compute_dataset_root,
    compute_record_digests,
    compute_snapshot_digest,
    get_dtype_name,
)
from milepost_ml.errors import InvalidRecord

Tensors = dict[str, NDArray[Any]]


def make_tensors() -> Tensors:
    return {
        "b": np.array([[1.5, -2.0]], dtype=np.float32),
        "a": np.array(7, dtype=np.int64),
    }


def test_layout_is_the_documented_one() -> None:
    one = (
        b"\x01\x00a" + b"\x03I64" + b"\x00" + (8).to_bytes(8, "little") + (7).to_bytes(8, "little")
    )
    two = (
        b"\x01\x00b"
        + b"\x03F32"
        + b"\x02"
        + (1).to_bytes(8, "little")
        + (2).to_bytes(8, "little")
        + (8).to_bytes(8, "little")
        + np.array([1.5, -2.0], dtype="<f4").tobytes()
    )
    expected = blake3(b"milepost/v1/tensors\x00" + (2).to_bytes(4, "little") + one + two).digest()
    assert compute_content_digest(make_tensors()) == expected


def test_order_of_names_and_memory_layout_do_not_count() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    turned = np.asfortranarray(matrix)
    assert not turned.flags.c_contiguous
    assert compute_content_digest({"x": matrix}) == compute_content_digest({"x": turned})
    tensors = make_tensors()
    assert compute_content_digest(dict(reversed(tensors.items()))) == compute_content_digest(
        tensors
    )


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.zeros((2, 3), dtype=np.float64)},
        {"x": np.zeros((3, 2), dtype=np.float32)},
        {"y": np.zeros((2, 3), dtype=np.float32)},
        {"x": np.full((2, 3), -0.0, dtype=np.float32)},
        {"x": np.zeros((2, 3), dtype=np.float32), "y": np.zeros(0, dtype=np.float32)},
        {},
    ],
)
def test_everything_else_counts(other: Tensors) -> None:
    tensors = {"x": np.zeros((2, 3), dtype=np.float32)}
    assert compute_content_digest(tensors) != compute_content_digest(other)


def test_types_without_a_name_are_refused() -> None:
    with pytest.raises(InvalidRecord) as caught:
        get_dtype_name(np.dtype(np.complex64))
    assert caught.value.slug == "wrong-tensors"


def test_snapshot_digest_keeps_model_and_optimizer_apart() -> None:
    weights = np.ones(3, dtype=np.float32)
    snapshot = {"model.w": weights, "optimizer.w.momentum_buffer": 2 * weights}
    expected = compute_state_digest(
        9,
        compute_content_digest({"w": weights}),
        compute_content_digest({"w.momentum_buffer": 2 * weights}),
    )
    assert compute_snapshot_digest(9, snapshot) == expected
    assert compute_snapshot_digest(10, snapshot) != expected


def test_a_record_is_one_row_of_every_data_tensor() -> None:
    data: Tensors = {
        "data.0": np.arange(24, dtype=np.float32).reshape(4, 2, 3),
        "data.1": np.arange(4, dtype=np.int64),
    }
    digests = compute_record_digests(data)
    for index in range(4):
        row = {name: array[index] for name, array in data.items()}
        assert digests[index] == compute_digest("record", compute_content_digest(row))
    assert compute_record_digests(data, [3, 0]) == [digests[3], digests[0]]
    turned = {name: np.asfortranarray(array) for name, array in data.items()}
    assert compute_record_digests(turned) == digests


def test_batches_and_data_sets_follow_from_record_digests() -> None:
    digests = [bytes([i]) * 32 for i in range(3)]
    assert compute_batch_digest(digests) == compute_digest("batch", b"".join(digests))
    assert compute_batch_digest(reversed(digests)) != compute_batch_digest(digests)
    assert compute_dataset_root(digests) == compute_root(digests)
