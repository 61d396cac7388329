"""Builds what a recipe declares: layers, loss and optimizer, from Keras's own classes.

Nothing of a record is deserialised: the class is the one of the declaration's own type, and its
arguments are values that the recipe's rules have checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milepost_ml.keras_graph import KerasGraph, KerasLoss, Outline
from milepost_ml.keras_layers import (
    Add,
    AnyLayer,
    BatchNormalization,
    Concatenate,
    Dropout,
    MultiHeadAttention,
)
from milepost_ml.keras_optimizers import KerasOptimizer
from milepost_ml.keras_training.device import load_keras

_TRAINING = (BatchNormalization, Dropout, MultiHeadAttention)
"""Layers that compute otherwise while they are trained."""


def _get_settings(declared: AnyLayer | KerasLoss | KerasOptimizer) -> dict[str, Any]:
    """The keyword arguments of a declaration, whose fields are named like them."""
    return {name: getattr(declared, name) for name in declared.__struct_fields__}


def make_layer(declared: AnyLayer) -> Any:
    """The declared layer, without weights yet."""
    make = getattr(load_keras().keras.layers, type(declared).__name__)
    return make(**_get_settings(declared), dtype="float32")


def make_loss(declared: KerasLoss) -> Any:
    """The declared loss: a function of targets and outputs."""
    make = getattr(load_keras().keras.losses, type(declared).__name__)
    return make(**_get_settings(declared))


def make_optimizer(declared: KerasOptimizer) -> Any:
    """The declared optimizer; its learning rate is set before every step."""
    name = type(declared).__name__.removeprefix("Keras")
    make = getattr(load_keras().keras.optimizers, name)
    return make(learning_rate=0.0, **_get_settings(declared))


def run_layers(graph: KerasGraph, layers: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """The output for inputs, in training; both may be symbolic."""
    values = list(inputs)
    for call in graph.calls:
        declared, layer = graph.layers[call.layer].layer, layers[call.layer]
        taken = [values[index] for index in call.inputs]
        options = {"training": True} if isinstance(declared, _TRAINING) else {}
        if call.causal:
            options["use_causal_mask"] = True
        merges = isinstance(declared, Add | Concatenate)
        values.append(layer(taken, **options) if merges else layer(*taken, **options))
    return values[graph.output]


def build_layers(graph: KerasGraph) -> list[Any]:
    """Every declared layer with its weights."""
    keras = load_keras().keras
    layers = [make_layer(item.layer) for item in graph.layers]
    inputs = [keras.Input(item.shape, dtype=item.dtype) for item in graph.inputs]
    output = run_layers(graph, layers, inputs)
    assert output.shape[1:] == Outline(graph).output
    for item, layer in zip(graph.layers, layers, strict=True):
        layer.trainable = item.trainable
    return layers


def get_variables(graph: KerasGraph, layers: Sequence[Any]) -> dict[str, Any]:
    """The variables of built layers by the names under which they are recorded, in that order."""
    held: dict[str, Any] = {}
    for place, (item, layer) in enumerate(zip(graph.layers, layers, strict=True)):
        for variable in layer.weights:
            name = variable.path.removeprefix(f"{layer.path}/").replace("/", ".")
            held[f"{place}.{item.layer.__struct_config__.tag}.{name}"] = variable
    wanted = {name: weight for name, weight, _ in Outline(graph).iterate_weights()}
    assert sorted(held) == sorted(wanted), sorted(set(held) ^ set(wanted))
    assert all(tuple(held[name].shape) == weight.shape for name, weight in wanted.items())
    return {name: held[name] for name in wanted}


def get_seed_states(layers: Sequence[Any]) -> list[Any]:
    """The variables from which layers draw their random numbers, in order."""
    return [
        generator.state
        for layer in layers
        for part in layer._flatten_layers()
        for generator in part._seed_generators
    ]
