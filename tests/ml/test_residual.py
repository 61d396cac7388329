"""Profile tolerance with real training: noise of threads is within, forgeries are beyond."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from milepost.coverage import describe_gaps, get_coverage
from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_consensus.merkle import verify_path
from milepost_consensus.payloads import get_interval_steps
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_ml.admission import build_submit, validate_record
from milepost_ml.digests import compute_snapshot_digest
from milepost_ml.distance import compute_distance_ppb
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.files import DATA, FolderFiles, get_snapshot_name, get_steps_name
from milepost_ml.recipe import get_steps, validate_recipe
from milepost_ml.record_files import read_recipe, read_state
from milepost_ml.replay import Retraced, recompute_step, retrace_interval, retrace_recorded
from milepost_ml.residual import compute_residual, read_tolerance
from milepost_ml.selfcheck import check_interval, main, start_check, wait_for_check
from milepost_ml.snapshots import read_tensors, write_tensors
from milepost_ml.stepper import Stepper
from tests.client.test_coverage import make_verdict
from tests.support.models import Task, make_task
from tests.support.training import Loop, MakeOptimizer, make_sgd, record

pytestmark = pytest.mark.slow  # trains

STEPS, EVERY, BATCH = 6, 3, 32
BOUND_PPB = 1_000_000
VERIFIER = b"v" * 32


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def record_on_two(
    folder: Path,
    *,
    task: Task | str = "lenet",
    make: MakeOptimizer = make_sgd,
    cheat: Callable[[int, Loop], None] | None = None,
    tolerance: float | None = None,
) -> Path:
    """A run with a tolerance, recorded on two threads, which is then retraced on one."""
    chosen = make_task(task, records=96) if isinstance(task, str) else task
    torch.set_num_threads(2)
    run = record(
        folder,
        task=chosen,
        make=make,
        steps=STEPS,
        every=EVERY,
        batch_size=BATCH,
        cheat=cheat,
        profile="tolerance",
        tolerance=tolerance,
    )
    torch.set_num_threads(1)
    return run


def retrace(folder: Path, interval: int) -> Retraced:
    submit, _ = build_submit(folder)
    last = get_interval_steps(submit, interval)[-1]
    return retrace_interval(
        submit, FolderFiles(folder), interval, verifier=VERIFIER, work_step=last
    )


def check_beyond(folder: Path, interval: int, part: str) -> Retraced:
    """The interval is refused, and the witness against it is as the ledger wants it."""
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    validate_record(submit, files)
    found = retrace(folder, interval)
    steps = get_interval_steps(submit, interval)
    assert (found.agrees, found.step, found.part) == (False, steps[-1], part)
    assert found.distance_ppb > submit.tolerance_ppb
    assert found.pre_state == b""
    assert found.recomputed == compute_beyond_digest(found.leaf)
    root = submit.step_roots[interval]
    verify_path(root, found.leaf, index=len(steps) - 1, count=len(steps), path=found.path)
    assert recompute_step(submit, files, interval, steps[-1], pre_state=None) == found.recomputed
    return found


# Honest runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_sgd, make_adam])
def test_another_number_of_threads_is_within_and_other_bits(
    make: MakeOptimizer, tmp_path: Path
) -> None:
    folder = record_on_two(tmp_path, make=make)
    submit, _ = build_submit(folder)
    validate_record(submit, FolderFiles(folder))
    assert (submit.profile, submit.device_class) == ("tolerance", "tolerance/1")
    assert submit.tolerance_ppb == BOUND_PPB
    residuals = []
    for interval in range(2):
        found = retrace(folder, interval)
        assert found.agrees
        assert (found.step, found.leaf, found.recomputed) == (None, b"", b"")
        assert found.trained == EVERY
        assert not found.gradients, "nobody is refuted by gradients that differ in bits"
        residuals.append(found.distance_ppb)
        last = get_interval_steps(submit, interval)[-1]
        files = FolderFiles(folder)
        leaf = recompute_step(submit, files, interval, last, pre_state=None)
        assert leaf not in (found.recomputed, compute_beyond_digest(leaf))
    assert max(residuals) > 0, "one thread gives other bits than two"
    assert max(residuals) < BOUND_PPB / 10


def test_on_the_same_number_of_threads_nothing_differs(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, task="convnet")
    torch.set_num_threads(2)
    for interval in range(2):
        found = retrace(folder, interval)
        assert (found.agrees, found.distance_ppb, found.part) == (True, 0, "")


# Forged runs -------------------------------------------------------------------------------------


def poison_one_example(step: int, loop: Loop) -> None:
    if step == 4:
        loop.batch[0] = loop.batch[0].clone()
        loop.batch[0][0, :, -4:, -4:] = 3.0
        loop.batch[1] = loop.batch[1].clone()
        loop.batch[1][0] = (loop.batch[1][0] + 1) % 10


def test_one_poisoned_example_in_one_step_is_beyond(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, cheat=poison_one_example)
    assert retrace(folder, 0).agrees
    found = check_beyond(folder, 1, "momentum_buffer")
    assert found.distance_ppb > 10 * BOUND_PPB


Tamper = Callable[[dict[str, NDArray[Any]]], None]


def forge_start(folder: Path, snapshot: int, tamper: Tamper) -> None:
    """Edit a snapshot and commit to the edited state, as a cheat would."""
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    path = folder / get_snapshot_name(snapshot)
    state = read_tensors(path)
    tamper(state)
    write_tensors(path, state)
    steps = folder / get_steps_name(snapshot - 1)
    data = bytearray(steps.read_bytes())
    data[-32:] = compute_snapshot_digest(get_steps(recipe, snapshot - 1).stop, state)
    steps.write_bytes(data)


def scale(slot: str, factor: float) -> Tamper:
    def tamper(state: dict[str, NDArray[Any]]) -> None:
        for name in state:
            if name.endswith(f".{slot}"):
                state[name] = (state[name] * factor).astype(np.float32)

    return tamper


@pytest.mark.parametrize(
    ("make", "slot", "factor"),
    [
        (make_sgd, "momentum_buffer", 1.01),
        (make_adam, "exp_avg", 1.01),
        # Far below the norm of the first moments, and worth a leap of the weights.
        (make_adam, "exp_avg_sq", 0.9),
    ],
)
def test_a_tampered_optimizer_state_is_beyond(
    make: MakeOptimizer, slot: str, factor: float, tmp_path: Path
) -> None:
    folder = record_on_two(tmp_path, make=make)
    forge_start(folder, 1, scale(slot, factor))
    check_beyond(folder, 0, slot)


def test_a_tampered_counter_is_beyond_by_whatever_it_differs(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, make=make_adam)
    forge_start(folder, 1, scale("step", 1.5))
    assert check_beyond(folder, 0, "fixed values").distance_ppb == MAX_DISTANCE_PPB


def test_a_tampered_running_mean_is_beyond(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, task="convnet")
    forge_start(folder, 1, scale("running_mean", 1.1))
    check_beyond(folder, 0, "buffers")


def test_an_untrained_parameter_does_not_move_at_all(tmp_path: Path) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        model.get_submodule("fc1").requires_grad_(False)
        return make_sgd(model)

    folder = record_on_two(tmp_path, make=make)
    assert retrace(folder, 0).agrees
    # No snapshot but the first holds it; a node that moves it gets another state.
    name = "model.fc1.bias"
    assert name not in read_tensors(folder / get_snapshot_name(1))
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    start, end = read_state(files, recipe, 0), read_state(files, recipe, 1)
    moved = {**end, name: end[name] + np.float32(1e-7)}
    found = compute_residual(recipe, moved, end=end, start=start)
    assert (found.part, found.ppb) == ("fixed values", MAX_DISTANCE_PPB)


def test_the_order_of_the_data_has_no_tolerance(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path)
    steps = folder / get_steps_name(1)
    data = bytearray(steps.read_bytes())
    data[100] ^= 1  # the batch digest of the interval's second step
    steps.write_bytes(data)
    with pytest.raises(InvalidRecord) as caught:
        build_submit(folder)
    assert caught.value.slug == "data-changed", "no holder takes it"
    found = retrace_recorded(folder, 1)
    assert (found.agrees, found.part, found.distance_ppb) == (False, "batch", MAX_DISTANCE_PPB)
    assert found.trained == 1


def test_a_step_that_cannot_be_computed_is_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record_on_two(tmp_path)

    def fail(_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("torch.optim.SGD.step", fail)
    assert check_beyond(folder, 1, "failed").distance_ppb == MAX_DISTANCE_PPB


# Drift -------------------------------------------------------------------------------------------


def test_an_attacker_within_the_bound_passes_and_the_page_says_so(tmp_path: Path) -> None:
    """The limit of the profile, kept honest: this forgery is accepted, and `verify` tells."""
    bound = 2e-3
    pushed: list[float] = []

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = make_sgd(model)
        weights = list(model.parameters())
        start = [item.detach().clone() for item in weights]
        done = 0

        def push(*_: object) -> None:
            nonlocal done
            done += 1
            if done % EVERY:
                return
            with torch.no_grad():
                moved = sum(
                    float((a - b).square().sum()) for a, b in zip(weights, start, strict=True)
                )
                length = 0.99 * bound * moved**0.5
                weights[0].add_(length / weights[0].numel() ** 0.5)
                pushed.append(length)
                for old, new in zip(start, weights, strict=True):
                    old.copy_(new)

        # Before the recorder's own hook, which then commits to the pushed state.
        optimizer.register_step_post_hook(push)
        return optimizer

    folder = record_on_two(tmp_path, make=make, tolerance=bound)
    submit, _ = build_submit(folder)
    for interval in range(2):
        found = retrace(folder, interval)
        assert (found.agrees, found.part) == (True, "parameters")
        assert 0.9 * bound < found.distance_ppb / 1e9 <= bound, "the push, not noise"
    assert min(pushed) > 0
    verdict = make_verdict(
        profile="tolerance", tolerance_ppb=submit.tolerance_ppb, assurance="FULL", intervals=2
    )
    text = " ".join(describe_gaps(get_coverage(verdict, quorum=7)))
    assert "Forgeries within the tolerance cannot be excluded" in text
    assert "2 x 2e-3 = 0.4 % of an interval's movement" in text


# The measure -------------------------------------------------------------------------------------


def get_states(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    return recipe, read_state(files, recipe, 1), read_state(files, recipe, 2)


def test_the_worst_group_counts_and_a_start_without_a_tensor_is_zero(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, task="mlp")
    recipe, start, end = get_states(folder)
    assert compute_residual(recipe, end, end=end, start=start) == (0, "", ())
    far = {name: array.copy() for name, array in end.items()}
    slot = "optimizer.first.weight.momentum_buffer"
    far[slot] *= np.float32(1 + 1e-3)
    found = compute_residual(recipe, far, end=end, start=start)
    assert found.part == "momentum_buffer"
    without = {name: array for name, array in start.items() if name.startswith("model.")}
    norm = sum(
        float(np.square(array, dtype=np.float64).sum())
        for name, array in end.items()
        if name.startswith("optimizer.")
    )
    gap = float(np.square(far[slot].astype(np.float64) - end[slot]).sum())
    expected = (gap / norm) ** 0.5
    measured = compute_residual(recipe, far, end=end, start=without).ppb / 1e9
    assert measured == pytest.approx(expected, rel=1e-3)
    far["model.first.weight"] += np.float32(1.0)
    assert compute_residual(recipe, far, end=end, start=start).part == "parameters"


def test_what_did_not_move_must_be_equal(tmp_path: Path) -> None:
    recipe, start, _ = get_states(record_on_two(tmp_path, task="mlp"))
    assert compute_residual(recipe, start, end=start, start=start).ppb == 0
    other = {**start, "model.first.bias": start["model.first.bias"] + np.float32(1e-7)}
    assert compute_residual(recipe, other, end=start, start=start).ppb == MAX_DISTANCE_PPB


def test_a_last_bit_is_no_fault_of_weights_that_a_decayed_rate_hardly_moves(tmp_path: Path) -> None:
    recipe, start, _ = get_states(record_on_two(tmp_path, task="mlp"))
    name = "model.first.weight"
    end, retrained = ({key: array.copy() for key, array in start.items()} for _ in range(2))
    end[name][0, 0] = np.nextafter(start[name][0, 0], np.float32(9))
    retrained[name][0, 1] = np.nextafter(start[name][0, 1], np.float32(9))
    only = [{name: state[name]} for state in (retrained, end, start)]
    assert compute_distance_ppb(*only) > 10**9, "further than the interval moved"
    assert 0 < compute_residual(recipe, retrained, end=end, start=start).ppb < BOUND_PPB


# Recording ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerance", "every", "profile", "expected"),
    [
        (None, 5_000, "exact", 0),
        (None, 5_000, None, 0),
        (None, 10, "tolerance", BOUND_PPB),
        (1e-9, 1, "tolerance", 1),
        (1e-2, 10, "tolerance", 10_000_000),
    ],
)
def test_bounds_are_read(
    tolerance: float | None, every: int, profile: str | None, expected: int
) -> None:
    assert read_tolerance(tolerance, every=every, profile=profile) == expected


@pytest.mark.parametrize(
    ("tolerance", "every", "profile"),
    [
        (1e-3, 5, "exact"),
        (1e-3, 5, None),
        (None, 11, "tolerance"),
        (0.0, 5, "tolerance"),
        (-1e-4, 5, "tolerance"),
        (0.011, 5, "tolerance"),
        (1e-10, 5, "tolerance"),
        (float("nan"), 5, "tolerance"),
        (float("inf"), 5, "tolerance"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(
    tolerance: float | None, every: int, profile: str | None
) -> None:
    with pytest.raises(RecordingError) as caught:
        read_tolerance(tolerance, every=every, profile=profile)
    assert caught.value.slug == "bad-tolerance"


def test_a_digest_of_several_steps_is_refused() -> None:
    assert read_tolerance(None, every=5, stride=1, profile="tolerance") == BOUND_PPB
    with pytest.raises(RecordingError) as caught:
        read_tolerance(None, every=5, stride=2, profile="tolerance")
    assert caught.value.slug == "bad-tolerance"


def test_a_recipe_without_its_bound_is_none(tmp_path: Path) -> None:
    recipe = read_recipe(FolderFiles(record_on_two(tmp_path, task="mlp")))[1]
    assert recipe.tolerance_ppb == BOUND_PPB
    for changes in (
        {"tolerance_ppb": 0},
        {"steps_per_interval": 11},
        {"steps_per_digest": 2},
        {"profile": "exact", "device_class": "exact/1"},
    ):
        with pytest.raises(InvalidRecord) as caught:
            validate_recipe(msgspec.structs.replace(recipe, **changes))
        assert caught.value.slug == "bad-recipe"


# The self-check ----------------------------------------------------------------------------------


def test_the_check_says_how_much_of_the_bound_is_used(tmp_path: Path) -> None:
    found = check_interval(record_on_two(tmp_path), 0)
    assert found.identical is True
    assert f"residual of {found.distance_ppb / 1e9:.1e}" in found.message
    assert "the bound of 1e-3" in found.message


def test_the_check_warns_of_a_run_that_verifiers_would_refuse(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, cheat=poison_one_example)
    assert main([str(folder), "1"]) == 1
    said = json.loads((folder / "selfcheck.json").read_text())
    assert "is beyond the bound of 1e-3" in said["message"]
    assert "not-reproducible" in said["message"]


def test_the_check_computes_with_another_number_of_threads(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path)
    here = retrace_recorded(folder, 0).distance_ppb
    assert here > 0
    residuals = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        check = start_check(folder, other_threads=True)
        wait_for_check(check)
        residuals.append(json.loads((folder / "selfcheck.json").read_text())["distance_ppb"])
    assert residuals == [here, 0], "on one thread, then on two as it was recorded"


def test_a_stepper_of_the_profile_leaves_the_threads_alone(tmp_path: Path) -> None:
    folder = record_on_two(tmp_path, task="mlp")
    torch.set_num_threads(2)
    Stepper(read_recipe(FolderFiles(folder))[1], folder / DATA)
    assert torch.get_num_threads() == 2
