"""Liars against both rules: closed forms, the released rule, our state machine, real runs."""

from __future__ import annotations

import csv
import itertools
import random
import shutil
from collections import Counter
from math import comb
from pathlib import Path

import pytest
from milepost_experiments.__main__ import main
from milepost_experiments.hypergeometric import (
    CHAOTIC,
    MODES,
    ORDERED,
    compute_chance,
    compute_majority_accuracy,
    compute_witness_accuracy,
)
from milepost_experiments.intervals import compute_clopper_pearson
from milepost_experiments.jobs import read_job
from milepost_experiments.mnist_runs import (
    CLEAN,
    CONSECUTIVE,
    INTERVALS,
    SCATTERED,
    SINGLE,
    Run,
    RunPlan,
    Truth,
    make_run,
    plan_runs,
    read_run,
)
from milepost_experiments.points import (
    FIVE,
    ONE,
    PERFECT,
    choose_runs,
    count_liars,
    count_majority,
    count_witness,
    get_flags,
    make_seed,
)
from milepost_experiments.released_rule import judge, select_intervals
from milepost_experiments.store import Store
from milepost_experiments.verification_cost import compute_miss_one
from milepost_experiments.witness_play import make_terms, play

from milepost.cli import exits
from milepost_consensus.merkle import compute_path
from milepost_consensus.params import Params
from milepost_consensus.verdicts import INVALID, UNDECIDED, VALID
from tests.support.ledger import make_hash, make_record

STEPS = 8
PARAMS = Params()


def make_fake_run(poisoned: tuple[int, ...] = (), *, jump: int | None = None) -> Run:
    """A run nobody trained; its interval `jump` moved a hundred times as much as the others."""
    scores = [1_000_000 // (k + 1) for k in range(INTERVALS)]
    if jump is not None:
        scores[jump] *= 100
    record = make_record(
        intervals=INTERVALS, steps_per_interval=STEPS, change_scores=scores, profile="exact"
    )
    truths = tuple(
        Truth(
            agrees=number not in poisoned,
            step=number * STEPS,
            leaf=leaves[0],
            path=compute_path(leaves, 0),
            recomputed=make_hash("other", number) if number in poisoned else leaves[0],
            trained=1 if number in poisoned else STEPS,
        )
        for number, leaves in enumerate(record.leaves)
    )
    kind = {0: CLEAN, 1: SINGLE}.get(len(poisoned), SCATTERED)
    return Run(RunPlan("fake", kind, 0, poisoned), record.submit, truths, 0.9, 0.1)


# Closed forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (ORDERED, (100.0, 100.0, 100.0, 100.0, 99.9, 99.0)),
        (CHAOTIC, (100.0, 96.7, 77.6, 56.8, 50.4, 49.9)),
    ],
)
def test_the_released_configuration_has_the_known_accuracies(
    mode: str, expected: tuple[float, ...]
) -> None:
    found = [
        compute_majority_accuracy(
            nodes=100, liars=10 * tenth, size=5, selected=10, poisoned=5, mode=mode
        )
        for tenth in range(6)
    ]
    assert [round(100 * share, 1) for share in found] == list(expected)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [(21, (100.0, 99.99, 99.86, 99.38)), (51, (99.99, 99.94, 99.67, 98.87))],
)
def test_one_poisoned_interval_has_the_known_accuracies(
    nodes: int, expected: tuple[float, ...]
) -> None:
    for share, known in zip((0.2, 0.3, 0.4, 0.5), expected, strict=True):
        liars = count_liars(nodes, share)
        found = compute_witness_accuracy(nodes=nodes, liars=liars, size=5)
        assert 100 * found == pytest.approx(known, abs=0.006)


def test_chances_are_those_of_counting_every_deal() -> None:
    seats, liars = 8, 3
    groups = [(2, (0, 1)), (3, (2,))]
    deals = list(itertools.combinations(range(seats), liars))
    hits = sum(len({0, 1} & {*deal}) <= 1 and len({2, 3, 4} & {*deal}) == 2 for deal in deals)
    assert compute_chance(seats, liars, groups) == pytest.approx(hits / len(deals))
    assert compute_chance(51, 25, [(5, (5,))]) == pytest.approx(comb(25, 5) / comb(51, 5))


# The released rule -------------------------------------------------------------------------------


