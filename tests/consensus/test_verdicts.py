"""Coverage: the probabilities that a verdict states are the exact hypergeometric ones."""

from __future__ import annotations

from itertools import combinations

import pytest

from milepost_consensus.verdicts import (
    IntervalResult,
    Verdict,
    compute_coverage,
    compute_miss_ppm,
)


def make_verdict(rule: str, intervals: int, *, flagged: set[int], drawn: set[int]) -> Verdict:
    return Verdict(
        submission=bytes(32),
        sender=bytes(32),
        model_digest=bytes(32),
        outcome="VALID",
        reason="",
        assurance="SAMPLED",
        profile="class",
        rule=rule,
        intervals=intervals,
        retraced=tuple(
            IntervalResult(k, int(k in flagged), 1, 1, 0) for k in sorted(flagged | drawn)
        ),
        refuted=(),
        overruled=(),
        seed=bytes(32),
        anchored_height=1,
        height=9,
    )


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


def test_coverage_of_the_papers_rule_counts_what_was_drawn_at_random() -> None:
    coverage = compute_coverage(make_verdict("majority", 20, flagged={13}, drawn={2, 5, 10, 17}))
    assert (coverage.intervals, coverage.retraced) == (20, 5)
    # 4 of the 19 that look ordinary were drawn.
    assert dict(coverage.misses)[1] == compute_miss_ppm(19, 4, 1) == 789_474
    assert [miss.altered for miss in coverage.misses] == [1, 2, 5]


def test_foreseeable_intervals_count_nothing_against_an_adversary() -> None:
    coverage = compute_coverage(make_verdict("witness", 20, flagged={13}, drawn={0, 19}))
    assert coverage.retraced == 3
    assert {miss.ppm for miss in coverage.misses} == {1_000_000}


def test_full_coverage_misses_nothing_and_short_runs_state_fewer_cases() -> None:
    coverage = compute_coverage(make_verdict("witness", 3, flagged=set(), drawn={0, 1, 2}))
    assert coverage.misses == ((1, 0), (2, 0))
