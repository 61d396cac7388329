"""The audit calculator: exact, equal to published figures, and equal to what elections do."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest

from milepost_consensus.audits import (
    MILLION,
    Setting,
    compute_capture_ppm,
    compute_escape_ppm,
    compute_miss_ppm,
    compute_needed_audits,
    compute_needed_seats,
)
from milepost_consensus.election import elect
from milepost_consensus.params import Params
from tests.support.ledger import make_hash, make_record


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


@pytest.mark.parametrize(
    ("intervals", "altered", "ninety", "ninety_nine"),
    [(40, 4, 17, 27), (400, 40, 22, 42), (400, 100, 8, 16), (40, 1, 36, 40), (400, 1, 360, 396)],
)
def test_audits_needed_are_those_of_the_published_arithmetic(
    intervals: int, altered: int, ninety: int, ninety_nine: int
) -> None:
    assert compute_needed_audits(intervals, altered, detect_ppm=900_000) == ninety
    assert compute_needed_audits(intervals, altered, detect_ppm=990_000) == ninety_nine
    assert compute_needed_audits(intervals, altered, detect_ppm=MILLION) == intervals - altered + 1


def is_printed(ppm: int, percent: float, digits: int = 3) -> bool:
    """Whether a percentage with so many digits is this probability."""
    return f"{ppm / 10_000:.{digits}g}" == f"{percent:.{digits}g}"


@pytest.mark.parametrize(
    ("verifiers", "seats", "liars", "majority", "everyone"),
    [
        (10, 3, 2, 6.67, 0),
        (10, 5, 5, 50, 0.397),
        (20, 5, 6, 13.1, 0.0387),
        (20, 5, 10, 50, 1.63),
        (50, 7, 25, 50, 0.481),
        (100, 5, 40, 31.4, 0.874),
        (100, 3, 50, 50, 12.1),
    ],
)
def test_captured_sub_quorums_are_those_of_the_published_table(
    verifiers: int, seats: int, liars: int, majority: float, everyone: float
) -> None:
    half = compute_capture_ppm(verifiers, liars, seats, needed=seats // 2 + 1)
    assert is_printed(half, majority)
    assert is_printed(compute_capture_ppm(verifiers, liars, seats), everyone)


@pytest.mark.parametrize(
    ("verifiers", "sizes"),
    [(10, (5, 6, 3, 4)), (20, (6, 8, 4, 5)), (50, (7, 9, 4, 6)), (100, (7, 10, 5, 6))],
)
def test_seats_needed_are_those_of_the_published_table(
    verifiers: int, sizes: tuple[int, ...]
) -> None:
    found = tuple(
        compute_needed_seats(verifiers, liars, risk_ppm=risk)
        for liars in (verifiers // 2, verifiers // 3)
        for risk in (10_000, 1_000)
    )
    assert found == sizes


def escape(liars: int, ordinary: int, auditors: int) -> int:
    """50 verifiers, 22 intervals of which 20 are neither first nor last."""
    return compute_escape_ppm(Setting(22, 50, liars, auditors=auditors), ordinary=ordinary)


@pytest.mark.parametrize(
    ("liars", "altered", "one", "two"),
    [(10, 1, 20.0, 3.67), (15, 1, 30.0, 8.57), (25, 1, 50.0, 24.5), (15, 2, 8.57, 0.593)],
)
def test_audited_runs_escape_as_in_the_published_table(
    liars: int, altered: int, one: float, two: float
) -> None:
    assert is_printed(escape(liars, altered, 1), one)
    assert is_printed(escape(liars, altered, 2), two, 1 if altered > 1 else 3)


def test_audits_by_sub_quorums_escape_as_in_the_published_table() -> None:
    for liars, altered, percent in ((10, 1, 80.0), (15, 2, 63.2), (25, 1, 80.5), (25, 4, 38.7)):
        # Four of twenty ordinary intervals are drawn, and five verifiers look at each.
        setting = Setting(22, 50, liars, auditors=5, audit_permille=250)
        assert setting.drawn == 4
        assert is_printed(compute_escape_ppm(setting, ordinary=altered), percent)


def test_an_altered_flagged_interval_escapes_only_a_captured_sub_quorum() -> None:
    setting = Setting(20, 20, 6, flagged=2)
    captured = compute_capture_ppm(20, 6, 5)
    assert compute_escape_ppm(setting, flagged=1) == captured == 387
    assert compute_escape_ppm(setting, flagged=2) == 0  # there are only six liars
    # Sub-quorums that repeat: both may be the same five.
    assert compute_escape_ppm(setting._replace(flagged=8), flagged=2) == captured


def test_liars_with_the_panel_pass_everything_and_honest_verifiers_nothing() -> None:
    assert compute_escape_ppm(Setting(20, 7, 4), ordinary=1) == MILLION
    assert compute_escape_ppm(Setting(20, 7, 3), ordinary=1) < MILLION
    assert compute_escape_ppm(Setting(20, 7, 0), ordinary=1) == 0
    assert compute_escape_ppm(Setting(20, 7, 0, auditors=0), ordinary=1) == MILLION


# What elections really do ------------------------------------------------------------------------

DRAWS = 1_000


def is_likely(hits: int, ppm: int) -> bool:
    """Whether so many hits in DRAWS lie in the exact interval that holds all but 10^-6 of them."""
    share = ppm / MILLION
    terms = [comb(DRAWS, k) * share**k * (1 - share) ** (DRAWS - k) for k in range(DRAWS + 1)]
    return min(sum(terms[: hits + 1]), sum(terms[hits:])) > 0.5e-6


def simulate(setting: Setting, *, ordinary: int, flagged: int) -> int:
    """In how many real elections nobody honest looks at any altered interval."""
    verifiers = [make_hash("verifier", i) for i in range(setting.verifiers)]
    liars = set(verifiers[: setting.liars])
    flags = range(1, 1 + setting.flagged)
    altered = {*flags[:flagged], *range(1 + setting.flagged, 1 + setting.flagged + ordinary)}
    submit = make_record(intervals=setting.intervals, steps_per_interval=1).submit
    params = Params(
        quorum_size=setting.quorum_size,
        sub_quorum_size=setting.sub_quorum_size,
        auditors=setting.auditors,
        audit_permille=setting.audit_permille,
    )
    escaped = 0
    for number in range(DRAWS):
        seed = make_hash("draw", number)
        dealt = elect(seed=seed, submit=submit, eligible=verifiers, flagged=flags, params=params)
        escaped += all(duty.verifier in liars for duty in dealt.duties if duty.interval in altered)
    return escaped


@pytest.mark.parametrize(
    ("setting", "ordinary", "flagged"),
    [
        (Setting(10, 12, 4), 1, 0),
        (Setting(10, 12, 5), 2, 0),
        (Setting(12, 9, 4, audit_permille=500), 1, 0),
        (Setting(12, 9, 4, audit_permille=500), 3, 0),
        (Setting(8, 20, 9, auditors=2), 1, 0),
        (Setting(8, 20, 10, flagged=2, sub_quorum_size=3), 0, 1),
        (Setting(8, 20, 10, flagged=2, sub_quorum_size=2), 1, 1),
        (Setting(6, 14, 7, flagged=1, quorum_size=6, sub_quorum_size=2), 1, 1),
        (Setting(9, 7, 3), 1, 0),
    ],
)
def test_elections_let_escape_what_the_calculator_says(
    setting: Setting, ordinary: int, flagged: int
) -> None:
    promised = compute_escape_ppm(setting, ordinary=ordinary, flagged=flagged)
    assert 0 < promised < MILLION
    hits = simulate(setting, ordinary=ordinary, flagged=flagged)
    assert is_likely(hits, promised), f"{hits} of {DRAWS}, promised {promised} ppm"


def test_a_wrong_promise_would_be_noticed() -> None:
    setting = Setting(10, 12, 4)
    hits = simulate(setting, ordinary=1, flagged=0)
    assert not is_likely(hits, compute_escape_ppm(Setting(10, 12, 6), ordinary=1))
