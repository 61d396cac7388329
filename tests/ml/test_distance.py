"""The four metrics against naive formulas, and the replicated score against exact fractions."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_ml.arithmetic.cpu.pair_sums import BLOCK_VALUES
from milepost_ml.distance import (
    MAX_SCORE,
    compute_change,
    compute_change_score,
    compute_distance_ppb,
    compute_distances,
)
from milepost_ml.errors import InvalidRecord
from milepost_ml.movement import Tensors

Pair = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]


@st.composite
def pairs(draw: st.DrawFn, *, low: float = -8.0, high: float = 8.0) -> Pair:
    """Two snapshots with the same one to three tensors of float16, float32 or float64."""
    before: dict[str, NDArray[Any]] = {}
    after: dict[str, NDArray[Any]] = {}
    for name in draw(st.sets(st.sampled_from(["a", "b.weight", "c.bias"]), min_size=1)):
        dtype = np.dtype(draw(st.sampled_from(["<f2", "<f4", "<f8"])))
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
        width = dtype.itemsize * 8
        values = st.floats(low, high, width=width)  # type: ignore[arg-type]
        before[name] = draw(hnp.arrays(dtype, shape, elements=values))
        after[name] = draw(hnp.arrays(dtype, shape, elements=values))
    return before, after


def _flat(tensors: Tensors) -> list[float]:
    return [float(value) for name in sorted(tensors) for value in tensors[name].reshape(-1)]


def _exact_score(before: Tensors, after: Tensors) -> int:
    # Python rounds fractions half to even as well, with no floating point anywhere.
    scale = 2**24
    return sum(
        abs(round(Fraction(b) * scale) - round(Fraction(a) * scale))
        for a, b in zip(_flat(before), _flat(after), strict=True)
    )


@settings(deadline=None)
@given(pairs())
def test_metrics_are_equations_1_to_4(pair: Pair) -> None:
    before, after = pair
    a, b = _flat(before), _flat(after)
    absolute = math.fsum(abs(y - x) for x, y in zip(a, b, strict=True))
    moved = math.sqrt(math.fsum((y - x) ** 2 for x, y in zip(a, b, strict=True)))
    found = compute_distances(before, after)
    assert found.absolute == pytest.approx(absolute, rel=1e-12)
    assert found.l2 == pytest.approx(moved, rel=1e-12)
    weight = math.fsum(map(abs, a))
    if weight:
        assert found.percent == pytest.approx(100 * absolute / weight, rel=1e-12)
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    if norms > 1e-200:  # smaller squares lose their digits
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        assert found.cosine == pytest.approx(1 - dot / norms, abs=1e-9)


@settings(deadline=None)
@given(pairs())
def test_score_is_exact(pair: Pair) -> None:
    assert compute_change_score(*pair) == _exact_score(*pair)


@settings(deadline=None)
@given(pairs(low=-(2.0**15), high=2.0**15))
def test_score_is_exact_for_large_weights(pair: Pair) -> None:
    assert compute_change_score(*pair) == _exact_score(*pair)


@settings(deadline=None)
@given(pairs())
def test_score_is_symmetric_and_zero_only_without_change(pair: Pair) -> None:
    before, after = pair
    assert compute_change_score(before, after) == compute_change_score(after, before)
    assert compute_change_score(before, before) == 0


def test_score_rounds_half_to_even() -> None:
    half = 2.0**-25
    before = {"w": np.zeros(4)}
    after = {"w": np.array([half, 3 * half, 5 * half, -half])}  # 0.5, 1.5, 2.5, -0.5 units
    assert compute_change_score(before, after) == 0 + 2 + 2 + 0


def test_score_is_exact_across_many_blocks_and_does_not_depend_on_the_cut() -> None:
    rng = np.random.default_rng(5)
    size = 2 * BLOCK_VALUES + 77
    before = rng.normal(size=size).astype(np.float32)
    after = (before + rng.normal(size=size) * 1e-3).astype(np.float32)
    whole = compute_change_score({"w": before}, {"w": after})
    cut = BLOCK_VALUES - 13
    parts = compute_change_score(
        {"x": before[:cut], "y": before[cut:]}, {"x": after[:cut], "y": after[cut:]}
    )
    units = [np.rint(side.astype(np.float64) * 2**24).astype(np.int64) for side in (before, after)]
    assert whole == parts == sum(abs(int(b) - int(a)) for a, b in zip(*units, strict=True))


def test_score_clips_huge_weights_and_saturates() -> None:
    huge = {"w": np.full(BLOCK_VALUES, 3e38, dtype=np.float32)}
    lowest = {"w": -huge["w"]}
    assert compute_change_score(huge, lowest) == MAX_SCORE
    one = {"w": np.array([1e300])}
    assert compute_change_score({"w": np.array([0.0])}, one) == 2**61
    assert compute_change_score(one, {"w": np.array([-1e308])}) == 2**62
    # A full block of the largest differences below saturation stays exact.
    count = 2**14
    before = {"w": np.zeros(count)}
    after = {"w": np.full(count, 2.0**24 - 1)}
    assert compute_change_score(before, after) == count * (2**24 - 1) * 2**24


def test_float32_accumulation_would_be_wrong_here() -> None:
    # 2^25 equal changes of 2^-10: a float32 accumulator stops at 2^24 of them, half of the truth.
    # A broadcast view stands for the 2^25 weights without their memory.
    count = 2**25
    before = {"w": np.broadcast_to(np.float32(0), (count,))}
    after = {"w": np.broadcast_to(np.float32(2.0**-10), (count,))}
    single = np.float32(2.0**-10) * np.float32(2**24)
    assert single + np.float32(2.0**-10) == single
    assert compute_distances(before, after).absolute == count * 2.0**-10 == 2 * float(single)
    assert compute_distances(before, after).l2 == math.sqrt(count) * 2.0**-10
    assert compute_change_score(before, after) == count * 2**14


def test_cosine_keeps_small_angles() -> None:
    # The true value is 1 - cos(t) = 2 sin(t/2)^2; the plain formula gives 0 below t = 1e-8.
    for angle in (1e-3, 1e-6, 1e-9, 1e-12):
        before = {"w": np.array([1.0, 0.0])}
        after = {"w": np.array([math.cos(angle), math.sin(angle)])}
        expected = 2 * math.sin(angle / 2) ** 2
        assert compute_distances(before, after).cosine == pytest.approx(expected, rel=1e-6)
    plain = 1 - 1 / math.sqrt(1 + 1e-18)
    assert plain == 0.0


def test_cosine_of_very_different_lengths() -> None:
    one, tiny = {"w": np.array([1.0, 0.0])}, {"w": np.array([-1e-57, 0.0])}
    assert compute_distances(one, tiny).cosine == compute_distances(tiny, one).cosine == 2.0
    assert compute_distances({"w": np.array([0.0, 1e-57])}, one).cosine == 1.0


def test_cosine_of_opposite_and_equal_vectors() -> None:
    weights = {"w": np.array([0.3, -0.7, 0.1], dtype=np.float32)}
    assert compute_distances(weights, {"w": -weights["w"]}).cosine == 2.0
    assert compute_distances(weights, weights).cosine == 0.0
    doubled = compute_distances(weights, {"w": 2 * weights["w"]})
    assert doubled.cosine == pytest.approx(0.0, abs=1e-15)
    assert doubled.percent == pytest.approx(100.0)


def test_zero_weights_have_defined_metrics() -> None:
    zero, one = {"w": np.zeros(3)}, {"w": np.ones(3)}
    assert compute_distances(zero, zero) == (0.0, 0.0, 0.0, 0.0)
    assert compute_distances(zero, one) == (3.0, math.sqrt(3), 100.0, 1.0)
    assert compute_distances(one, zero) == (3.0, math.sqrt(3), 100.0, 1.0)
    nothing: dict[str, NDArray[Any]] = {}
    assert compute_distances(nothing, nothing) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_refused_by_name(bad: float, side: int) -> None:
    pair = [{"a": np.zeros(3), "fc1.weight": np.ones(BLOCK_VALUES + 2)} for _ in range(2)]
    pair[side]["fc1.weight"][BLOCK_VALUES + 1] = bad
    for compute in (compute_distances, compute_change_score):
        with pytest.raises(InvalidRecord, match=r"fc1\.weight") as caught:
            compute(*pair)
        assert caught.value.slug == "not-finite"


@pytest.mark.parametrize(
    "other",
    [{"w": np.ones(3)}, {"w": np.ones((2, 2)), "v": np.ones(1)}, {"w": np.ones(4)}, {}],
)
def test_other_names_or_shapes_are_refused(other: dict[str, NDArray[Any]]) -> None:
    mine = {"w": np.ones((2, 2))}
    for compute in (compute_distances, compute_change_score):
        with pytest.raises(InvalidRecord) as caught:
            compute(mine, other)
        assert caught.value.slug == "wrong-tensors"


def test_inputs_are_left_alone() -> None:
    before, after = {"w": np.arange(4.0)}, {"w": np.arange(4.0) + 1}
    compute_distances(before, after)
    compute_change_score(before, after)
    compute_distance_ppb(before, after, after)
    assert before["w"].tolist() == [0, 1, 2, 3]
    assert after["w"].tolist() == [1, 2, 3, 4]


def test_distance_ppb_is_the_share_of_the_movement() -> None:
    start, end = {"w": np.zeros(4)}, {"w": np.full(4, 2.0)}
    assert compute_distance_ppb(end, end, start) == 0
    assert compute_distance_ppb(start, end, start) == 10**9
    nearly = {"w": np.full(4, 2.0 - 3e-9)}
    assert compute_distance_ppb(nearly, end, start) == 2, "rounded up"
    nearly = {"w": np.full(4, 2.0 - 2e-15)}
    assert compute_distance_ppb(nearly, end, start) == 1, "0 is for equality"
    assert compute_distance_ppb(start, start, start) == 0
    assert compute_distance_ppb(end, start, start) == MAX_DISTANCE_PPB
    assert compute_distance_ppb({"w": np.full(4, 1e300)}, end, start) == MAX_DISTANCE_PPB
    diverged = {"w": np.array([0.0, math.nan, 1.0, 2.0])}
    assert compute_distance_ppb(diverged, end, start) == MAX_DISTANCE_PPB


def test_a_movement_counts_at_least_as_a_share_of_the_norm() -> None:
    start, end = {"w": np.full(4, 2.0 - 2**-20)}, {"w": np.full(4, 2.0)}
    retrained = {"w": np.full(4, 2.0 - 2**-21)}
    assert compute_distance_ppb(retrained, end, start) == 500_000_000
    assert compute_distance_ppb(retrained, end, start, least=2.0**-20) == 250_000_000
    assert compute_distance_ppb(retrained, end, start, least=2.0**-22) == 500_000_000
    assert compute_distance_ppb(retrained, end, end, least=2.0**-20) == MAX_DISTANCE_PPB


@settings(max_examples=50, deadline=None)
@given(pairs(), st.floats(1e-3, 1e3))
def test_distance_ppb_matches_the_formula(pair: Pair, scale: float) -> None:
    start, end = pair
    retrained = {name: end[name].astype(np.float64) * (1 + 1e-4 * scale) for name in end}
    gap = math.dist(_flat(retrained), _flat(end))
    moved = math.dist(_flat(end), _flat(start))
    found = compute_distance_ppb(retrained, end, start)
    if min(gap, moved) > 1e-150:  # the squares of smaller ones vanish
        assert found == pytest.approx(min(1e9 * gap / moved, 1e15), rel=1e-6, abs=1)


def _exact_distances(before: Tensors, after: Tensors) -> tuple[float, float, float, float]:
    """Absolute, L2, percent and cosine to the last digit: fractions, and 120-digit roots."""
    with localcontext(prec=120):
        a, b = ([Decimal(value) for value in _flat(side)] for side in (before, after))
        moved = [y - x for x, y in zip(a, b, strict=True)]
        absolute, weight = sum(map(abs, moved)), sum(map(abs, a))
        squares = [sum(x * x for x in side) for side in (moved, a, b)]
        l2, norm_a, norm_b = (Decimal(each).sqrt() for each in squares)
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        cosine = 1 - dot / norm_a / norm_b
        return float(absolute), float(l2), float(100 * absolute / weight), float(cosine)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32), st.integers(-140, 120), st.integers(-40, 20))
def test_error_bounds_hold_at_any_magnitude(size: int, seed: int, scale: int, step: int) -> None:
    # Down to numbers below float32's normal range and up to near its end; steps below one ulp.
    chance = np.random.default_rng(seed)
    start = chance.normal(size=size) * 2.0**scale
    end = start + chance.normal(size=size) * 2.0 ** min(scale + step, 122)
    before, after = {"w": start.astype(np.float32)}, {"w": end.astype(np.float32)}
    if not (before["w"].any() and after["w"].any()):
        return
    found = compute_distances(before, after)
    absolute, l2, percent, cosine = _exact_distances(before, after)
    assert found.absolute == pytest.approx(absolute, rel=2e-12, abs=0)
    assert found.l2 == pytest.approx(l2, rel=2e-12, abs=0)
    assert found.percent == pytest.approx(percent, rel=2e-12, abs=0)
    norms = [float(np.linalg.norm(side["w"].astype(np.float64))) for side in (before, after)]
    bound = 1e-11 * min(1.0, l2 / norms[0] * (l2 / norms[1]))
    assert abs(found.cosine - cosine) <= bound + 1e-110  # the roots above have 120 digits
    if l2 == 0:
        assert found.cosine == 0.0


@settings(deadline=None)
@given(pairs())
def test_a_change_is_that_of_its_tensors(pair: Pair) -> None:
    before, after = pair
    change = compute_change(before, after)
    assert change.distances == compute_distances(before, after)
    assert change.score == compute_change_score(before, after)
    assert list(change.tensors) == sorted(before)
    for name, each in change.tensors.items():
        alone = {name: before[name]}, {name: after[name]}
        assert each.distances == compute_distances(*alone)
        assert each.score == compute_change_score(*alone)
        assert each.size == before[name].size
    assert sum(each.score for each in change.tensors.values()) == change.score
    moved = change.distances.absolute
    shares = sum(each.share for each in change.tensors.values())
    assert shares == pytest.approx(1.0 if moved else 0.0)
