"""Small Keras models on real digits, recorded.  TensorFlow is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from milepost_ml.frameworks.keras import KerasRun

RECORDS = 160
BATCH = 16
EPOCH = RECORDS // BATCH
EVERY = 5


def load_images() -> tuple[Any, Any]:
    """Digits of 8x8 pixels: float32 of shape (160, 8, 8, 1), and which they are."""
    digits = load_digits()
    images = digits.images[:RECORDS, :, :, None].astype(np.float32) / 16
    return images, digits.target[:RECORDS].astype(np.int64)


def make_run(folder: Path, **options: Any) -> KerasRun:
    """A run that says nothing and leaves retracing to the test."""
    settings: dict[str, Any] = {"every": EVERY, "seed": 3, "selfcheck": False, "quiet": True}
    return KerasRun("digits", folder=folder, **(settings | options))


def make_cnn() -> Any:
    """A compiled network with what a step can depend on: dropout, batch norm, Adam, a schedule."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, activation="relu", name="look"),
            layers.MaxPooling2D(2),
            layers.DepthwiseConv2D(2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(20, activation="gelu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(0.01, 3 * EPOCH)
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def fit(run: KerasRun, model: Any, *, epochs: int = 2, callbacks: Sequence[Any] = ()) -> Any:
    """Train on the digits; what `fit` returns."""
    images, targets = load_images()
    return model.fit(
        run.dataset(images, targets, batch_size=BATCH),
        epochs=epochs,
        shuffle=False,
        callbacks=[run.keras(), *callbacks],
        verbose=0,
    )


def record_cnn(folder: Path, **options: Any) -> Path:
    """Record two epochs of the network; returns the run's folder."""
    run = make_run(folder, **options)
    fit(run, make_cnn())
    return run.finish()
