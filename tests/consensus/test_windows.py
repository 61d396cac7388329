"""Windows: how long there is for retraining what was declared to be slow."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.duties import Terms
from milepost_consensus.members import get_verifiers
from milepost_consensus.params import MAX_STEP_US, Params
from milepost_consensus.submissions import Accusation, Duty
from milepost_consensus.windows import (
    MAX_STRETCH,
    compute_attest_window,
    compute_hold_window,
    compute_panel_window,
)
from tests.support.ledger import make_genesis, make_hash, make_record

A, B = (make_hash("verifier", i) for i in range(2))
SECOND_US = 1_000_000


def make_terms(**params: object) -> Terms:
    genesis = make_genesis(6, params=Params(**params))  # type: ignore[arg-type]
    members = {member.id: member for member in genesis.members}
    return Terms(genesis.params, members, get_verifiers(genesis.members), 5)


def make_duty(interval: int, verifier: bytes) -> Duty:
    return Duty(interval, verifier, 0, interval * 4, "")


def accuse(interval: int, step: int, outcome: str = "") -> Accusation:
    return Accusation(interval, step, b"", b"", (A,), (), outcome)


def test_the_hold_window_grows_with_the_records_bytes() -> None:
    for size_bytes, pace_ms, stretch in (
        (999_999, 200, 0),
        (1_000_000, 200, 1),
        (10**9, 100, 2_000),
        (10_000, 0, 2),
        (2**40, 1, MAX_STRETCH),
    ):
        submit = replace(make_record(intervals=6).submit, size_bytes=size_bytes)
        params = Params(hold_window=7, min_block_ms=pace_ms)
        assert compute_hold_window(submit, params) == 7 + stretch


def test_the_attest_window_grows_with_the_busiest_verifiers_declared_work() -> None:
    terms = make_terms(attest_window=7, min_block_ms=50)
    duties = (make_duty(0, A), make_duty(1, A), make_duty(2, B))
    for step_us, stretch in ((0, 0), (1, 1), (50_000, 24), (50_001, 25)):
        submit = make_record(intervals=6, step_us=step_us).submit
        assert compute_attest_window(duties, submit, terms) == 7 + stretch
    slow = make_record(intervals=6, steps_per_interval=1_000, step_us=MAX_STEP_US).submit
    assert compute_attest_window(duties, slow, terms) == 7 + MAX_STRETCH
    assert compute_attest_window((), slow, terms) == 7


def test_a_network_without_a_least_pause_still_has_a_window() -> None:
    submit = make_record(intervals=6, step_us=1_000).submit
    terms = make_terms(attest_window=7, min_block_ms=0)
    assert compute_attest_window((make_duty(0, A),), submit, terms) == 7 + 12


def test_the_panel_window_grows_with_the_steps_in_dispute() -> None:
    terms = make_terms(panel_window=5, min_block_ms=1_000)
    submit = make_record(intervals=6, step_us=SECOND_US).submit
    assert compute_panel_window((), submit, terms) == 5
    assert compute_panel_window((accuse(0, 2),), submit, terms) == 5 + 3
    two = (accuse(0, 2), accuse(3, 12))
    assert compute_panel_window(two, submit, terms) == 5 + 6
    assert compute_panel_window((*two, accuse(1, 4, "refuted")), submit, terms) == 5 + 6
    slow = make_record(intervals=6, step_us=MAX_STEP_US).submit
    fast = make_terms(panel_window=5, min_block_ms=1)
    assert compute_panel_window(two, slow, fast) == 5 + MAX_STRETCH


@pytest.mark.parametrize(("step", "disputed"), [(8, 3), (11, 1)])
def test_a_panel_recomputes_one_stride(step: int, disputed: int) -> None:
    terms = make_terms(panel_window=5, min_block_ms=1_000)
    submit = make_record(
        intervals=6, steps_per_interval=4, steps_per_digest=3, step_us=SECOND_US
    ).submit
    assert compute_panel_window((accuse(2, step),), submit, terms) == 5 + 3 * disputed


def test_a_panel_recomputes_an_interval_that_is_compared_within_a_tolerance() -> None:
    terms = make_terms(panel_window=5, min_block_ms=1_000)
    submit = make_record(
        intervals=6, profile="tolerance", tolerance_ppb=1_000, step_us=SECOND_US
    ).submit
    assert compute_panel_window((accuse(2, 11),), submit, terms) == 5 + 3 * 4
