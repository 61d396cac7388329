"""Parameter groups and clipping: recorded as PyTorch does them, and trained again to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.declaration import Schedule, foresee_rates
from milepost_ml.errors import RecordingError
from milepost_ml.files import RECIPE, FolderFiles
from milepost_ml.keyed import Order
from milepost_ml.rates import compress_rates
from milepost_ml.recipe import Recipe, encode_recipe
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import retrace_recorded
from milepost_ml.updates import SGD, AdamW, ClipNorm, ClipValue, Group
from tests.support.models import MLP, make_model, make_task
from tests.support.training import make_sgd, record

pytestmark = pytest.mark.slow  # trains

PROFILES = ("exact", "rounded", "class")
Make = Callable[[nn.Module], torch.optim.Optimizer]


def make_decayed(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as language models use it: no weight decay for vectors.  One group is empty."""
    matrices = [item for item in model.parameters() if item.dim() > 1]
    vectors = [item for item in model.parameters() if item.dim() <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1, "lr": 0.02},
            {"params": [], "lr": 0.3},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=0.01,
    )


def make_uneven(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum for the first layer only; the last group is frozen."""
    first, second = model.get_submodule("first"), model.get_submodule("second")
    frozen = second.get_parameter("bias").requires_grad_(False)
    return torch.optim.SGD(
        [
            {"params": [second.get_parameter("weight")], "weight_decay": 0.01},
            {"params": first.parameters(), "momentum": 0.9, "lr": 0.1},
            {"params": [frozen], "momentum": 0.5},
        ],
        lr=0.05,
    )


def read(folder: Path) -> Recipe:
    return read_recipe(FolderFiles(folder))[1]


def rewrite(folder: Path, **fields: Any) -> None:
    """Make a record say something else of the same steps."""
    recipe = msgspec.structs.replace(read(folder), **fields)
    (folder / RECIPE).write_bytes(encode_recipe(recipe))


def agrees(folder: Path) -> bool:
    return all(retrace_recorded(folder, k).agrees for k in range(read(folder).intervals))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("make", [make_decayed, make_uneven])
def test_groups_retrace(make: Make, profile: str, tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        slower: list[Callable[[int], float]] = [lambda t: 0.9**t, lambda _: 1.0, lambda t: 0.5**t]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, slower)

    folder = record(tmp_path, make=make, schedule=schedule, profile=profile)
    recipe = read(folder)
    assert len(recipe.groups) == 3
    assert recipe.groups[0].rates[1] == (1, recipe.groups[0].rates[0][1] * 0.9)
    assert agrees(folder)
    submit, _ = build_submit(folder)
    validate_record(submit, FolderFiles(folder))


def test_groups_are_declared_as_the_optimizer_holds_them(tmp_path: Path) -> None:
    recipe = read(record(tmp_path, make=make_uneven))
    plain = SGD(momentum=0.0, dampening=0.0, weight_decay=0.01, nesterov=False)
    quick = SGD(momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False)
    frozen = SGD(momentum=0.5, dampening=0.0, weight_decay=0.0, nesterov=False)
    assert recipe.groups == (
        Group(("second.weight",), plain, ((12, 0.05),)),
        Group(("first.weight", "first.bias"), quick, ((12, 0.1),)),
        Group((), frozen, ((12, 0.05),)),
    )


def test_recording_groups_does_not_change_the_training(tmp_path: Path) -> None:
    """The same loop without a run ends in the same weights."""
    ends: list[list[torch.Tensor]] = []

    def keep(step: int, loop: Any) -> None:
        if step == 11:
            ends.append([item.detach().clone() for item in loop.model.parameters()])

    folder = record(tmp_path, make=make_decayed, after=keep)
    recipe, task = read(folder), make_task("mlp")
    model = make_model(task)
    optimizer = make_decayed(model)
    order = Order(seed=recipe.seed_bytes, records=40, batch_size=8)
    for step in range(12):
        rows = torch.from_numpy(order.get_indices(step))
        optimizer.zero_grad()
        task.loss(model(task.inputs[rows]), task.targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for found, expected in zip(model.parameters(), ends[0], strict=True):
        assert torch.equal(found, expected)


def test_a_parameter_moved_to_another_group_is_found(tmp_path: Path) -> None:
    folder = record(tmp_path, make=make_decayed, profile="exact")
    first, empty, second = read(folder).groups
    moved = msgspec.structs.replace(first, parameters=first.parameters[1:])
    taker = msgspec.structs.replace(second, parameters=(*second.parameters, first.parameters[0]))
    rewrite(folder, groups=(moved, empty, taker))
    found = retrace_recorded(folder, 0)
    assert (found.step, found.part) == (0, "state")


def test_a_rate_of_the_second_group_that_was_not_used_is_found(tmp_path: Path) -> None:
    folder = record(tmp_path, make=make_decayed, profile="exact")
    first, empty, second = read(folder).groups
    lied = msgspec.structs.replace(second, rates=((7, 0.01), (5, 0.02)))
    rewrite(folder, groups=(first, empty, lied))
    assert retrace_recorded(folder, 0).agrees
    found = retrace_recorded(folder, 1)
    assert (found.step, found.part) == (7, "state")


def test_the_rate_sum_of_a_submission_is_that_of_the_mean_rate(tmp_path: Path) -> None:
    submit, _ = build_submit(record(tmp_path, make=make_decayed))
    weights, biases = 12 * 16 + 16 * 4, 16 + 4
    mean = (weights * 20_000_000 + biases * 10_000_000) // (weights + biases)
    assert submit.rate_sums == (5 * mean, 5 * mean, 2 * mean)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("fused", [True, False])
def test_the_choice_of_kernels_is_the_profiles(fused: bool, profile: str, tmp_path: Path) -> None:
    """The record does not depend on it, and the optimizer has its own choice back at the end."""
    kept: list[torch.optim.Optimizer] = []

    def make(model: nn.Module) -> torch.optim.Optimizer:
        kept.append(torch.optim.AdamW(model.parameters(), fused=fused, foreach=not fused))
        return kept[-1]

    chosen = record(tmp_path, make=make, profile=profile, steps=3, every=3)
    plain = record(
        tmp_path,
        make=lambda m: torch.optim.AdamW(m.parameters()),
        profile=profile,
        steps=3,
        every=3,
    )
    assert (chosen / "steps/00000.bin").read_bytes() == (plain / "steps/00000.bin").read_bytes()
    group = kept[0].param_groups[0]
    assert (group["fused"], group["foreach"]) == (fused, not fused)


# Clipping ----------------------------------------------------------------------------------------


def clip_norm(model: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)


def clip_groups(model: nn.Module) -> None:
    ordered = [item for item in model.parameters() if item.dim() > 1]
    ordered += [item for item in model.parameters() if item.dim() <= 1]
    torch.nn.utils.clip_grad_norm_(ordered, 0.5)


def clip_value(model: nn.Module) -> None:
    torch.nn.utils.clip_grad_value_(model.parameters(), 0.03)


CLIPS: dict[str, tuple[Callable[[nn.Module], None], dict[str, Any], ClipNorm | ClipValue]] = {
    "norm": (clip_norm, {"clip_norm": 0.5}, ClipNorm(0.5)),
    "groups": (
        clip_groups,
        {"clip_norm": ClipNorm(0.5, over="groups")},
        ClipNorm(0.5, over="groups"),
    ),
    "value": (clip_value, {"clip_value": 0.03}, ClipValue(0.03)),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", CLIPS)
def test_clipping_retraces(kind: str, profile: str, tmp_path: Path) -> None:
    clip, options, declared = CLIPS[kind]
    folder = record(
        tmp_path, task="convnet", make=make_decayed, profile=profile, clip=clip, **options
    )
    assert read(folder).clip == declared
    assert agrees(folder)
    validate_record(build_submit(folder)[0], FolderFiles(folder))


@pytest.mark.parametrize("profile", ["exact", "class"])
@pytest.mark.parametrize(
    "lie", [None, ClipNorm(0.4), ClipValue(0.03)], ids=["none", "bound", "value"]
)
def test_other_clipping_than_declared_is_found(
    lie: ClipNorm | ClipValue | None, profile: str, tmp_path: Path
) -> None:
    folder = record(tmp_path, profile=profile, clip=clip_norm, clip_norm=0.5)
    rewrite(folder, clip=lie)
    found = retrace_recorded(folder, 0)
    assert (found.step, found.part) == (0, "gradient")


def test_a_loop_that_clips_without_saying_so_is_found_where_it_matters(tmp_path: Path) -> None:
    def clip_late(model: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9 if late[0] else 1e-3)

    late = [True]

    def count(step: int, _: Any) -> None:
        late[0] = step != 6

    folder = record(tmp_path, profile="exact", clip=clip_late, cheat=count)
    assert retrace_recorded(folder, 0).agrees
    found = retrace_recorded(folder, 1)
    assert (found.step, found.part) == (6, "gradient")


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 1.0, "clip_value": 1.0},
        {"clip_norm": 0.0},
        {"clip_value": float("nan")},
        {"clip_norm": -1},
    ],
)
def test_impossible_clipping_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        record(tmp_path, **options)
    assert caught.value.slug == "bad-plan"


def test_rates_of_groups_can_be_registered(tmp_path: Path) -> None:
    model = MLP()
    optimizer = make_decayed(model)
    assert foresee_rates(None, optimizer, 2) == [(0.02, 0.3, 0.01)] * 2
    assert foresee_rates([0.5, (0.1, 0.2, 0.3)], optimizer, 2) == [(0.5,) * 3, (0.1, 0.2, 0.3)]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    rates = foresee_rates(scheduler, optimizer, 3)
    assert rates == [(0.02, 0.3, 0.01), (0.01, 0.15, 0.005), (0.005, 0.075, 0.0025)]
    assert compress_rates([(1.0, 2.0), (1.0, 3.0)]) == [((2, 1.0),), ((1, 2.0), (1, 3.0))]
    wrongs: list[Schedule] = [[0.1], [0.1, (0.1, 0.2)], [0.1, -1.0]]
    for wrong in wrongs:
        with pytest.raises(RecordingError) as caught:
            foresee_rates(wrong, optimizer, 2)
        assert caught.value.slug == "bad-plan"


def test_a_group_added_during_the_run_is_refused(tmp_path: Path) -> None:
    def add(step: int, loop: Any) -> None:
        if step == 3:
            loop.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    with pytest.raises(RecordingError) as caught:
        record(tmp_path, make=make_sgd, cheat=add)
    assert caught.value.slug == "undeclared-change"


def test_settings_of_every_group_are_watched(tmp_path: Path) -> None:
    def change(step: int, loop: Any) -> None:
        if step == 3:
            loop.optimizer.param_groups[2]["weight_decay"] = 0.5

    with pytest.raises(RecordingError) as caught:
        record(tmp_path, make=make_decayed, cheat=change)
    assert caught.value.slug == "undeclared-change"


def test_adamw_groups_hold_their_settings(tmp_path: Path) -> None:
    first, _, second = read(record(tmp_path, make=make_decayed)).groups
    assert isinstance(first.optimizer, AdamW)
    assert (first.optimizer.weight_decay, second.optimizer.weight_decay) == (0.1, 0.0)
