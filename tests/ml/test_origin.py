"""What holders refuse of a registered or continued run: every variant that somebody could forge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from milepost_consensus.payloads import Submit
from milepost_consensus.registrations import Registration
from milepost_ml.admission import build_submit, validate_record
from milepost_ml.digests import compute_content_digest, split_state
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA, MODEL, RECIPE, FolderFiles, build_manifest, get_snapshot_name
from milepost_ml.initial import Constant, Given, Initial, Parent, Uniform
from milepost_ml.keyed import make_seed
from milepost_ml.model_files import read_model
from milepost_ml.recipe import Recipe, compute_recipe_digest, compute_unseeded_digest, encode_recipe
from milepost_ml.record_files import read_recipe
from milepost_ml.registration import ParentModel
from milepost_ml.snapshots import read_tensors
from milepost_ml.updates import SGD, Group
from tests.ml.test_registered_run import train
from tests.support.records import Spoilt, get_manifest_fields, read_recipe_of
from tests.support.registering import ID, Network, make_registration


class Case:
    """A registered run, its registration, and ways to forge it."""

    def __init__(self, folder: Path, registration: Registration) -> None:
        self.registration = registration
        self.submit, _ = build_submit(folder)
        self.spoilt = Spoilt(folder, self.submit)

    def admit(self, submit: Submit | None = None) -> None:
        validate_record(submit or self.submit, self.spoilt.files, self.registration)

    def refuse(self, slug: str, match: str, submit: Submit | None = None) -> None:
        with pytest.raises(InvalidRecord, match=match) as caught:
            self.admit(submit)
        assert caught.value.slug == slug

    def rewrite_recipe(self, **changes: Any) -> Submit:
        """The submission of a cheat with a changed recipe, as far as it can be made to fit."""
        recipe = msgspec.structs.replace(read_recipe_of(self.spoilt.folder), **changes)
        data = encode_recipe(recipe)
        (self.spoilt.folder / RECIPE).write_bytes(data)
        fields = get_manifest_fields(build_manifest(self.spoilt.folder))
        return msgspec.structs.replace(self.submit, recipe=compute_recipe_digest(data), **fields)

    def edit_start(self, edit: Callable[[dict[str, NDArray[Any]]], None]) -> None:
        self.spoilt.edit_tensors(get_snapshot_name(0), edit)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    network = Network()
    folder = train(tmp_path, register=network)
    return Case(folder, make_registration(network.requests[0]))


def test_the_honest_run_is_admitted(case: Case) -> None:
    assert case.submit.registration == ID
    case.admit()


def test_a_registration_that_the_ledger_does_not_know(case: Case) -> None:
    case.registration = msgspec.structs.replace(case.registration, id=b"x" * 32)
    case.refuse("unknown-registration", "is not known here")


def test_another_seed(case: Case) -> None:
    """Seed grinding: the whole run is honest, but under a seed that somebody chose."""
    case.registration = msgspec.structs.replace(case.registration, seed=make_seed(5))
    case.refuse("wrong-seed", "the network gave this registration 00000000")


def make_rates(*rates: tuple[int, float]) -> tuple[Group, ...]:
    """The groups of a registered run, at other rates."""
    names = ("first.weight", "first.bias", "second.weight", "second.bias")
    return (Group(names, SGD(0.9, 0.0, 0.0, False), rates),)


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": make_rates((6, 0.1), (6, 0.2))},
        {"steps": 10, "groups": make_rates((10, 0.1))},
        {"batch_size": 4},
        {"steps_per_interval": 4},
        {"profile": "exact", "device_class": "exact/1"},
        {"initial": (Uniform(0.1),) * 4},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_recipe(case: Case, changes: dict[str, Any]) -> None:
    case.refuse("not-registered-recipe", "of another recipe", case.rewrite_recipe(**changes))


def test_initial_weights_that_are_only_given(tmp_path: Path) -> None:
    """A registered recipe may not leave open what the model starts from, not even in one tensor."""

    def leave_open(recipe: Recipe) -> tuple[Initial, ...]:
        return (*recipe.initial[:-1], Given())

    network = Network()
    case = Case(train(tmp_path, register=network), make_registration(network.requests[0]))
    recipe = read_recipe_of(case.spoilt.folder)
    submit = case.rewrite_recipe(initial=leave_open(recipe))
    unseeded = read_unseeded(case)
    register = msgspec.structs.replace(case.registration.register, recipe=unseeded)
    case.registration = msgspec.structs.replace(case.registration, register=register)
    case.refuse("wrong-initial-weights", r"second\.bias is declared as given", submit)


def read_unseeded(case: Case) -> bytes:
    return compute_unseeded_digest(read_recipe_of(case.spoilt.folder))


def test_an_undeclared_warm_start(case: Case) -> None:
    """Snapshot 0 holds weights that were trained before, here the run's own last ones."""
    trained = read_model(case.spoilt.folder / MODEL)
    case.edit_start(
        lambda tensors: tensors.update({f"model.{name}": trained[name] for name in trained})
    )
    case.refuse("wrong-initial-weights", "snapshot 0 does not start as the recipe says")


