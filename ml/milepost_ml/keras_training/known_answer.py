"""A small training whose bits tell one arithmetic of TensorFlow from another."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

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

if TYPE_CHECKING:
    from milepost_ml.digests import Array

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


class _KnownAnswer:
    """The training, built and traced once a process, done anew whenever it is asked for."""

    def __init__(self) -> None:
        graph = _make_graph()
        declared = KerasAdamW(0.01, None, None, None, 0.9, 0.999, 1e-7, False)
        self._optimizer = make_optimizer(declared)
        self._optimizer.learning_rate.assign(0.01)
        self._training = TrainingStep(graph, declared, build_layers(graph), self._optimizer)
        words = np.random.Philox(key=_KEY)
        self._start = {
            name: _draw(words, tuple(variable.shape))
            for name, variable in self._training.variables.items()
        }
        for name, values in self._start.items():
            if name.endswith("moving_variance"):
                np.abs(values, out=values)
        self._images = _draw(words, (_BATCH, 28, 28, 1))
        self._labels = (words.random_raw(_BATCH) % 10).astype(np.int64)

    def compute(self) -> bytes:
        """The content digest of the model after a few steps from the start."""
        assign_values(self._training.variables, self._start)
        assign_values(self._training.slots, {})
        self._optimizer.iterations.assign(0)
        for step in range(_STEPS):
            self._training.reseed(_SEED, step)
            self._training.run([self._images], self._labels)
        return compute_content_digest(self._training.read_state()[0])


def _draw(words: np.random.Philox, shape: tuple[int, ...]) -> Array:
    drawn = (words.random_raw(int(np.prod(shape))) >> 40).astype(np.float32)
    return (drawn * np.float32(2.0**-25) - np.float32(0.25)).reshape(shape)


_get_known_answer: Final = functools.cache(_KnownAnswer)


def compute_known_answer() -> bytes:
    """What comes out here and now; TensorFlow must be configured."""
    return _get_known_answer().compute()
