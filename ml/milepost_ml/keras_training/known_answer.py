"""A small training whose bits tell one arithmetic of TensorFlow from another."""

from __future__ import annotations

from typing import Final

import numpy as np

from milepost_ml.digests import compute_content_digest
from milepost_ml.keras_graph import (
    Call,
    KerasGraph,
    KerasInput,
    KerasLayer,
    SparseCategoricalCrossentropy,
)
from milepost_ml.keras_layers import (
    AnyLayer,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    LayerNormalization,
    MaxPooling2D,
    MultiHeadAttention,
    Reshape,
)
from milepost_ml.keras_optimizers import KerasAdamW
from milepost_ml.keras_training.building import build_layers, make_optimizer
from milepost_ml.keras_training.training_step import TrainingStep, assign_values

_KEY: Final = 20260101
_SEED: Final = bytes(32)
_STEPS: Final = 3
_BATCH: Final = 32


def _make_graph() -> KerasGraph:
    """One layer of each kind whose kernels differ between machines, in a row."""
    layers: list[AnyLayer] = [
        Conv2D(8, (5, 5), (1, 1), "same", (1, 1), "linear", True),
        BatchNormalization(0.9, 1e-3, True, True),
        MaxPooling2D((2, 2), (2, 2), "valid"),
        DepthwiseConv2D((3, 3), (1, 1), "same", 1, "relu", True),
        Conv2D(16, (3, 3), (2, 2), "valid", (1, 1), "silu", False),
        Flatten(),
        Dense(64, "gelu", True),
        LayerNormalization(1e-3, True, True),
        Reshape((4, 16)),
        MultiHeadAttention(2, 8, 8, 0.1, True),
        Flatten(),
        Dropout(0.2),
        Dense(10, "linear", True),
    ]
    attention = next(i for i, layer in enumerate(layers) if isinstance(layer, MultiHeadAttention))
    return KerasGraph(
        inputs=(KerasInput((28, 28, 1), "float32"),),
        layers=tuple(KerasLayer(layer, True) for layer in layers),
        calls=tuple(
            Call(place, (place, place) if place == attention else (place,), False)
            for place in range(len(layers))
        ),
        output=len(layers),
        loss=SparseCategoricalCrossentropy(from_logits=True),
    )


def compute_known_answer() -> bytes:
    """The content digest of the model after a few steps; TensorFlow must be configured."""
    graph = _make_graph()
    declared = KerasAdamW(0.01, None, None, None, 0.9, 0.999, 1e-7, False)
    optimizer = make_optimizer(declared)
    optimizer.learning_rate.assign(0.01)
    training = TrainingStep(graph, declared, build_layers(graph), optimizer)
    words = np.random.Philox(key=_KEY)

    def draw(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        drawn = (words.random_raw(int(np.prod(shape))) >> 40).astype(np.float32)
        return (drawn * np.float32(2.0**-25) - np.float32(0.25)).reshape(shape)

    start = {name: draw(tuple(variable.shape)) for name, variable in training.variables.items()}
    for name, values in start.items():
        if name.endswith("moving_variance"):
            np.abs(values, out=values)
    assign_values(training.variables, start)
    images = draw((_BATCH, 28, 28, 1))
    labels = (words.random_raw(_BATCH) % 10).astype(np.int64)
    for step in range(_STEPS):
        training.reseed(_SEED, step)
        training.run([images], labels)
    return compute_content_digest(training.read_state()[0])
