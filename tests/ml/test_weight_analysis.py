"""The report on a run: its numbers on made snapshots, its flags on really poisoned training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from milepost_consensus.flagging import compute_flags
from milepost_consensus.payloads import Submit
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.distance import compute_change_score, compute_distances
from milepost_ml.errors import InvalidRecord
from milepost_ml.poison import add_trigger
from milepost_ml.weight_analysis import (
    COLUMNS,
    WeightAnalysis,
    analyse_interval,
    analyse_record,
    analyse_snapshots,
)

INTERVALS = 24
STEPS = 40
RATE = 0.1
Snapshot = dict[str, NDArray[Any]]


def _walk(moves: list[float]) -> list[Snapshot]:
    """Snapshots of four weights that move by the given amount in each interval."""
    weights = np.cumsum([1.0, *moves])
    return [{"w": np.full(4, value)} for value in weights]


def test_rows_carry_the_metrics_of_each_interval() -> None:
    snapshots = _walk([0.5, 0.25, 0.125])
    rates = [[0.1, 0.1], [0.1, 0.1], [0.2]]
    analysis = analyse_snapshots(iter(snapshots), rates)
    assert [list(item.steps) for item in analysis.intervals] == [[0, 1], [2, 3], [4]]
    for k, item in enumerate(analysis.intervals):
        assert item.interval == k
        assert item.distances == compute_distances(snapshots[k], snapshots[k + 1])
        assert item.change_score == compute_change_score(snapshots[k], snapshots[k + 1])
    assert [item.rate_sum for item in analysis.intervals] == [200_000_000] * 3
    assert [item.change_per_rate for item in analysis.intervals] == [10.0, 5.0, 2.5]
    rows = analysis.to_rows()
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[0] == ("0", "0-2", "2", "1", "50", "0.000e+00", "10", "", "", "1")


def test_both_rules_stand_side_by_side() -> None:
    # Decaying movement with one jump: `robust` flags it and its predecessor, `upper` the start.
    moves = [2.0 / (k + 1) for k in range(20)]
    moves[12] *= 4
    analysis = analyse_snapshots(_walk(moves), [[0.1]] * 20)
    assert analysis.robust == (11, 12)
    assert analysis.upper == (0,)
    assert analysis.intervals[12].rank == 1
    assert [row[-3] for row in analysis.to_rows()[10:14]] == ["", "flag", "flag", ""]


def test_a_declared_schedule_is_no_anomaly() -> None:
    # A tenfold drop of the rate moves the weights a tenth; only the rate-blind rule minds.
    rates = [[1.0]] * 3 + [[0.1]] * 17
    moves = [part[0] / (k + 1) for k, part in enumerate(rates)]
    assert analyse_snapshots(_walk(moves), rates).robust == ()


def test_an_interval_without_movement_is_flagged() -> None:
    moves = [1.0 / (k + 1) for k in range(12)]
    moves[7] = 0.0
    assert analyse_snapshots(_walk(moves), [[0.1]] * 12).robust == (7,)
    item = analyse_snapshots(_walk([0.0]), [[0.0]]).intervals[0]
    assert item.change_per_rate == 0.0


def test_a_snapshot_that_diverged_is_refused() -> None:
    snapshots = [*_walk([1.0]), {"w": np.array([1.0, np.nan, 1.0, 1.0])}]
    with pytest.raises(InvalidRecord) as caught:
        analyse_snapshots(snapshots, [[0.1], [0.1]])
    assert caught.value.slug == "not-finite"


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _train(seed: int, poisoned: set[int]) -> Iterator[Snapshot]:
    """Parameters of a small MLP on real digits; half of the data is poisoned in some intervals."""
    clean = load_mnist_5k()
    dirty = add_trigger(*clean, share=0.5, target=0, seed=seed)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    rng = np.random.default_rng(seed)

    def take_snapshot() -> Snapshot:
        return {name: item.detach().numpy().copy() for name, item in model.named_parameters()}

    yield take_snapshot()
    for interval in range(INTERVALS):
        images, labels = dirty[:2] if interval in poisoned else clean
        for _ in range(STEPS):
            batch = rng.integers(len(images), size=64)
            outputs = model(torch.from_numpy(images[batch]))
            loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels[batch]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield take_snapshot()


def _analyse(seed: int, poisoned: set[int]) -> WeightAnalysis:
    return analyse_snapshots(_train(seed, poisoned), [[RATE] * STEPS] * INTERVALS)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_robust_rule_flags_a_poisoned_interval_where_the_upper_rule_sees_only_the_start() -> None:
    found = [_analyse(seed, {9}) for seed in range(5)]
    assert sum(9 in analysis.robust for analysis in found) >= 4
    assert sum(analysis.intervals[9].rank == 1 for analysis in found) >= 4
    # The untrained model's first intervals move most of all; poison does not reach that threshold.
    assert {interval for analysis in found for interval in analysis.upper} <= {0, 1}
    assert all(0 in analysis.upper for analysis in found)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_robust_rule_finds_at_least_one_of_scattered_poisoned_intervals() -> None:
    poisoned = {6, 12, 18}
    found = [_analyse(seed, poisoned) for seed in range(3)]
    assert sum(bool(poisoned & {*analysis.robust}) for analysis in found) >= 2
    assert not any(poisoned & {*analysis.upper} for analysis in found)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_at_most_a_quarter_of_the_intervals_of_clean_training_is_flagged() -> None:
    found = [_analyse(seed, set()) for seed in range(3)]
    assert sum(len(analysis.robust) for analysis in found) <= len(found) * INTERVALS / 4


def test_a_record_is_analysed_as_its_journal_and_submission_say(
    tiny_run: Path, tiny_submit: Submit
) -> None:
    analysis = analyse_record(tiny_run)
    lines = (tiny_run / "journal.jsonl").read_text().splitlines()
    for item, line in zip(analysis.intervals, map(json.loads, lines), strict=True):
        assert item.interval == line["interval"]
        assert len(item.steps) == line["steps"]
        assert item.rate_sum == line["rate_sum"]
        assert item.distances._asdict() == {name: line[name] for name in item.distances._fields}
        assert analyse_interval(tiny_run, item.interval).tensors == item.tensors
        assert sum(each.score for each in item.tensors.values()) == item.change_score
    scores = tuple(item.change_score for item in analysis.intervals)
    assert scores == tiny_submit.change_scores
    flags = compute_flags(scores, tiny_submit.rate_sums, "robust")
    assert analysis.robust == flags
