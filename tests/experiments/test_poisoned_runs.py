"""Runs for the weight analysis: repeatable, poisoned where they say, and ranked accordingly."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from milepost_experiments.images import load_images
from milepost_experiments.poisoned_runs import (
    PEAK_RATES,
    Plan,
    Trained,
    compute_rate_sum,
    draw_batches,
    get_rate,
    train,
)
from milepost_experiments.recorded_runs import compare_record
from milepost_experiments.run_plans import CASES, DEPTHS, PLACES, SCENARIOS, draw_poisoned, draw_run

from milepost_ml.ranking import rank_intervals
from milepost_ml.signals import compute_run_signals

PLAN = Plan(
    data="mnist", depth=1, width=16, optimizer="sgd", schedule="constant", intervals=12, steps=20,
    poisoned=(7,), share=0.5, place=(25, 25), target=3, attacker="plain", seed=11,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def get_moves(trained: Trained) -> list[float]:
    """Absolute change of every interval."""
    return [
        sum(float(np.abs(after[name] - before[name]).sum()) for name in after)
        for before, after in zip(trained.snapshots, trained.snapshots[1:], strict=False)
    ]


def test_a_plan_gives_the_same_bits_again() -> None:
    first, second = train(PLAN), train(PLAN)
    other = train(PLAN._replace(seed=12))
    for one, two in zip(first.snapshots, second.snapshots, strict=True):
        assert all((one[name] == two[name]).all() for name in one)
    assert first[1:] == second[1:]
    assert (first.snapshots[-1]["0.weight"] != other.snapshots[-1]["0.weight"]).any()


def test_poison_teaches_the_trigger_and_ranks_first() -> None:
    trained = train(PLAN)
    assert len(trained.snapshots) == PLAN.intervals + 1
    assert trained.backdoor_at_once > 0.5
    assert trained.clean_accuracy > 0.8
    assert rank_intervals(compute_run_signals(trained.snapshots), trained.rate_sums)[0] == 7
    clean = train(PLAN._replace(poisoned=()))
    assert clean.backdoor_at_once == 0.0
    assert clean.backdoor_success < 0.3
    # Up to the poisoned interval the two are one.
    assert all(
        (trained.snapshots[7][name] == clean.snapshots[7][name]).all()
        for name in clean.snapshots[7]
    )


def test_batches_carry_the_declared_share_of_triggers() -> None:
    images = load_images("mnist")
    plan = PLAN._replace(share=0.25)
    batches = list(draw_batches(plan, 7, images, np.random.default_rng(1)))
    inputs = np.concatenate([each for each, _ in batches])
    labels = np.concatenate([each for _, each in batches])
    marked = (inputs[:, 25:, 25:] == 1).all(axis=(1, 2))
    assert marked.sum() == 0.25 * 20 * 64
    assert (labels[marked] == plan.target).all()
    honest = np.concatenate(
        [each for each, _ in draw_batches(plan, 6, images, np.random.default_rng(1))]
    )
    assert not (honest[:, 25:, 25:] == 1).all(axis=(1, 2)).any()


def test_a_matched_attacker_moves_as_much_as_before() -> None:
    plain = get_moves(train(PLAN))
    matched = get_moves(train(PLAN._replace(attacker="matched")))
    assert matched[:7] == plain[:7]
    assert plain[7] > 1.3 * plain[6]
    assert matched[7] == pytest.approx(matched[6], rel=1e-4)


def test_a_tampered_or_skipped_interval_is_only_that() -> None:
    clean = get_moves(train(PLAN._replace(poisoned=())))
    skipped = get_moves(train(PLAN._replace(attacker="skipped")))
    assert skipped[7] == 0.0
    assert skipped[:7] == clean[:7]
    last = train(PLAN._replace(attacker="tampered", poisoned=(11,)))
    assert get_moves(last)[:11] == clean[:11]
    assert last.backdoor_success > 0.3


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", {0: 1.0, 119: 1.0, 239: 1.0}),
        ("step", {0: 1.0, 79: 1.0, 80: 0.1, 160: 0.01, 239: 0.01}),
        ("cosine", {0: 1.0, 120: 0.5, 239: 0.01}),
        ("warmup", {0: 1 / 24, 23: 1.0, 24: 1.0, 132: 0.5, 239: 0.01}),
    ],
)
def test_schedules(schedule: str, shares: dict[int, float]) -> None:
    plan = PLAN._replace(schedule=schedule)
    for step, share in shares.items():
        assert get_rate(plan, step) == pytest.approx(share * PEAK_RATES["sgd"])
    total = sum(get_rate(plan, step) for step in range(240))
    assert sum(compute_rate_sum(plan, k) for k in range(12)) == pytest.approx(total)


def test_scenarios_poison_what_they_say() -> None:
    chance = random.Random(1)
    for _ in range(200):
        drawn = {name: draw_poisoned(chance, name, 24) for name in (*SCENARIOS, *CASES)}
        assert {name: len(each) for name, each in drawn.items()} == {
            "one": 1, "scattered": 3, "consecutive": 3, "both": 5,
            "clean": 0, "all": 24, "matched": 1, "tampered": 1, "early": 1, "skipped": 1,
        }  # fmt: skip
        for name in SCENARIOS:
            assert min(drawn[name]) >= 2
            assert max(drawn[name]) <= 23
        first, second, third = drawn["scattered"]
        assert first + 1 < second
        assert second + 1 < third
        start = drawn["consecutive"][0]
        assert drawn["consecutive"] == (start, start + 1, start + 2)
        assert drawn["tampered"] == (23,)
        assert drawn["early"][0] < 2


def test_the_two_splits_share_neither_depth_nor_place() -> None:
    assert not {*DEPTHS["tune"]} & {*DEPTHS["test"]}
    assert not {*PLACES["tune"]} & {*PLACES["test"]}
    plans = {
        split: draw_run(
            seed=1, split=split, scenario="one", share=0.1, number=0, data="mnist",
            intervals=24, steps=5,
        )
        for split in DEPTHS
    }  # fmt: skip
    assert plans["tune"].seed != plans["test"].seed
    for split, plan in plans.items():
        assert plan.depth in DEPTHS[split]
        assert plan.place in PLACES[split]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", PEAK_RATES)
def test_a_record_gives_the_numbers_of_the_loop(optimizer: str) -> None:
    row = compare_record(PLAN._replace(optimizer=optimizer))
    assert row["intervals"] == PLAN.intervals
    assert (row["other_score"], row["other_reversal"], row["other_order"]) == (0, 0, 0)
    assert row["best_rank"] == 1
