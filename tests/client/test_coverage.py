from __future__ import annotations

from math import ceil

import pytest
from msgspec.structs import replace

from milepost.coverage import (
    Coverage,
    describe_assurance,
    describe_drift,
    describe_gaps,
    get_coverage,
    percent,
)
from milepost_consensus.audits import compute_miss_ppm
from milepost_consensus.verdicts import IntervalResult, Miss, Verdict


def make_coverage(*, intervals: int = 20, retraced: int = 5, smallest: int = 1) -> Coverage:
    return Coverage(
        intervals=intervals,
        retraced=retraced,
        flagged=1,
        retrainings=retraced * smallest,
        smallest=smallest,
        quorum=7,
        misses=tuple(
            Miss(altered, compute_miss_ppm(intervals, retraced, altered))
            for altered in (1, 2, 5)
            if altered <= intervals
        ),
    )


def test_full_coverage_misses_nothing() -> None:
    coverage = make_coverage(retraced=20)
    assert coverage.detections == {1: 1_000_000, 2: 1_000_000, 5: 1_000_000}
    assert coverage.percent == 100.0


@pytest.mark.parametrize(
    ("smallest", "liars", "share"), [(1, 1, 1 / 7), (1, 2, 2 / 7), (2, 2, 1 / 21), (3, 2, 0.0)]
)
def test_capture_is_hypergeometric(smallest: int, liars: int, share: float) -> None:
    assert make_coverage(smallest=smallest).capture_ppm(liars) == ceil(share * 1e6)


@pytest.mark.parametrize(
    ("ppm", "text"),
    [
        (0, "0 %"),
        (1, "0.01 %"),
        (9_999, "0.99 %"),
        (10_000, "1 %"),
        (166_666, "16 %"),
        (989_999, "98 %"),
        (995_678, "99.56 %"),
        (999_999, "99.99 %"),
        (1_000_000, "100 %"),
    ],
)
def test_percentages_are_rounded_down_and_never_to_certainty(ppm: int, text: str) -> None:
    assert percent(ppm) == text


@pytest.mark.parametrize(
    ("ppm", "text"),
    [
        (0, "0 %"),
        (1, "0.01 %"),
        (9_999, "1.00 %"),
        (500_000, "50 %"),
        (500_001, "51 %"),
        (989_999, "99 %"),
        (999_999, "99.99 %"),
        (1_000_000, "100 %"),
    ],
)
def test_risks_are_rounded_up_and_never_to_certainty(ppm: int, text: str) -> None:
    assert percent(ppm, up=True) == text


@pytest.mark.parametrize("assurance", ["ANCHORED", "FULL", "FULL+REGISTERED"])
def test_an_assurance_that_needs_no_number_stands_for_itself(assurance: str) -> None:
    assert describe_assurance(make_verdict(assurance=assurance)) == assurance


def test_a_sample_says_how_large_it_is_and_what_it_would_have_missed() -> None:
    retraced = tuple(IntervalResult(k, 0, 1, 1, 0) for k in range(12))
    verdict = make_verdict(
        intervals=24,
        retraced=(*retraced, IntervalResult(20, 0, 1, 0, 0)),
        coverage=(Miss(1, 500_000), Miss(2, 240_000)),
    )
    assert describe_assurance(verdict) == (
        "SAMPLED(12 of 24, one altered interval is missed with 50 %)"
    )


def test_a_tolerance_is_a_suffix_of_every_assurance() -> None:
    full = make_verdict(assurance="FULL", profile="tolerance", tolerance_ppb=100_000)
    assert describe_assurance(full) == "FULL T(1e-4)"
    sampled = make_verdict(
        profile="tolerance", tolerance_ppb=25_000, intervals=4, coverage=(Miss(1, 500_000),)
    )
    assert describe_assurance(sampled) == (
        "SAMPLED(2 of 4, one altered interval is missed with 50 %) T(2.5e-5)"
    )


def test_the_drift_budget_is_the_sum_over_all_intervals() -> None:
    verdict = make_verdict(intervals=24, profile="tolerance", tolerance_ppb=100_000)
    coverage = get_coverage(verdict, quorum=7)
    assert describe_drift(coverage) == "24 x 1e-4 = 0.24 % of an interval's movement"
    view = coverage.to_view()
    assert (view["tolerance_ppb"], view["drift_ppb"]) == (100_000, 2_400_000)
    assert any(describe_drift(coverage) in gap for gap in describe_gaps(coverage))
    exact = get_coverage(make_verdict(), quorum=7)
    assert describe_drift(exact) == ""
    assert not any("tolerance" in gap for gap in describe_gaps(exact))


def test_what_data_teaches_is_never_shown() -> None:
    assert len(describe_gaps(make_coverage(retraced=20, smallest=5))) == 1
    assert "harmless" in describe_gaps(make_coverage(retraced=20, smallest=5))[0]


def test_nothing_retraced_is_said_plainly() -> None:
    text = describe_gaps(make_coverage(retraced=0, smallest=0))[0]
    assert "20 of 20 intervals were not retraced" in text
    assert "1 with 0 %" in text


def test_more_altered_intervals_than_there_are_is_no_case() -> None:
    assert "5 with" not in describe_gaps(make_coverage(intervals=3, retraced=1))[0]


def make_verdict(**changes: object) -> Verdict:
    verdict = Verdict(
        submission=bytes(32),
        sender=bytes(32),
        model_digest=bytes(32),
        outcome="VALID",
        reason="r",
        assurance="SAMPLED",
        profile="class",
        rule="witness",
        intervals=4,
        retraced=(
            IntervalResult(0, 1, 5, 4, 1),
            IntervalResult(1, 0, 1, 0, 0),
            IntervalResult(3, 0, 2, 2, 0),
        ),
        refuted=(),
        overruled=(),
        seed=bytes(32),
        anchored_height=1,
        height=2,
        registration=b"",
        parent=b"",
        registrations=0,
        eligible=7,
        verifiers=7,
        coverage=(Miss(1, 1_000_000), Miss(2, 1_000_000)),
    )
    return replace(verdict, **changes)


def test_a_duty_that_nobody_answered_covers_nothing() -> None:
    verdict = make_verdict()
    coverage = get_coverage(verdict, quorum=7)
    assert (coverage.retraced, coverage.flagged, coverage.retrainings) == (2, 1, 8)
    assert coverage.smallest == 2
    # The ends are retraced in any case and interval 0 was flagged: nothing else was looked at.
    assert coverage.detections == {1: 0, 2: 0}
