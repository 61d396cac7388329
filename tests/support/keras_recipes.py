"""A small recipe of Keras layers, made by hand."""

from __future__ import annotations

from milepost_ml.initial import Given
from milepost_ml.keras_graph import (
    Call,
    KerasGraph,
    KerasInput,
    KerasLayer,
    Outline,
    SparseCategoricalCrossentropy,
)
from milepost_ml.keras_layers import AnyLayer, BatchNormalization, Dense, Dropout
from milepost_ml.keras_optimizers import KerasAdam
from milepost_ml.recipe import Parameter, Recipe
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import Group


def make_keras_graph() -> KerasGraph:
    """Four numbers in, three out."""
    layers: list[AnyLayer] = [
        Dense(4, "relu", True),
        BatchNormalization(0.9, 1e-3, True, True),
        Dropout(0.1),
        Dense(3, "softmax", True),
    ]
    return KerasGraph(
        inputs=(KerasInput((4,), "float32"),),
        layers=tuple(KerasLayer(layer, True) for layer in layers),
        calls=tuple(Call(place, (place,), False) for place in range(len(layers))),
        output=len(layers),
        loss=SparseCategoricalCrossentropy(from_logits=False),
    )


def make_keras_recipe(device_class: str = "tensorflow-2.21.0/kat-0000000000000000") -> Recipe:
    """Ten records, batches of two, seven steps in intervals of three."""
    graph = make_keras_graph()
    tensors = list(Outline(graph).iterate_weights())
    return Recipe(
        device_class=device_class,
        seed="00" * 32,
        data=(TensorSpec("data.0", "F32", (10, 4)), TensorSpec("data.1", "I64", (10,))),
        batch_size=2,
        steps=7,
        steps_per_interval=3,
        steps_per_digest=1,
        parameters=tuple(
            Parameter(name, weight.shape, trained)
            for name, weight, trained in tensors
            if not weight.moving
        ),
        buffers=tuple(
            TensorSpec(name, "F32", weight.shape) for name, weight, _ in tensors if weight.moving
        ),
        initial=tuple(Given() for _ in tensors),
        groups=(
            Group(
                tuple(name for name, _, trained in tensors if trained),
                KerasAdam(None, None, None, None, 0.9, 0.999, 1e-7, False),
                ((3, 0.1), (4, 0.05)),
            ),
        ),
        graph=graph,
        profile="class",
    )
