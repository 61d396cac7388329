"""Keras runs that are registered first, and runs that continue a judged model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import milepost
from milepost.errors import CannotTell, WrongUsage
from milepost_consensus.crypto import compute_digest
from milepost_ml.admission import build_submit, validate_record
from milepost_ml.digests import compute_content_digest
from milepost_ml.errors import RecordingError
from milepost_ml.files import MODEL, RUN, FolderFiles, get_snapshot_name
from milepost_ml.frameworks.keras import KerasRun
from milepost_ml.initial import Constant, Normal, Parent, Uniform, derive_tensor
from milepost_ml.model_files import read_model
from milepost_ml.recipe import Recipe, compute_unseeded_digest, get_model_specs, get_rates
from milepost_ml.record_files import read_recipe
from milepost_ml.registration import ParentModel
from milepost_ml.replay import retrace_recorded
from milepost_ml.snapshots import read_tensors
from tests.support.crashes import assert_same_record, copy_running
from tests.support.keras_training import EPOCH, EVERY, fit, make_cnn, make_run
from tests.support.registering import SEED, Network, make_registration

SUBMISSION = compute_digest("test", b"parent")


def record(
    folder: Path,
    make: Callable[[], Any] = make_cnn,
    *,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> tuple[Path, Recipe]:
    run = make_run(folder, **({"seed": None} | options))
    fit(run, make(), callbacks=callbacks)
    found = run.finish()
    return found, read_recipe(FolderFiles(found))[1]


def test_order_dropout_and_weights_follow_from_the_networks_seed(tmp_path: Path) -> None:
    network = Network()
    folder, recipe = record(tmp_path, register=network, initial={"8.dense.bias": Normal(0.5)})
    (request,) = network.requests
    assert recipe.seed_bytes == SEED
    assert request.recipe == compute_unseeded_digest(recipe)
    submit, _ = build_submit(folder)
    assert request[1:] == (submit.dataset_root, submit.records, b"")
    assert json.loads((folder / RUN).read_text())["registration"]["number"] == 1
    start = read_tensors(folder / get_snapshot_name(0))
    found = dict(zip((spec.name for spec in get_model_specs(recipe)), recipe.initial, strict=True))
    assert found["0.conv2d.kernel"] == Uniform(np.sqrt(6 / (9 + 9 * 6)))
    assert found["8.dense.bias"] == Normal(0.5)
    assert found["3.batch-normalization.moving_variance"] == Constant(1.0)
    for spec in get_model_specs(recipe):
        initial = found[spec.name]
        assert isinstance(initial, Constant | Uniform | Normal)
        values = derive_tensor(SEED, spec, initial)
        assert values.tobytes() == start[f"model.{spec.name}"].tobytes()
    validate_record(submit, FolderFiles(folder), make_registration(request))
    assert retrace_recorded(folder, 1).agrees


def test_the_schedule_is_registered_before_the_first_step(tmp_path: Path) -> None:
    _, recipe = record(tmp_path, register=Network())
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 3 * EPOCH)
    expected = tuple(float(schedule(step)) for step in range(2 * EPOCH))
    assert get_rates(recipe, range(2 * EPOCH)) == expected


def make_plain() -> Any:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, activation="softmax")]
    )
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def halve() -> Any:
    return keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2)


def test_rates_that_callbacks_set_are_told_or_refused(tmp_path: Path) -> None:
    schedule = [0.05] * EPOCH + [0.025] * EPOCH
    told: dict[str, Any] = {"register": Network(), "schedule": schedule, "callbacks": [halve()]}
    _, recipe = record(tmp_path, make_plain, **told)
    lengths, rates = zip(*recipe.groups[0].rates, strict=True)
    assert lengths == (EPOCH, EPOCH)
    assert np.array_equal(rates, np.array([0.05, 0.025], np.float32))
    with pytest.raises(RecordingError, match=r"step 0 used the learning rate 0\.05") as caught:
        record(tmp_path, make_plain, register=Network(), callbacks=[halve()])
    assert caught.value.slug == "not-registered-recipe"
    with pytest.raises(RecordingError, match="3 learning rates for 20 steps"):
        record(tmp_path, make_plain, register=Network(), schedule=[0.1] * 3)


INITIALIZERS: list[tuple[Any, Uniform | Normal | Constant | None]] = [
    ("zeros", Constant(0.0)),
    (keras.initializers.Constant(0.25), Constant(0.25)),
    ("he_uniform", Uniform(np.sqrt(6 / 64))),
    ("lecun_uniform", Uniform(np.sqrt(3 / 64))),
    (keras.initializers.RandomUniform(-0.1, 0.1), Uniform(0.1)),
    (keras.initializers.RandomNormal(0.0, 0.3), Normal(0.3)),
    (keras.initializers.VarianceScaling(3.0, "fan_out", "uniform"), Uniform(np.sqrt(9 / 10))),
    (keras.initializers.RandomUniform(0.0, 0.1), None),
    (keras.initializers.RandomNormal(0.1, 0.3), None),
    ("he_normal", None),
    ("orthogonal", None),
    (lambda shape, dtype: keras.ops.ones(shape, dtype), None),
]


@pytest.mark.parametrize(("initializer", "expected"), INITIALIZERS)
def test_a_layer_starts_by_its_initializer(initializer: Any, expected: Any, tmp_path: Path) -> None:
    def make() -> Any:
        last = layers.Dense(10, activation="softmax", kernel_initializer=initializer)
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), last])
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    if expected is None:
        with pytest.raises(RecordingError, match=r"1\.dense\.kernel") as caught:
            record(tmp_path, make, initial={})
        assert caught.value.slug == "no-initial-rule"
        assert record(tmp_path, make, initial={"1.dense.kernel": Normal(0.1)})[1].initial
    else:
        assert record(tmp_path, make, initial={})[1].initial[0] == expected
        values = make().layers[-1].kernel.numpy()
        if isinstance(expected, Uniform):
            assert 0.95 * expected.bound < np.abs(values).max() <= expected.bound
        if isinstance(expected, Normal):
            assert abs(values.std() - expected.std) < 0.1 * expected.std


def test_a_name_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="'dense', which is no tensor"):
        record(tmp_path, make_plain, initial={"dense": Normal(1.0)})


def test_a_judged_model_is_continued(tmp_path: Path) -> None:
    first, _ = record(tmp_path / "first")
    weights = read_model(first / MODEL)
    parent = ParentModel(SUBMISSION, compute_content_digest(weights), first / MODEL)
    folder, recipe = record(tmp_path / "second", parent=parent, register=Network())
    assert set(recipe.initial) == {Parent()}
    start = read_tensors(folder / get_snapshot_name(0))
    assert all(np.array_equal(start[f"model.{name}"], weights[name]) for name in weights)
    assert build_submit(folder)[0].parent == SUBMISSION
    assert build_submit(folder)[0].initial_model_digest == parent.model_digest
    with pytest.raises(RecordingError, match="does not hold the weights of its parent") as caught:
        record(tmp_path / "third", parent=parent._replace(weights=None))
    assert caught.value.slug == "other-weights"
    with pytest.raises(RecordingError) as caught:
        record(tmp_path / "fourth", make_plain, parent=parent)
    assert caught.value.slug == "wrong-architecture"


class Photograph(keras.callbacks.Callback):  # type: ignore[misc]
    """Copies the folder at the beginning of the second epoch."""

    def __init__(self, run: KerasRun, parent: Path) -> None:
        super().__init__()
        self._run, self._parent = run, parent

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            assert self._run.folder is not None
            copy_running(self._run.folder, self._parent)


def test_a_registered_run_is_resumed_without_registering_again(tmp_path: Path) -> None:
    network = Network()
    run = make_run(tmp_path / "whole", seed=None, register=network)
    fit(run, make_cnn(), callbacks=[Photograph(run, tmp_path / "crashed")])
    whole = run.finish()
    resumed, _ = record(tmp_path / "crashed", register=network, resume=True)
    assert len(network.requests) == 1
    assert_same_record(whole, resumed)


def test_a_registered_run_keeps_to_its_steps(tmp_path: Path) -> None:
    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = True

    network = Network()
    folder, recipe = record(tmp_path, register=network, callbacks=[Stop()])
    assert recipe.steps == EPOCH
    assert network.requests[0].recipe != compute_unseeded_digest(recipe)
    with pytest.raises(RecordingError, match="exclude each other"):
        make_run(tmp_path, register=network)
    validate_record(build_submit(folder, unregistered=True)[0], FolderFiles(folder))


def test_a_script_names_network_and_parent_as_for_pytorch(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage) as wrong:
        milepost.Run("digits", every=EVERY, register=tmp_path)
    assert wrong.value.slug == "no-network"
    with pytest.raises(CannotTell) as untold:
        milepost.Run("digits", every=EVERY, parent=tmp_path)
    assert untold.value.slug == "no-proof"
