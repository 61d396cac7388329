"""The order of suspicion on made signals: what leads, what is put last, what has no score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from milepost_ml.distance import Distances
from milepost_ml.ranking import (
    BURN_IN,
    compute_deviations,
    compute_suspicion,
    put_recoveries_last,
    rank_intervals,
)
from milepost_ml.signals import Signals

COUNT = 20


def make_signals(**changes: dict[int, float]) -> list[Signals]:
    """A run whose movement decays with a ripple; `changes` multiply or set single values."""
    signals = []
    for k in range(COUNT):
        ripple = 1 + 0.05 * (-1) ** k
        l2 = ripple / (k + 1) * changes.get("l2", {}).get(k, 1.0)
        signals.append(
            Signals(
                distances=Distances(absolute=l2, l2=l2, percent=l2, cosine=l2),
                spread=1.5,
                first_share=0.8,
                last_share=0.1,
                outputs=1.1 * ripple * changes.get("outputs", {}).get(k, 1.0),
                inputs=1.4 * ripple * changes.get("inputs", {}).get(k, 1.0),
                turn=changes.get("turn", {}).get(k, 0.2),
            )
        )
    return signals


@pytest.mark.parametrize(
    "changes", [{"l2": {9: 3.0}}, {"l2": {9: 0.2}}, {"inputs": {9: 2.0}}, {"outputs": {9: 2.0}}]
)
def test_what_stands_out_leads(changes: dict[str, dict[int, float]]) -> None:
    assert rank_intervals(make_signals(**changes), [1.0] * COUNT)[0] == 9


def test_a_low_concentration_is_nothing() -> None:
    signals = make_signals(inputs={9: 0.3}, l2={14: 1.3})
    assert rank_intervals(signals, [1.0] * COUNT)[0] == 14


def test_movement_counts_by_the_declared_rate() -> None:
    rates = [1.0] * 10 + [0.1] * 10
    signals = make_signals(l2=dict.fromkeys(range(10, 20), 0.1) | {15: 0.3})
    assert rank_intervals(signals, rates)[0] == 15
    # In any unit.
    assert rank_intervals(signals, [rate * 1e9 for rate in rates])[0] == 15


def test_a_recovery_is_put_last() -> None:
    signals = make_signals(l2={8: 3.0, 9: 6.0}, turn={9: -0.5})
    order = rank_intervals(signals, [1.0] * COUNT)
    assert order[0] == 8
    assert order[-1] == 9
    straight = make_signals(l2={8: 3.0, 9: 6.0})
    assert rank_intervals(straight, [1.0] * COUNT)[:2] == (9, 8)


def test_a_slight_turn_is_a_recovery_only_after_something_suspicious() -> None:
    assert put_recoveries_last(np.array([0.0, 4.0, 7.0]), [0.0, 0.1, -0.1]).tolist() == [0, 4, -1]
    assert put_recoveries_last(np.array([0.0, 3.0, 7.0]), [0.0, 0.1, -0.1]).tolist() == [0, 3, 7]
    assert put_recoveries_last(np.array([0.0, 3.0, 7.0]), [0.0, 0.1, -0.4]).tolist() == [0, 3, -1]


def test_standing_still_or_moving_without_a_rate_leads() -> None:
    rates = [1.0] * COUNT
    rates[12] = 0.0
    signals = make_signals(l2={5: 0.0, 16: 9.0})
    assert rank_intervals(signals, rates)[:3] == (5, 12, 16)
    assert math.isinf(compute_suspicion(signals, rates)[5])


def test_the_burn_in_and_short_runs_have_no_score() -> None:
    scores = compute_suspicion(make_signals(l2={0: 50.0, 1: 50.0}), [1.0] * COUNT)
    assert scores[:BURN_IN].tolist() == [0.0] * BURN_IN
    short = compute_suspicion(make_signals(l2={5: 9.0})[:7], [1.0] * 7)
    assert short.tolist() == [0.0] * 7
    assert rank_intervals([], []) == ()


def test_deviations_are_those_from_a_power_law() -> None:
    values = [3.0 / (k + 1) for k in range(COUNT)]
    values[7] *= 2
    z = compute_deviations(values, np.ones(COUNT, dtype=bool))
    # A doubling is 1 in log2, and the others do not deviate: the least scale divides it.
    assert z[7] == pytest.approx(1 / (1.4826 * 0.05))
    assert np.delete(z, 7) == pytest.approx(0, abs=1e-9)
