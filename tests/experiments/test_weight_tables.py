"""Detectors and tables on made signals whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from milepost_experiments.detectors import (
    compute_features,
    find_above_mean,
    find_deviating,
    find_flags,
    find_flags_unless_reversed,
    learn,
    rank_by_suspicion,
    rank_by_z,
)
from milepost_experiments.experiment import Row
from milepost_experiments.scores import Counts, compute_scores, compute_share, count
from milepost_experiments.signal_rows import SignalRun, compute_reversed_ppm
from milepost_experiments.signal_tables import (
    compute_audit_hit,
    compute_random_hit,
    make_blind_table,
    make_budget_table,
    make_learned_table,
    make_threshold_table,
)

from milepost_ml.distance import Distances
from milepost_ml.signals import Signals

COUNT = 24


def make_run(poisoned: int, *, depth: int = 1, seed: int = 0, share: float = 0.1) -> SignalRun:
    """Decaying movement with noise; poison moves three times as far, and is undone after it."""
    chance = np.random.default_rng([seed, poisoned, depth])
    signals = []
    for k in range(COUNT):
        move = (1 + 0.05 * chance.normal()) / (k + 1)
        move *= 3 if k == poisoned else 2 if k == poisoned + 1 else 1
        signals.append(
            Signals(
                Distances(move, move, 100 * move, move * move),
                spread=1.5, first_share=0.8, last_share=0.1,
                outputs=1.1 + 0.01 * chance.normal(), inputs=1.4 + 0.01 * chance.normal(),
                turn=-0.6 if k == poisoned + 1 else 0.2,
            )
        )  # fmt: skip
    about: Row = {
        "run": f"{poisoned}-{seed}", "share": share, "depth": depth, "scenario": "one",
        "schedule": "constant", "data": "mnist", "clean_accuracy": 0.9, "backdoor_success": 0.5,
        "backdoor_at_once": 0.8,
    }  # fmt: skip
    return SignalRun(
        about=about,
        signals=tuple(signals),
        rate_sums=(10**9,) * COUNT,
        change_scores=tuple(round(each.distances.absolute * 2**24) for each in signals),
        reversed_ppm=tuple(700_000 if k == poisoned + 1 else 300_000 for k in range(COUNT)),
        poisoned=frozenset({poisoned}),
    )


RUNS = [make_run(3 + k, depth=1 + 2 * (k % 2), seed=k) for k in range(18)]


def test_thresholds_find_what_they_can() -> None:
    run = make_run(12)
    assert find_above_mean(run, "absolute") == {0}
    assert find_deviating(run, "absolute") == {12}
    assert find_flags(run) >= {11, 12, 13}
    assert 13 not in find_flags_unless_reversed(run, 600_000)
    assert find_flags_unless_reversed(run, 700_000) == find_flags(run)
    assert rank_by_z(run, ("absolute", "l2"))[0] == 12
    assert rank_by_suspicion(run)[0] == 12
    assert rank_by_suspicion(run)[-1] == 13


def test_features_are_of_the_interval_and_its_neighbours() -> None:
    features = compute_features(make_run(12))
    assert features.shape[0] == COUNT
    width = features.shape[1] // 5
    middle = features[:, 2 * width : 3 * width]
    assert (features[:-1, 3 * width : 4 * width] == middle[1:]).all()
    assert (features[2:, :width] == middle[:-2]).all()
    assert (features[0, :width] == 0).all()


def test_a_learned_detector_finds_in_other_runs_what_it_saw_in_some() -> None:
    learned = learn(RUNS, trees=20)
    again = learn(RUNS, trees=20)
    for position in (4, 9, 17):
        run = make_run(position, depth=2, seed=99)
        assert learned.find(run) == {position}
        assert learned.rank(run)[0] == position
        assert (learned.compute_chances(run) == again.compute_chances(run)).all()
        assert learned.compute_chances(run)[:2].tolist() == [0.0, 0.0]
    assert 0.2 <= learned.threshold <= 0.8
    assert learn([run for run in RUNS if run.about["depth"] == 1], trees=5).threshold == 0.5


def test_counts_and_scores_by_hand() -> None:
    assert count(frozenset({1, 2, 3}), frozenset({2, 5})) == Counts(1, 2, 1)
    row = compute_scores([Counts(1, 2, 1), Counts(3, 0, 1)])
    assert (row["models"], row["poisoned"], row["hits"], row["false"]) == (2, 6, 4, 2)
    assert row["precision"] == pytest.approx(4 / 6)
    assert row["recall"] == pytest.approx(4 / 6)
    assert row["f1"] == pytest.approx(4 / 6)
    # A resample is one of the runs twice, or both.
    assert row["precision_low"] == pytest.approx(1 / 3)
    assert row["precision_high"] == pytest.approx(1.0)
    nothing = compute_scores([Counts(0, 0, 2)])
    assert (nothing["precision"], nothing["recall"], nothing["f1"]) == (0, 0, 0)


def test_shares_have_exact_intervals() -> None:
    row = compute_share(6, 6)
    assert row["caught"] == 1
    assert row["low"] == pytest.approx(0.5407, abs=1e-4)


def test_weights_that_turned_back_are_counted() -> None:
    values = ([0, 0, 0, 0], [1, 1, -1, 0], [2, 0, 0, 1])
    shots = [{"w": np.array(each, dtype=np.float32)} for each in values]
    assert compute_reversed_ppm(*shots) == 500_000


def test_chances_of_audits() -> None:
    assert compute_random_hit(make_run(12), 6) == pytest.approx(6 / 24)
    assert compute_audit_hit(make_run(12), 11) == pytest.approx(11 / 22, abs=1e-5)
    assert compute_audit_hit(make_run(23), 1) == 1.0


def test_tables_tell_what_was_found() -> None:
    learned = learn(RUNS, trees=20)
    table = make_threshold_table(RUNS, learned)
    found = {(row["method"], row["threshold"], row["runs"]): row for row in table.rows}
    assert found["absolute", "ours", "all"]["f1"] == pytest.approx(1.0)
    assert float(found["absolute", "paper", "all"]["recall"]) < 0.1
    assert found["change score", "ledger", "10%"]["recall"] == 1.0
    both = make_learned_table({"tune": RUNS, "test": RUNS}, {"tune": learned, "test": learned})
    assert [row["judged_on"] for row in both.rows] == ["tune", "test", "both"]
    assert both.rows[2]["models"] == 2 * len(RUNS)
    budgets = make_budget_table(RUNS, learned)
    caught = {(row["ranker"], row["runs"], row["budget"]): row["caught"] for row in budgets.rows}
    assert caught["ranking", "all", 1] == 1.0
    assert caught["random (exact)", "all", 3] == pytest.approx(3 / 24)
    blind = make_blind_table({"matched": RUNS}, learned).rows[0]
    assert blind["flagged"] == 1.0
    assert blind["ranked_1"] == 1.0
    assert blind["all"] == 1.0
