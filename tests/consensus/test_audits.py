"""The audit calculator's probabilities are the exact ones."""

from __future__ import annotations

from itertools import combinations

import pytest

from milepost_consensus.audits import compute_miss_ppm


@pytest.mark.parametrize(("intervals", "retraced", "altered"), [(8, 3, 1), (8, 3, 2), (9, 4, 5)])
def test_miss_probability_is_the_share_of_draws_that_avoid_what_was_altered(
    intervals: int, retraced: int, altered: int
) -> None:
    draws = list(combinations(range(intervals), retraced))
    missed = sum(not set(draw) & set(range(altered)) for draw in draws)
    exact = missed * 1_000_000 / len(draws)
    assert exact <= compute_miss_ppm(intervals, retraced, altered) < exact + 1


def test_miss_probability_at_its_ends() -> None:
    assert compute_miss_ppm(20, 20, 1) == 0
    assert compute_miss_ppm(20, 0, 5) == 1_000_000
    assert compute_miss_ppm(20, 16, 5) == 0
    assert compute_miss_ppm(20, 5, 1) == 750_000
    # Rounded up, so that a small chance is never printed as none.
    assert compute_miss_ppm(2_000, 1_990, 10) == 1
