"""Weight analysis as a rule: what stands out is flagged, what is ordinary mostly is not."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.flagging import LOG_BITS, MIN_INTERVALS, compute_flags, compute_log2

RATE = 5_000_000


def make_curve(
    intervals: int = 24, *, noise: float = 0.03, power: float = -0.4, seed: int = 0
) -> list[int]:
    """A clean run: movement decays like a power of the interval, with a little noise."""
    draw = random.Random(seed)
    return [
        round(1e12 * (k + 1) ** power * math.exp(draw.gauss(0, noise))) for k in range(intervals)
    ]


def flag(scores: Sequence[int], rates: Sequence[int] | None = None) -> tuple[int, ...]:
    return compute_flags(scores, rates or [RATE] * len(scores), "robust")


@given(st.integers(1, 2**63 - 1))
def test_log2_is_exact_to_its_last_bits(value: int) -> None:
    # float64 log2 is itself good to about 2^-47 here.
    assert -2 < compute_log2(value) - math.log2(value) * (1 << LOG_BITS) < 0.01


@given(st.integers(1, 2**62), st.integers(0, 40))
def test_log2_of_a_doubled_value_grows_by_exactly_one(value: int, doublings: int) -> None:
    assert compute_log2(value << doublings) == compute_log2(value) + (doublings << LOG_BITS)


def test_log2_is_monotonic_over_small_values() -> None:
    logs = [compute_log2(value) for value in range(1, 5_000)]
    assert logs == sorted(logs)
    assert compute_log2(1) == 0


def test_clean_runs_are_hardly_ever_flagged() -> None:
    runs = [flag(make_curve(seed=seed, noise=0.1)) for seed in range(200)]
    share = sum(len(flags) for flags in runs) / (200 * 24)
    assert share < 0.03
    assert sum(not flags for flags in runs) > 100


@pytest.mark.parametrize("power", [-1.2, -0.4, 0.0, 0.3])
def test_the_trend_itself_is_not_suspicious(power: float) -> None:
    assert flag(make_curve(power=power, noise=0.0)) == ()


@pytest.mark.parametrize("place", [1, 3, 5, 12, 22, 23])
def test_a_jump_is_flagged_together_with_its_predecessor(place: int) -> None:
    scores = make_curve()
    scores[place] *= 3
    expected = set() if place < 3 else {place - 1, place}
    assert expected <= set(flag(scores))


@pytest.mark.parametrize("place", [3, 5, 12, 23])
def test_an_interval_that_hardly_moves_is_flagged_without_its_predecessor(place: int) -> None:
    scores = make_curve(noise=0.0)
    scores[place] //= 25
    assert flag(scores) == (place,)


def test_a_block_of_poison_and_the_recovery_after_it_are_flagged() -> None:
    # The released models of the paper: 0-15 inside the poison, 432-874 when leaving it, else ~200.
    scores = [340, 310, 290, 280, 270, 260, 250, 245, 240, 230, 228, 15, 8, 5, 610, 220, 215, 210]
    assert set(flag([score * 10**9 for score in scores])) == {11, 12, 13, 14}


def test_a_declared_schedule_explains_movement() -> None:
    rates = [RATE if k < 20 else RATE // 50 for k in range(24)]
    scores = [score * rate // RATE for score, rate in zip(make_curve(), rates, strict=True)]
    assert flag(scores, rates) == flag(make_curve()) == ()
    assert flag(scores) == (20, 21, 22, 23)


def test_standing_still_at_a_rate_and_moving_without_one_are_flagged() -> None:
    scores, rates = make_curve(), [RATE] * 24
    scores[7] = 0
    rates[15] = 0
    assert {7, 15} <= set(flag(scores, rates))
    scores[15] = 0
    assert 15 not in flag(scores, rates)


def test_short_runs_only_undergo_the_zero_test() -> None:
    for intervals in range(1, MIN_INTERVALS):
        scores = make_curve(intervals)
        scores[-1] *= 1_000
        assert flag(scores) == ()
        assert flag([*scores[:-1], 0]) == (intervals - 1,)
    assert flag([*[10**12] * (MIN_INTERVALS - 1), 10**15]) == (MIN_INTERVALS - 2, MIN_INTERVALS - 1)


def test_runs_that_never_move_are_flagged_whole() -> None:
    assert flag([0] * 10) == tuple(range(10))
    assert flag([0] * 10, [0] * 10) == ()


SCORES = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=40)


@given(SCORES, st.integers(0, 20), st.integers(0, 20))
def test_flags_do_not_depend_on_the_unit(scores: list[int], up: int, rate_up: int) -> None:
    scaled = [score << up for score in scores]
    assert flag(scaled, [RATE << rate_up] * len(scores)) == flag(scores)
    assert compute_flags(scaled, [1] * len(scores), "upper") == compute_flags(
        scores, [1] * len(scores), "upper"
    )


@given(SCORES, st.data())
def test_flags_are_intervals_in_order(scores: list[int], data: st.DataObject) -> None:
    rates = data.draw(
        st.lists(st.integers(0, 2**63 - 1), min_size=len(scores), max_size=len(scores))
    )
    for rule in ("robust", "upper"):
        flags = compute_flags(scores, rates, rule)
        assert list(flags) == sorted(set(flags))
        assert all(0 <= interval < len(scores) for interval in flags)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_upper_is_the_papers_threshold(scores: list[int]) -> None:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    flags = compute_flags(scores, [1] * len(scores), "upper")
    for interval, score in enumerate(scores):
        if abs(score - mean - 2 * deviation) > 1e-6 * max(1.0, mean):
            assert (interval in flags) == (score > mean + 2 * deviation)


def test_upper_flags_exactly_the_first_interval_of_a_decaying_run() -> None:
    # What was measured for the paper's rule: the first interval moves most.
    scores = [round(1e9 / (k + 1)) for k in range(24)]
    assert compute_flags(scores, [RATE] * 24, "upper") == (0,)


def test_flags_do_not_depend_on_the_hash_seed() -> None:
    script = (
        "from tests.consensus.test_flagging import make_curve, flag;"
        "c = make_curve(); c[9] *= 4; c[17] //= 9; c[3] = 0; print(flag(c))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "42")
    }
    assert len(outputs) == 1
    assert "9" in outputs.pop()
