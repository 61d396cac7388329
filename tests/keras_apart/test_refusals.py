"""What cannot be recorded is refused by name, before a verifier meets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import milepost
from milepost_ml.errors import RecordingError
from milepost_ml.frameworks.keras import KerasRun
from milepost_ml.scribe import Scribe
from tests.support.keras_training import BATCH, EPOCH, fit, load_images, make_cnn, make_run

LOSSES, OPTIMIZERS = keras.losses, keras.optimizers
SPARSE = "sparse_categorical_crossentropy"


class Mine(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


class Own(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(10, activation="softmax")

    def call(self, x: Any) -> Any:
        return self.dense(self.flatten(x))


def make_model(*inner: Any, optimizer: Any = "sgd", loss: Any = SPARSE, **options: Any) -> Any:
    """A model of the digits with some layers in it, compiled."""
    last = layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), *inner, layers.Flatten(), last])
    model.compile(optimizer, loss, **options)
    return model


def make_functional(connect: Callable[[Any], Any]) -> Any:
    start = keras.Input((8, 8, 1))
    model = keras.Model(start, connect(layers.Flatten()(start)))
    model.compile("sgd", SPARSE)
    return model


def make_own() -> Any:
    model = Own()
    model.compile("sgd", SPARSE)
    return model


def refuse(folder: Path, model: Any, callbacks: Sequence[Any] = ()) -> RecordingError:
    run = make_run(folder)
    with pytest.raises(RecordingError) as caught:
        fit(run, model, callbacks=callbacks)
    return caught.value


def make_open() -> Any:
    start = keras.Input((None, None, 1))
    model = keras.Model(start, layers.Dense(10)(layers.GlobalAveragePooling2D()(start)))
    model.compile("sgd", SPARSE)
    return model


def make_unbegun() -> Any:
    model = keras.Sequential([layers.Flatten(), layers.Dense(10, activation="softmax")])
    model.compile("sgd", SPARSE)
    return model


def my_loss(target: Any, output: Any) -> Any:
    return keras.ops.mean(output)


def decay_most() -> Any:
    optimizer = OPTIMIZERS.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "lambda": (lambda: make_model(layers.Lambda(lambda x: x)), "is a Lambda"),
    "custom-layer": (lambda: make_model(Mine()), "class Mine"),
    "unlisted-layer": (lambda: make_model(layers.Conv2DTranspose(2, 2)), "is a Conv2DTranspose"),
    "custom-activation": (
        lambda: make_model(layers.Dense(3, activation=lambda x: x)),
        "activation",
    ),
    "regularizer": (
        lambda: make_model(layers.Dense(3, kernel_regularizer="l2")),
        "kernel_regularizer",
    ),
    "constraint": (
        lambda: make_model(layers.Dense(3, bias_constraint="non_neg")),
        "bias_constraint",
    ),
    "groups": (lambda: make_model(layers.Conv2D(2, 2), layers.Conv2D(2, 2, groups=2)), "groups=2"),
    "mixed-precision": (
        lambda: make_model(layers.Dense(3, dtype="mixed_bfloat16")),
        "mixed_bfloat16",
    ),
    "nested": (lambda: make_model(keras.Sequential([layers.Dense(2)])), "inside another"),
    "subclass": (make_own, "Own is a model class of its own"),
    "operation": (
        lambda: make_functional(lambda x: layers.Dense(10)(x) + 1.0),
        "use layers instead",
    ),
    "two-outputs": (
        lambda: make_functional(lambda x: [layers.Dense(10)(x), layers.Dense(10)(x)]),
        "2 outputs",
    ),
    "no-input": (make_unbegun, "keras.Input"),
    "open-shape": (make_open, "open shape"),
    "custom-loss": (lambda: make_model(loss=my_loss), "my_loss"),
    "loss-option": (
        lambda: make_model(loss=LOSSES.SparseCategoricalCrossentropy(ignore_class=3)),
        "ignore_class=3",
    ),
    "unlisted-loss": (lambda: make_model(loss="kl_divergence"), "kl_divergence"),
    "loss-weights": (lambda: make_model(loss_weights=[2.0]), "loss_weights"),
    "steps-per-execution": (lambda: make_model(steps_per_execution=2), "steps_per_execution"),
    "rmsprop": (lambda: make_model(optimizer="rmsprop"), "RMSprop"),
    "ema": (lambda: make_model(optimizer=OPTIMIZERS.Adam(use_ema=True)), "use_ema"),
    "accumulation": (
        lambda: make_model(optimizer=OPTIMIZERS.SGD(gradient_accumulation_steps=2)),
        "gradient_accumulation_steps",
    ),
    "loss-scale": (
        lambda: make_model(optimizer=OPTIMIZERS.LossScaleOptimizer(OPTIMIZERS.SGD())),
        "LossScaleOptimizer",
    ),
    "exclusion": (lambda: make_model(optimizer=decay_most()), "exclude_from_weight_decay"),
    "target": (lambda: make_model(loss="mse"), "targets []"),
}


SLUGS = {
    "unsupported-optimizer": ["rmsprop", "ema", "accumulation", "loss-scale", "exclusion"],
    "bad-recipe": ["target"],
}
"""Of what is not about the model."""


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, what = MODELS[name]
    error = refuse(tmp_path, make())
    expected = next((slug for slug, names in SLUGS.items() if name in names), "unsupported-model")
    assert (error.slug, what in str(error)) == (expected, True), str(error)
    assert not list(tmp_path.iterdir()), "nothing is written for what is refused"


def test_an_optimizer_that_has_taken_steps_is_refused(tmp_path: Path) -> None:
    images, targets = load_images()
    model = make_cnn()
    model.fit(images, targets, batch_size=BATCH, verbose=0)
    assert refuse(tmp_path, model).slug == "used-optimizer"


def test_layers_frozen_after_the_optimizer_was_made_for_them_are_refused(tmp_path: Path) -> None:
    model = make_cnn()
    model.optimizer.build(model.trainable_variables)
    model.layers[0].trainable = False
    error = refuse(tmp_path, model)
    assert (error.slug, "after freezing" in str(error)) == ("unsupported-optimizer", True)


@pytest.mark.parametrize(
    "option", [{"shuffle": True}, {"class_weight": {3: 2.0}, "shuffle": False}]
)
def test_batches_that_are_not_the_runs_are_noticed(option: dict[str, Any], tmp_path: Path) -> None:
    run, model = make_run(tmp_path), make_cnn()
    data = run.dataset(*load_images(), batch_size=BATCH)
    with pytest.raises(RecordingError, match=r"shuffle=False") as caught:
        model.fit(data, callbacks=[run.keras()], verbose=0, **option)
    assert caught.value.slug == "wrong-order"


def test_other_data_than_the_runs_are_noticed(tmp_path: Path) -> None:
    run, model = make_run(tmp_path), make_cnn()
    images, targets = load_images()
    with pytest.raises(RecordingError, match=r"run\.dataset"):
        model.fit(images, targets, callbacks=[run.keras()], verbose=0)
    run.dataset(images, targets, batch_size=BATCH)
    with pytest.raises(RecordingError, match="another batch"):
        model.fit(images[::-1], targets[::-1], batch_size=BATCH, callbacks=[run.keras()], verbose=0)
    assert model.train_function is None, "a later fit is Keras's own"


class Meddling(keras.callbacks.Callback):  # type: ignore[misc]
    """Changes a weight between two epochs."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        kernel = self.model.layers[0].kernel
        kernel.assign(kernel * 0.5)