def test_rank_matched_weights(case: Case) -> None:
    """The derived values in the rank order of trained ones: same distribution, other weights."""
    trained = read_model(case.spoilt.folder / MODEL)

    def match(tensors: dict[str, NDArray[Any]]) -> None:
        for name, wanted in trained.items():
            values = tensors[f"model.{name}"].reshape(-1)
            values[np.argsort(wanted.reshape(-1))] = np.sort(values)

    before = read_tensors(case.spoilt.folder / get_snapshot_name(0))
    case.edit_start(match)
    after = read_tensors(case.spoilt.folder / get_snapshot_name(0))
    for name in before:
        assert np.array_equal(np.sort(before[name], axis=None), np.sort(after[name], axis=None))
    case.refuse("wrong-initial-weights", "are not those that the seed gives for uniform")


def test_one_bit_of_the_start(case: Case) -> None:
    def flip(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["model.first.bias"].view(np.uint32)[0] ^= 1

    case.edit_start(flip)
    case.refuse("wrong-initial-weights", r"1 of 16 values of first\.bias")


def test_another_data_set(case: Case) -> None:
    """Other records contradict what the steps saw, and a root that fits them the registration."""

    def swap(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["data.0"][[0, 1]] = tensors["data.0"][[1, 0]]

    case.spoilt.edit_tensors(DATA, swap)
    case.refuse("data-changed", "is not the data that was recorded", case.spoilt.resubmit())


# Parents -----------------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path: Path) -> Case:
    first = train(tmp_path, seed=1)
    digest = compute_content_digest(read_model(first / MODEL))
    network = Network()
    parent = ParentModel(b"p" * 32, digest, first / MODEL)
    folder = train(tmp_path, parent=parent, register=network)
    found = Case(folder, make_registration(network.requests[0]))
    assert found.submit.initial_model_digest == digest
    return found


def test_an_honest_child_is_admitted(child: Case) -> None:
    assert child.submit.parent == b"p" * 32
    child.admit()


def test_a_child_that_names_no_parent(child: Case) -> None:
    submit = msgspec.structs.replace(child.submit, parent=b"")
    child.refuse("bad-parent", "starts from a parent's model, the submission names no", submit)


def test_a_parent_named_for_a_run_that_starts_otherwise(case: Case) -> None:
    submit = msgspec.structs.replace(case.submit, parent=b"p" * 32)
    case.refuse("bad-parent", "the recipe does not start from one", submit)


def test_a_parents_weights_changed_by_one_bit(child: Case) -> None:
    """The files then contradict the initial model digest, which the ledger compares (R8)."""

    def flip(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["model.first.weight"].reshape(-1).view(np.uint32)[3] ^= 1

    child.edit_start(flip)
    child.refuse("bad-record", r"snapshots\[0\]", child.spoilt.resubmit())
    model, _ = split_state(read_tensors(child.spoilt.folder / get_snapshot_name(0)))
    assert compute_content_digest(model) != child.submit.initial_model_digest


def test_a_part_of_a_parent(child: Case) -> None:
    recipe = read_recipe_of(child.spoilt.folder)
    mixed = (*recipe.initial[:-1], Constant(0.0))
    assert Parent() in mixed
    child.refuse("bad-recipe", "takes the whole of it", child.rewrite_recipe(initial=mixed))


# The submitter's own side ------------------------------------------------------------------------


def test_the_registration_can_be_left_out(case: Case) -> None:
    submit, _ = build_submit(case.spoilt.folder, unregistered=True)
    assert submit == msgspec.structs.replace(case.submit, registration=b"")
    validate_record(submit, FolderFiles(case.spoilt.folder))


def test_a_registration_that_is_no_id(case: Case) -> None:
    path = case.spoilt.folder / "run.json"
    path.write_text(path.read_text().replace(ID.hex(), "nothing"))
    with pytest.raises(InvalidRecord, match="names a registration or parent that is no id"):
        build_submit(case.spoilt.folder)


def test_the_request_is_what_the_recipe_becomes(case: Case) -> None:
    _, recipe = read_recipe(case.spoilt.files)
    assert case.registration.register.recipe == read_unseeded(case)
    assert recipe.seed_bytes == case.registration.seed
