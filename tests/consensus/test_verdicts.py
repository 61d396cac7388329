"""Coverage: what a verdict says that altered intervals could have hoped for."""

from __future__ import annotations

from milepost_consensus.audits import compute_miss_ppm
from milepost_consensus.verdicts import IntervalResult, Miss, compute_coverage


def make_results(*, flagged: set[int], drawn: set[int]) -> list[IntervalResult]:
    return [IntervalResult(k, int(k in flagged), 1, 1, 0) for k in sorted(flagged | drawn)]


def test_coverage_of_the_papers_rule_counts_what_was_drawn_at_random() -> None:
    results = make_results(flagged={13}, drawn={2, 5, 10, 17})
    coverage = compute_coverage(results, intervals=20, rule="majority")
    # 4 of the 19 that look ordinary were drawn.
    assert coverage[0] == Miss(1, compute_miss_ppm(19, 4, 1)) == Miss(1, 789_474)
    assert [miss.altered for miss in coverage] == [1, 2, 5]


def test_foreseeable_intervals_count_nothing_against_an_adversary() -> None:
    results = make_results(flagged={13}, drawn={0, 19})
    coverage = compute_coverage(results, intervals=20, rule="witness")
    assert {miss.ppm for miss in coverage} == {1_000_000}


def test_an_interval_that_nobody_answered_counts_for_nothing() -> None:
    results = [*make_results(flagged=set(), drawn={0, 19}), IntervalResult(7, 0, 1, 0, 0)]
    coverage = compute_coverage(results, intervals=20, rule="witness")
    assert {miss.ppm for miss in coverage} == {1_000_000}


def test_full_coverage_misses_nothing_and_short_runs_state_fewer_cases() -> None:
    results = make_results(flagged=set(), drawn={0, 1, 2})
    coverage = compute_coverage(results, intervals=3, rule="witness")
    assert coverage == (Miss(1, 0), Miss(2, 0))