def test_selection_takes_flags_first_and_favours_the_ends() -> None:
    chance = random.Random(1)
    drawn: Counter[int] = Counter()
    for _ in range(2_000):
        selected = select_intervals(20, 10, (4, 9), chance)
        assert selected[:2] == [4, 9]
        assert len(set(selected)) == 10
        drawn.update(selected[2:])
    assert min(drawn[0], drawn[19]) > 1.5 * max(drawn[10], drawn[8])
    assert select_intervals(20, 10, range(12), chance) == list(range(12))
    assert sorted(select_intervals(4, 4, (), chance)) == [0, 1, 2, 3]


def test_a_tie_rejects_and_silence_is_not_part_of_it() -> None:
    settings = {"nodes": 4, "quorum": 4, "share": 0.1, "mode": CHAOTIC, "chance": random.Random(1)}
    assert not judge([True] * 20, (3, 4), liars=2, **settings).valid  # type: ignore[arg-type]
    assert judge([True] * 20, (3, 4), liars=0, **settings).valid  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_the_released_rule_agrees_with_its_closed_form(mode: str) -> None:
    runs = (make_fake_run(), make_fake_run((3, 7, 8, 12, 15)))
    right = sum(
        count_majority(
            run, nodes=100, liars=20, quorum=50, share=0.5, flags=PERFECT, mode=mode, seeds=400,
            salt="t",
        ).right
        for run in runs
    )  # fmt: skip
    exact = compute_majority_accuracy(
        nodes=100, liars=20, size=5, selected=10, poisoned=5, mode=mode
    )
    low, high = compute_clopper_pearson(right, 800)
    assert low <= exact <= high


# Rule witness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nodes", [21, 51])
def test_no_clean_model_is_rejected_while_liars_are_a_minority(nodes: int, mode: str) -> None:
    for run in (make_fake_run(), make_fake_run(jump=9)):
        count = count_witness(
            run, nodes=nodes, liars=(nodes - 1) // 2, mode=mode, seeds=30, params=PARAMS, salt="t"
        )
        assert (count.invalid, count.right, count.undecided) == (0, 30, 0)


def test_a_majority_of_chaotic_liars_does_break_it() -> None:
    count = count_witness(
        make_fake_run(), nodes=21, liars=11, mode=CHAOTIC, seeds=10, params=PARAMS, salt="t"
    )
    assert count.invalid > 0


@pytest.mark.parametrize("mode", MODES)
def test_one_honest_verifier_of_a_sub_quorum_is_enough(mode: str) -> None:
    run = make_fake_run((9,), jump=9)
    assert set(get_flags(run)) == {8, 9}
    terms = make_terms(21, PARAMS)
    outcomes = {True: set(), False: set()}  # type: dict[bool, set[str]]
    for number in range(150):
        seed = make_seed("one", number)
        liars = frozenset(random.Random(seed).sample([m.id for m in terms.verifiers], 10))
        done = play(run, terms, liars=liars, mode=mode, seed=seed)
        dealt = {result.interval: result.differed for result in done.verdict.retraced}
        assert done.verdict.outcome in (VALID, INVALID)
        outcomes[dealt[9] > 0].add(done.verdict.outcome)
    assert outcomes[True] == {INVALID}
    assert outcomes[False] <= {VALID}


def test_the_worst_case_agrees_with_its_closed_form() -> None:
    run = make_fake_run((9,), jump=9)
    seeds = 1_500
    count = count_witness(
        run, nodes=21, liars=10, mode=ORDERED, seeds=seeds, params=PARAMS, salt="t"
    )
    exact = 2 * compute_witness_accuracy(nodes=21, liars=10, size=5) - 1
    low, high = compute_clopper_pearson(count.right, seeds)
    assert count.valid > 0
    assert low <= exact <= high


def test_cost_is_what_verifiers_train() -> None:
    honest = count_witness(
        make_fake_run(), nodes=21, liars=0, mode=ORDERED, seeds=2, params=PARAMS, salt="t"
    )
    # One auditor for each of twenty intervals, nothing flagged, nobody accused.
    assert (honest.trained, honest.panel) == (2 * INTERVALS * STEPS, 0)
    poisoned = count_witness(
        make_fake_run((4,)), nodes=21, liars=0, mode=ORDERED, seeds=1, params=PARAMS, salt="t"
    )
    # Who meets the poisoned interval stops at its first step; all others recompute that step.
    assert poisoned.trained == (INTERVALS - 1) * STEPS + 1
    assert poisoned.panel == 20


def test_too_few_extensions_leave_it_undecided() -> None:
    params = Params(max_extensions=0)
    count = count_witness(
        make_fake_run(), nodes=21, liars=10, mode=CHAOTIC, seeds=5, params=params, salt="t"
    )
    assert (count.invalid, count.undecided) == (0, 5)
    assert UNDECIDED == "UNDECIDED"


