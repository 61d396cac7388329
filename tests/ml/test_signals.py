"""The signals beside the change score against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from milepost_ml import signals as module
from milepost_ml.distance import compute_distances
from milepost_ml.errors import InvalidRecord
from milepost_ml.signals import (
    compute_concentration,
    compute_layer_shares,
    compute_run_signals,
    compute_signals,
    compute_turn,
)

EARLIER = {
    "in.weight": np.zeros((2, 4), dtype=np.float32),
    "in.bias": np.zeros(2, dtype=np.float32),
    "out.weight": np.zeros((3, 2), dtype=np.float32),
}
BEFORE = {
    "in.weight": np.ones((2, 4), dtype=np.float32),
    "in.bias": np.zeros(2, dtype=np.float32),
    "out.weight": np.zeros((3, 2), dtype=np.float32),
}
AFTER = {
    # Columns move by 4, 0, 0, 2 in all; rows of the last layer by 3, 0, 1.
    "in.weight": BEFORE["in.weight"] + np.array([[-3, 0, 0, 1], [1, 0, 0, 1]], dtype=np.float32),
    "in.bias": np.array([0, 2], dtype=np.float32),
    "out.weight": np.array([[1, -2], [0, 0], [0, 1]], dtype=np.float32),
}


def test_signals_of_a_step_computed_by_hand() -> None:
    signals = compute_signals(EARLIER, BEFORE, AFTER)
    moved, squares = 6 + 2 + 4, 9 + 1 + 1 + 1 + 4 + 1 + 4 + 1
    assert signals.distances == compute_distances(BEFORE, AFTER)
    expected = {
        "spread": math.sqrt(16 * squares) / moved,
        "first_share": 6 / moved,
        "last_share": 4 / moved,
        "outputs": math.sqrt(3 * (9 + 1)) / 4,
        "inputs": math.sqrt(4 * (16 + 4)) / 6,
        # The preceding movement is one in all eight weights of the first matrix.
        "turn": (-3 + 1 + 1 + 1) / math.sqrt(8) / math.sqrt(squares),
    }
    found = signals._asdict()
    del found["distances"]
    assert found == pytest.approx(expected)


def test_shares_are_those_of_the_absolute_change() -> None:
    shares = compute_layer_shares(BEFORE, AFTER)
    assert shares == pytest.approx({"in.weight": 0.5, "in.bias": 1 / 6, "out.weight": 1 / 3})


def test_an_interval_that_stands_still_has_no_shape() -> None:
    signals = compute_signals(EARLIER, BEFORE, BEFORE)
    assert signals[1:] == (0.0,) * 6
    assert signals.distances.absolute == 0


def test_turn_is_one_straight_on_and_minus_one_straight_back() -> None:
    start = {"w": np.array([1.0, 2.0])}
    middle = {"w": np.array([2.0, 4.0])}
    on, back = {"w": np.array([4.0, 8.0])}, {"w": np.array([1.5, 3.0])}
    assert compute_turn(start, middle, on) == pytest.approx(1.0)
    assert compute_turn(start, middle, back) == pytest.approx(-1.0)
    assert compute_signals(None, middle, on).turn == 0.0


def test_concentration_runs_from_one_to_the_root_of_the_number() -> None:
    assert compute_concentration(np.full(9, 0.3)) == pytest.approx(1.0)
    assert compute_concentration(np.array([0.0, 7.0, 0.0, 0.0])) == pytest.approx(2.0)
    assert compute_concentration(np.zeros(4)) == 0.0


def test_a_convolution_has_no_input_columns() -> None:
    before = {"conv": np.zeros((2, 1, 3, 3)), "out": np.zeros((2, 2))}
    after = {"conv": np.ones((2, 1, 3, 3)), "out": np.eye(2)}
    signals = compute_signals(None, before, after)
    assert signals.inputs == 0.0
    assert signals.first_share == pytest.approx(18 / 20)
    assert signals.outputs == pytest.approx(1.0)


def test_blocks_of_any_size_give_the_same_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(1)
    shapes = {"a": (7, 11), "b": (7,), "c": (3, 7)}
    shots = [{name: chance.normal(size=shape) for name, shape in shapes.items()} for _ in range(3)]
    whole = compute_signals(*shots)
    for size in (1, 5, 16):
        monkeypatch.setattr(module, "BLOCK_VALUES", size)
        assert compute_signals(*shots)[1:] == pytest.approx(whole[1:])


def test_a_run_has_a_signal_for_every_interval() -> None:
    signals = compute_run_signals(iter([EARLIER, BEFORE, AFTER]))
    first = compute_signals(None, EARLIER, BEFORE)
    assert signals == [first, compute_signals(EARLIER, BEFORE, AFTER)]


def test_snapshots_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRecord) as caught:
        compute_signals(None, BEFORE, {"in.weight": BEFORE["in.weight"]})
    assert caught.value.slug == "wrong-tensors"
