"""The signals beside the change score against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_ml import signals as module
from milepost_ml.distance import compute_change, compute_distances
from milepost_ml.errors import InvalidRecord
from milepost_ml.movement import Tensors
from milepost_ml.signals import (
    Signals,
    compute_concentration,
    compute_run_signals,
    compute_turn,
    walk_intervals,
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


def find_signals(*snapshots: Tensors) -> Signals:
    """Of the last interval."""
    return compute_run_signals(snapshots)[-1]


def test_signals_of_a_step_computed_by_hand() -> None:
    signals = find_signals(EARLIER, BEFORE, AFTER)
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


def test_an_interval_that_stands_still_has_no_shape() -> None:
    signals = find_signals(EARLIER, BEFORE, BEFORE)
    assert signals[1:] == (0.0,) * 6
    assert signals.distances.absolute == 0


def test_turn_is_one_straight_on_and_minus_one_straight_back() -> None:
    start = {"w": np.array([1.0, 2.0])}
    middle = {"w": np.array([2.0, 4.0])}
    on, back = {"w": np.array([4.0, 8.0])}, {"w": np.array([1.5, 3.0])}
    assert find_signals(start, middle, on).turn == pytest.approx(1.0)
    assert find_signals(start, middle, back).turn == pytest.approx(-1.0)
    assert find_signals(middle, on).turn == 0.0


@given(st.integers(1, 40), st.integers(0, 2**32), st.floats(-9, 9))
def test_turn_is_the_cosine_between_two_movements(size: int, seed: int, decades: float) -> None:
    chance = np.random.default_rng(seed)
    last, this = chance.normal(size=size), chance.normal(size=size) * 10.0**decades
    lengths = [float(np.linalg.norm(each)) for each in (last, this, last + this)]
    # Where one movement is far shorter, the other's rounding shows.
    ratio = max(lengths[0] / lengths[1], lengths[1] / lengths[0])
    expected = float(last @ this) / lengths[0] / lengths[1]
    assert compute_turn(*lengths) == pytest.approx(expected, abs=1e-14 * ratio + 1e-14)


def test_concentration_runs_from_one_to_the_root_of_the_number() -> None:
    assert compute_concentration(np.full(9, 0.3)) == pytest.approx(1.0)
    assert compute_concentration(np.array([0.0, 7.0, 0.0, 0.0])) == pytest.approx(2.0)
    assert compute_concentration(np.zeros(4)) == 0.0


def test_a_convolution_has_no_input_columns() -> None:
    before = {"conv": np.zeros((2, 1, 3, 3)), "out": np.zeros((2, 2))}
    after = {"conv": np.ones((2, 1, 3, 3)), "out": np.eye(2)}
    signals = find_signals(before, after)
    assert signals.inputs == 0.0
    assert signals.first_share == pytest.approx(18 / 20)
    assert signals.outputs == pytest.approx(1.0)


def test_blocks_of_any_size_give_the_same_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(1)
    shapes = {"a": (7, 11), "b": (7,), "c": (3, 7)}
    shots = [{name: chance.normal(size=shape) for name, shape in shapes.items()} for _ in range(3)]
    whole = find_signals(*shots)
    for size in (1, 5, 16):
        monkeypatch.setattr(module, "BLOCK_VALUES", size)
        assert find_signals(*shots)[1:] == pytest.approx(whole[1:])


def test_a_run_has_a_signal_for_every_interval() -> None:
    signals = compute_run_signals(iter([EARLIER, BEFORE, AFTER]))
    first = find_signals(EARLIER, BEFORE)
    assert signals == [first, find_signals(EARLIER, BEFORE, AFTER)]
    changes = [each.change for each in walk_intervals([EARLIER, BEFORE, AFTER])]
    assert changes == [compute_change(EARLIER, BEFORE), compute_change(BEFORE, AFTER)]


def test_snapshots_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRecord) as caught:
        find_signals(BEFORE, {"in.weight": BEFORE["in.weight"]})
    assert caught.value.slug == "wrong-tensors"
