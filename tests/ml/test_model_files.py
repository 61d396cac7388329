"""Differences between models are named, counted and measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from milepost_ml.errors import InvalidRecord
from milepost_ml.model_files import compare_models, read_model
from milepost_ml.snapshots import encode_tensors


def test_equal_models_have_no_difference() -> None:
    model: dict[str, NDArray[Any]] = {
        "fc.weight": np.ones((3, 2), np.float32),
        "empty": np.zeros((0, 4)),
        "count": np.array(3),
    }
    copies = {name: value.copy() for name, value in reversed(model.items())}
    assert compare_models(model, copies) == ()


def test_changed_values_are_counted_and_measured() -> None:
    before = {"fc.weight": np.zeros((4, 5), np.float32), "fc.bias": np.zeros(5, np.float32)}
    after = {name: value.copy() for name, value in before.items()}
    after["fc.weight"][1, 2] = 0.25
    after["fc.weight"][3, 4] = -0.5
    (difference,) = compare_models(before, after)
    assert (difference.name, difference.differing, difference.values) == ("fc.weight", 2, 20)
    assert difference.largest == 0.5
    assert str(difference) == "fc.weight  [4, 5]  2 of 20 values, largest difference 5.0e-01"


def test_bytes_decide_what_differs() -> None:
    zero, minus = {"w": np.array([0.0, 1.0])}, {"w": np.array([-0.0, 1.0])}
    (difference,) = compare_models(zero, minus)
    assert (difference.differing, difference.largest) == (1, 0.0)
    nan = {"w": np.array([math.nan, 1.0])}
    assert compare_models(nan, {"w": nan["w"].copy()}) == ()
    (difference,) = compare_models(zero, nan)
    assert (difference.differing, difference.largest) == (1, math.inf)
    other = {"w": np.array([0x7FF8000000000001, 0x3FF0000000000000], "<u8").view("<f8")}
    (difference,) = compare_models(nan, other)
    assert (difference.differing, difference.largest) == (1, 0.0)


def test_missing_extra_reshaped_and_retyped_tensors_are_named() -> None:
    before = {
        "a": np.zeros(2, np.float32),
        "b": np.zeros(2, np.float32),
        "c": np.zeros((2, 3), np.float32),
    }
    after: dict[str, NDArray[Any]] = {
        "b": np.zeros(2, np.float64),
        "c": np.zeros((3, 2), np.float32),
        "d": np.zeros((), np.int64),
    }
    assert [str(difference) for difference in compare_models(before, after)] == [
        "a  missing [2]",
        "b  dtype F32 became F64",
        "c  shape [2, 3] became [3, 2]",
        "d  extra []",
    ]


def test_integers_and_truth_values_are_compared_too() -> None:
    before = {"i": np.array([1, 2**40]), "t": np.array([True, False])}
    after = {"i": np.array([1, 2**40 - 8]), "t": np.array([True, True])}
    assert [(d.differing, d.largest) for d in compare_models(before, after)] == [(1, 8.0), (1, 1.0)]


def test_a_model_saved_by_another_writer_is_read(tmp_path: Path) -> None:
    weights = np.array([1.0, 2.0], np.float32)
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    raw = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + weights.tobytes())
    assert compare_models({"w": weights}, read_model(path)) == ()


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors({"w": np.ones(8, np.float32)})[:-1])
    with pytest.raises(InvalidRecord, match=r"model\.safetensors: the header says") as caught:
        read_model(path)
    assert caught.value.slug == "snapshot-broken"


def test_an_empty_tensor_of_impossible_shape_is_refused(tmp_path: Path) -> None:
    # No bytes, yet more than numpy can address once the zero is left out.
    header = {"w": {"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}
    raw = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(InvalidRecord) as caught:
        read_model(path)
    assert caught.value.slug == "snapshot-broken"