def test_the_chance_to_miss_one_interval_is_that_of_the_draw() -> None:
    assert compute_miss_one((), Params()) == 0.0
    assert compute_miss_one((), Params(audit_permille=500)) == pytest.approx(10 / 18)
    assert compute_miss_one((3,), Params(audit_permille=500)) == pytest.approx(10 / 17)
    assert compute_miss_one((), Params(auditors=0)) == 1.0


# Runs --------------------------------------------------------------------------------------------


def test_the_runs_are_those_of_the_papers_test_set() -> None:
    plans = plan_runs(3)
    assert Counter(plan.kind for plan in plans) == {
        CLEAN: 10, SCATTERED: 5, CONSECUTIVE: 5, SINGLE: 3,
    }  # fmt: skip
    assert len({plan.name for plan in plans}) == len({plan.seed for plan in plans}) == 23
    for plan in plans:
        count = {CLEAN: 0, SINGLE: 1}.get(plan.kind, 5)
        assert len(plan.poisoned) == count
        assert all(0 <= interval < INTERVALS for interval in plan.poisoned)


def test_the_worst_case_takes_single_runs_that_are_flagged() -> None:
    clean, flagged, unflagged = make_fake_run(), make_fake_run((9,), jump=9), make_fake_run((9,))
    assert choose_runs([clean, clean, flagged, unflagged], ONE) == [clean, flagged]
    assert choose_runs([clean, flagged], FIVE) == [clean]


def test_both_experiments_take_each_others_runs(tmp_path: Path) -> None:
    jobs = [read_job(name) for name in ("malicious-nodes", "verification-cost")]
    stores = [Store(tmp_path / job.experiment.name, job) for job in jobs]
    for store in stores:
        store.open()
    (first, *_, point), (same, *_) = (job.experiment.plan(job.config) for job in jobs)
    stores[0].write(first, [{"kind": "run"}])
    stores[0].write(point, [{"kind": "count"}])
    shutil.copytree(
        tmp_path / "malicious-nodes", tmp_path / "verification-cost", dirs_exist_ok=True
    )
    assert stores[1].read(same) == [{"kind": "run"}]
    assert stores[1].read(point) is None


@pytest.mark.slow
def test_truth_comes_from_retraining() -> None:
    plan = RunPlan("test", SCATTERED, 5, (2, 7))
    rows = make_run(plan, steps_per_interval=3, share=0.5)
    assert rows == make_run(plan, steps_per_interval=3, share=0.5)
    run = read_run(plan, rows)
    assert [number for number, truth in enumerate(run.truths) if not truth.agrees] == [2, 7]
    assert [run.truths[number].step for number in (2, 7)] == [6, 21]
    assert [run.truths[number].trained for number in (2, 3)] == [1, 3]
    assert run.truths[2].recomputed != run.truths[2].leaf
    count = count_witness(run, nodes=7, liars=3, mode=CHAOTIC, seeds=3, params=PARAMS, salt="t")
    assert count.invalid == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["malicious-nodes", "verification-cost"])
def test_a_small_experiment_from_end_to_end(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["seeds=1", "steps_per_interval=2", "malicious=[0.0, 0.3]"]
    changes += ["singles=0", "witness_nodes=[21]"] if name == "malicious-nodes" else ["nodes=21"]
    arguments = ["run", name, "--out", str(tmp_path / "out")]
    for change in changes:
        arguments += ["--set", change]
    assert main(arguments) == exits.YES
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        assert row["models"] == "20"
        assert row["seeds"] == "1"
        if row["rule"] == "witness":
            assert row["false_rejections"] == "0"
        if float(row["malicious"]) == 0 and row["rule"] == "witness":
            assert row["undecided"] == "0"
    assert {"rule", "mode", "malicious", "accuracy", "low", "high", "models", "seeds"} <= set(
        rows[0]
    )
    assert "majority" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        "seeds=0",
        "malicious=[0.6]",
        'modes=["rude"]',
        "steps_per_interval=1",
        "poison_share=0.0",
        "majority_quorum=1000",
    ],
)
@pytest.mark.parametrize("name", ["malicious-nodes", "verification-cost"])
def test_settings_that_make_no_sense_are_refused(
    name: str, change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", name, "--out", str(tmp_path / "out"), "--set", change])
    assert code == exits.USAGE
    assert "[bad-config]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