def test_weights_changed_between_epochs_are_noticed(tmp_path: Path) -> None:
    error = refuse(tmp_path, make_cnn(), [Meddling()])
    assert (error.slug, f"step {EPOCH}" in str(error)) == ("undeclared-change", True)


def test_a_diverged_training_is_not_recorded(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(1)])
    model.compile(OPTIMIZERS.SGD(1e6), "mse")
    assert refuse(tmp_path, model).slug == "not-finite"


def test_settings_and_data_are_checked_first(tmp_path: Path) -> None:
    images, targets = load_images()
    for options in ({"every": 0}, {"seed": -1}):
        with pytest.raises(RecordingError) as caught:
            make_run(tmp_path, **options)
        assert caught.value.slug == "bad-plan"
    keras.config.set_dtype_policy("mixed_float16")
    with pytest.raises(RecordingError, match="mixed precision"):
        make_run(tmp_path)
    keras.config.set_dtype_policy("float32")
    with pytest.raises(RecordingError, match="PyTorch"):
        make_run(tmp_path, profile="exact")
    with pytest.raises(RecordingError, match="cannot be called"):
        KerasRun("a/b", every=1)
    with pytest.raises(RecordingError, match="loss= is for models of PyTorch"):
        milepost.Run("digits", every=1, loss=my_loss)
    for data in ((images, targets[:3]), (iter(()), targets), (images.astype("S3"), targets)):
        with pytest.raises(RecordingError) as caught:
            make_run(tmp_path).dataset(*data, batch_size=BATCH)
        assert caught.value.slug == "bad-data"
    with pytest.raises(RecordingError, match="NaN"):
        make_run(tmp_path).dataset(np.full((4, 2), np.nan), targets[:4], batch_size=2)
    with pytest.raises(RecordingError, match="batch_size"):
        make_run(tmp_path).dataset(images, targets, batch_size=10**6)
    with pytest.raises(RecordingError, match="nothing was recorded"):
        make_run(tmp_path).finish()


@pytest.mark.parametrize(
    ("accident", "told"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError("none for the digest"), "MemoryError: none for the digest"),
    ],
    ids=["disk", "memory"],
)
def test_what_goes_wrong_with_the_record_ends_it_and_not_the_training(
    accident: Exception,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse_to_write(scribe: Scribe) -> None:
        raise accident

    monkeypatch.setattr(Scribe, "_close_interval", refuse_to_write)
    run = make_run(tmp_path, quiet=False)
    history = fit(run, make_cnn(), epochs=3).history
    assert len(history["loss"]) == 3
    run.finish()
    text = capsys.readouterr().err
    assert text.count("NOT COMPLETE") == 1
    assert told in text


def test_a_self_check_that_cannot_be_begun_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_to_start(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("milepost_ml.selfcheck.start_check", refuse_to_start)
    run = make_run(tmp_path, quiet=False, selfcheck=True)
    fit(run, make_cnn())
    assert '"complete": true' in (run.finish() / "run.json").read_text()
    assert "the self-check could not be made: Resource" in capsys.readouterr().err
