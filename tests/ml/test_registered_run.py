"""Runs that are registered first, and runs that continue a judged model, as they are recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milepost_consensus.payloads import CLASS
from milepost_ml.admission import build_submit
from milepost_ml.digests import compute_content_digest
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.files import MODEL, FolderFiles, get_snapshot_name
from milepost_ml.initial import Normal, Parent, Uniform, derive_tensor
from milepost_ml.model_files import read_model
from milepost_ml.recipe import compute_unseeded_digest, get_model_specs
from milepost_ml.record_files import read_recipe
from milepost_ml.recorder import Run
from milepost_ml.registration import ParentModel
from milepost_ml.snapshots import read_tensors
from tests.support.models import make_model, make_task
from tests.support.records import Spoilt
from tests.support.registering import SEED, Network

STEPS, EVERY = 12, 5


def make_step_schedule(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)


def train(
    folder: Path,
    *,
    make_schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    schedule: Any = None,
    steps: int = STEPS,
    stop: int = STEPS,
    model: torch.nn.Module | None = None,
    quiet: bool = True,
    make: Callable[[torch.nn.Module], torch.optim.Optimizer] | None = None,
    **options: Any,
) -> Path:
    """A run of the test MLP; `make_schedule` steps in the loop and is given to the run."""
    task = make_task("mlp")
    net = model or make_model(task)
    optimizer = make(net) if make else torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    scheduler = make_schedule(optimizer) if make_schedule is not None else None
    run = Run(
        "registered",
        net,
        optimizer,
        loss=task.loss,
        every=EVERY,
        folder=folder,
        profile=CLASS,
        schedule=schedule if schedule is not None else scheduler,
        selfcheck=False,
        quiet=quiet,
        **options,
    )
    for step, (x, y) in enumerate(
        run.batches(task.inputs, task.targets, batch_size=8, steps=steps)
    ):
        if step == stop:
            break
        loss = task.loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        run.log(loss)
    return run.finish()


def test_the_registered_recipe_is_the_recorded_one(tmp_path: Path) -> None:
    network = Network()
    folder = train(tmp_path, register=network, make_schedule=make_step_schedule)
    _, recipe = read_recipe(FolderFiles(folder))
    (request,) = network.requests
    assert recipe.seed_bytes == SEED
    assert recipe.groups[0].rates == ((4, 0.1), (4, 0.05), (4, 0.025))
    assert request.recipe == compute_unseeded_digest(recipe)
    submit, _ = build_submit(folder)
    assert request[1:] == (submit.dataset_root, submit.records, b"")
    about = json.loads((folder / "run.json").read_text())
    assert about["registration"] == {"id": (b"r" * 32).hex(), "number": 1, "height": 7}
    assert about["seed"] == SEED.hex()


def test_all_weights_follow_from_the_seed(tmp_path: Path) -> None:
    folder = train(tmp_path, register=Network(), initial={"second.bias": Normal(0.5)})
    _, recipe = read_recipe(FolderFiles(folder))
    start = read_tensors(folder / get_snapshot_name(0))
    for spec, initial in zip(get_model_specs(recipe), recipe.initial, strict=True):
        assert isinstance(initial, Uniform | Normal)
        values = derive_tensor(SEED, spec, initial)
        assert values.tobytes() == start[f"model.{spec.name}"].tobytes()
    assert recipe.initial[-1] == Normal(0.5)


def test_weights_can_be_derived_without_registration(tmp_path: Path) -> None:
    folder = train(tmp_path, initial={}, seed=5)
    build_submit(folder)
    again = train(tmp_path, initial={}, seed=5, model=make_model(make_task("mlp"), seed=99))
    assert read_model(folder / MODEL).keys() == read_model(again / MODEL).keys()
    assert compute_content_digest(read_model(folder / MODEL)) == compute_content_digest(
        read_model(again / MODEL)
    )


def test_the_same_run_asks_for_the_same_registration(tmp_path: Path) -> None:
    network = Network()
    train(tmp_path, register=network)
    train(tmp_path, register=network, model=make_model(make_task("mlp"), seed=99))
    assert network.requests[0] == network.requests[1]
    train(tmp_path, register=network, schedule=[0.1] * (STEPS + 1), steps=STEPS + 1)
    assert network.requests[2].recipe != network.requests[0].recipe


def refuse(folder: Path, slug: str, match: str, **options: Any) -> None:
    with pytest.raises(RecordingError, match=match) as caught:
        train(folder, **options)
    assert caught.value.slug == slug


def test_another_learning_rate_than_registered_is_refused_at_its_step(tmp_path: Path) -> None:
    refuse(
        tmp_path,
        "not-registered-recipe",
        "step 4 used the learning rate 0.05, registered was 0.1",
        register=Network(),
        make_schedule=make_step_schedule,
        schedule=[0.1] * STEPS,
    )


def test_a_run_that_ends_early_is_not_the_registered_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network()
    folder = train(tmp_path, register=network, stop=9, quiet=False)
    _, recipe = read_recipe(FolderFiles(folder))
    assert recipe.steps == 9
    assert compute_unseeded_digest(recipe) != network.requests[0].recipe
    told = capsys.readouterr().err
    assert "milepost: registered" in told
    assert "9 of 12 registered steps were done" in told


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": 3, "register": Network()}, "seed= and register= exclude"),
        ({"schedule": [0.1], "register": Network()}, "gives 1 learning rates for 12 steps"),
        ({"schedule": [-1.0] * STEPS, "register": Network()}, "at least 0"),
        (
            {
                "make_schedule": torch.optim.lr_scheduler.ReduceLROnPlateau,
                "register": Network(),
            },
            "rates of ReduceLROnPlateau cannot be foreseen",
        ),
        ({"initial": {}, "parent": ParentModel(b"p" * 32, b"", None)}, "initial= and parent="),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    refuse(tmp_path, "bad-plan", match, **options)


def test_a_schedule_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    schedule = make_step_schedule(other)
    refuse(tmp_path, "bad-plan", "belongs to another", register=Network(), schedule=schedule)


def make_two_groups(net: torch.nn.Module) -> torch.optim.Optimizer:
    first, second = net.get_submodule("first"), net.get_submodule("second")
    groups: list[dict[str, Any]] = [
        {"params": first.parameters(), "lr": 0.2},
        {"params": second.parameters()},
    ]
    return torch.optim.SGD(groups, 0.1)


def test_the_rates_of_all_groups_are_registered(tmp_path: Path) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        slower: list[Callable[[int], float]] = [lambda t: 0.5 ** (t // 6), lambda t: 1 + t % 2]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, slower)

    network = Network()
    folder = train(tmp_path, register=network, make=make_two_groups, make_schedule=schedule)
    _, recipe = read_recipe(FolderFiles(folder))
    first, second = recipe.groups
    assert first.rates == ((6, 0.2), (6, 0.1))
    assert second.rates == ((1, 0.1), (1, 0.2)) * 6
    (request,) = network.requests
    assert request.recipe == compute_unseeded_digest(recipe)


def test_another_rate_of_the_second_group_than_registered_stops_the_run(tmp_path: Path) -> None:
    rates = [(0.2, 0.1)] * 4 + [(0.2, 0.3)] * (STEPS - 4)
    told = r"step 4 used the learning rate 0\.2, 0\.1, registered was 0\.2, 0\.3"
    options = {"register": Network(), "make": make_two_groups, "schedule": rates}
    refuse(tmp_path, "not-registered-recipe", told, **options)


def test_foreseeing_rates_changes_neither_scheduler_nor_weights(tmp_path: Path) -> None:
    seen: list[float] = []

    def make(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.5, STEPS + 1, cycle_momentum=False
        )
        seen.append(optimizer.param_groups[0]["lr"])
        return scheduler

    folder = train(tmp_path, register=Network(), make_schedule=make)
    _, recipe = read_recipe(FolderFiles(folder))
    assert recipe.groups[0].rates[0] == (1, seen[0])
    assert len(recipe.groups[0].rates) == STEPS


# Parents -----------------------------------------------------------------------------------------


def make_parent(folder: Path, weights: Path | None) -> ParentModel:
    return ParentModel(b"p" * 32, compute_content_digest(read_model(folder / MODEL)), weights)


def test_a_child_starts_where_its_parent_ended(tmp_path: Path) -> None:
    first = train(tmp_path, seed=1)
    parent = make_parent(first, first / MODEL)
    network = Network()
    child = train(tmp_path, parent=parent, register=network)
    _, recipe = read_recipe(FolderFiles(child))
    assert set(recipe.initial) == {Parent()}
    assert network.requests[0].parent == b"p" * 32
    start = read_tensors(child / get_snapshot_name(0))
    for name, values in read_model(first / MODEL).items():
        assert start[f"model.{name}"].tobytes() == values.tobytes()
    assert json.loads((child / "run.json").read_text())["parent"] == (b"p" * 32).hex()


def test_a_parent_without_its_file_must_be_in_memory(tmp_path: Path) -> None:
    first = train(tmp_path, seed=1)
    parent = make_parent(first, None)
    refuse(tmp_path, "other-weights", "does not hold the weights of its parent", parent=parent)
    model = make_model(make_task("mlp"))
    model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in read_model(first / MODEL).items()}
    )
    train(tmp_path, parent=parent, model=model)


def test_a_parents_file_with_other_weights_is_refused(tmp_path: Path) -> None:
    first, other = train(tmp_path, seed=1), train(tmp_path, seed=2)
    parent = make_parent(first, other / MODEL)
    refuse(tmp_path, "other-weights", "does not hold the weights that were judged", parent=parent)


def test_a_child_of_another_architecture_is_refused(tmp_path: Path, tiny_run: Path) -> None:
    parent = make_parent(tiny_run, tiny_run / MODEL)
    refuse(tmp_path, "wrong-architecture", "other tensors than its parent", parent=parent)


# What holders check without a registration -------------------------------------------------------


def test_a_holder_refuses_weights_that_the_seed_does_not_give(tmp_path: Path) -> None:
    folder = train(tmp_path, initial={}, seed=5)
    submit, _ = build_submit(folder)
    spoilt = Spoilt(folder, submit)

    def match_ranks(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
        # Fresh values in the rank order of others: any test of distributions passes.
        weight = tensors["model.first.weight"].reshape(-1)
        wanted = np.random.default_rng(0).normal(size=weight.size)
        weight[np.argsort(wanted)] = np.sort(weight)

    spoilt.edit_tensors(get_snapshot_name(0), match_ranks)
    with pytest.raises(InvalidRecord, match=r"of 192 values of first\.weight") as caught:
        build_submit(folder)
    assert caught.value.slug == "wrong-initial-weights"
