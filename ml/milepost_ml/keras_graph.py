"""A step's computation as Keras layers: architecture and loss, as data.

Values are numbered: the graph's inputs in order, then its calls in order.  A call refers to
earlier values only.  Tensors are named by the place of their layer ("2.dense.kernel"), because
Keras numbers its own names by what else a process has made.  `validate_keras_graph` knows every
shape and the size of a step before any framework is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from milepost_ml.errors import InvalidRecord
from milepost_ml.keras_layers import (
    MAX_RANK,
    MAX_SIDE,
    AnyLayer,
    MultiHeadAttention,
    Shape,
    Weight,
)
from milepost_ml.snapshots import TensorSpec

MAX_LAYERS: Final = 1_000
MAX_CALLS: Final = 2_000
MAX_INPUTS: Final = 7
"""One data tensor less than a record may hold: the last is the target."""
MAX_VALUES: Final = 2**30
"""Numbers that all layers of one step may make together: 4 GiB of float32."""
DEVICE_PREFIX: Final = "tensorflow-"
"""What the device class of a Keras recipe begins with, and of no other."""


class KerasInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input of the model, without its batch dimension; data of another type are converted."""

    shape: Shape
    dtype: Literal["float32", "int32", "int64", "uint8"]


class KerasLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer of the model; one that is not trainable is frozen as Keras freezes it."""

    layer: AnyLayer
    trainable: bool


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One application of layer number `layer` to earlier values; `causal` for attention only."""

    layer: int
    inputs: tuple[int, ...]
    causal: bool


class _Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A loss of the same name in `keras.losses`, averaged over the batch."""


class SparseCategoricalCrossentropy(_Loss, frozen=True, tag="sparse-categorical-crossentropy"):
    from_logits: bool


class CategoricalCrossentropy(_Loss, frozen=True, tag="categorical-crossentropy"):
    from_logits: bool
    label_smoothing: float


class BinaryCrossentropy(_Loss, frozen=True, tag="binary-crossentropy"):
    from_logits: bool
    label_smoothing: float


class MeanSquaredError(_Loss, frozen=True, tag="mean-squared-error"):
    pass


class MeanAbsoluteError(_Loss, frozen=True, tag="mean-absolute-error"):
    pass


KerasLoss = (
    BinaryCrossentropy
    | CategoricalCrossentropy
    | MeanAbsoluteError
    | MeanSquaredError
    | SparseCategoricalCrossentropy
)


class KerasGraph(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="keras"
):
    """Forward and loss of a model with one output, which is value number `output`."""

    inputs: tuple[KerasInput, ...]
    layers: tuple[KerasLayer, ...]
    calls: tuple[Call, ...]
    output: int
    loss: KerasLoss


def get_tensor_name(place: int, layer: AnyLayer, weight: Weight) -> str:
    """The name under which a layer's tensor is recorded."""
    return f"{place}.{layer.__struct_config__.tag}.{weight.name}"


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


class Outline:
    """The shapes of a sound graph; making one raises InvalidRecord for any other."""

    def __init__(self, graph: KerasGraph) -> None:
        _require(1 <= len(graph.inputs) <= MAX_INPUTS, f"{len(graph.inputs)} inputs of a model")
        count = len(graph.layers)
        _require(1 <= count <= MAX_LAYERS, f"{count} layers, 1 to {MAX_LAYERS} are possible")
        count = len(graph.calls)
        _require(1 <= count <= MAX_CALLS, f"{count} calls, 1 to {MAX_CALLS} are possible")
        self._graph = graph
        self.shapes: list[Shape] = []
        """Of every value, without the batch."""
        self.values = 0
        """How many numbers one record makes on its way through the model."""
        self._weights: dict[int, tuple[Weight, ...]] = {}
        for item in graph.inputs:
            _require(
                1 <= len(item.shape) <= MAX_RANK and all(1 <= n <= MAX_SIDE for n in item.shape),
                f"an input of shape {list(item.shape)[:MAX_RANK]}",
            )
            self.shapes.append(item.shape)
            self.values += math.prod(item.shape)
        for each in graph.layers:
            each.layer.validate()
        for call in graph.calls:
            self._add(call)
        _require(len(self._weights) == len(graph.layers), "a layer is never called")
        _require(
            len(graph.inputs) <= graph.output < len(self.shapes), "the output is no call's result"
        )
        self._validate_use()

    @property
    def output(self) -> Shape:
        return self.shapes[self._graph.output]

    def iterate_weights(self) -> Iterator[tuple[str, Weight, bool]]:
        """Every tensor of the model: its name, what it is, whether it is trained."""
        for place, item in enumerate(self._graph.layers):
            for weight in self._weights[place]:
                name = get_tensor_name(place, item.layer, weight)
                yield name, weight, item.trainable and not weight.moving

    def _add(self, call: Call) -> None:
        _require(0 <= call.layer < len(self._graph.layers), "a call of no layer")
        layer = self._graph.layers[call.layer].layer
        _require(
            bool(call.inputs) and all(0 <= each < len(self.shapes) for each in call.inputs),
            "a call takes a value that is computed only later",
        )
        _require(
            not call.causal or isinstance(layer, MultiHeadAttention),
            "only attention can be causal",
        )
        inputs = [self.shapes[each] for each in call.inputs]
        shape = layer.compute_output(inputs)
        _require(
            len(shape) <= MAX_RANK and all(1 <= side <= MAX_SIDE for side in shape),
            f"a layer gives the shape {list(shape)[:MAX_RANK]}",
        )
        weights = layer.get_weights(inputs)
        _require(
            self._weights.setdefault(call.layer, weights) == weights,
            "a layer is called with inputs that need other weights",
        )
        self.shapes.append(shape)
        self.values += layer.count_values(inputs)

    def _validate_use(self) -> None:
        """Every call must lead to the output: what does not would have no gradient."""
        first = len(self._graph.inputs)
        needed = {self._graph.output}
        for place in range(len(self.shapes) - 1, first - 1, -1):
            _require(place in needed, "a call does not lead to the output")
            needed.update(self._graph.calls[place - first].inputs)
        _require(needed >= set(range(first)), "an input does not lead to the output")


def validate_loss(loss: KerasLoss, output: Shape, target: Shape) -> None:
    """Raises InvalidRecord unless a loss compares outputs with targets of these shapes."""
    for name in loss.__struct_fields__:
        value = getattr(loss, name)
        _require(isinstance(value, bool) or 0 <= value < 1, f"{name} = {value}")
    if isinstance(loss, SparseCategoricalCrossentropy):
        fits = target in (output[:-1], (*output[:-1], 1))
    else:
        fits = target == output or (*target, 1) == output
    _require(fits, f"the loss compares outputs {list(output)} with targets {list(target)}")


def validate_keras_graph(
    graph: KerasGraph, data: Sequence[TensorSpec], *, batch_size: int
) -> Outline:
    """Raises InvalidRecord (bad-recipe) unless a verifier can follow the graph; its outline."""
    outline = Outline(graph)
    inputs, target = data[:-1], data[-1]
    _require(
        [item.shape for item in graph.inputs] == [spec.shape[1:] for spec in inputs],
        "the data do not have the shapes of the model's inputs",
    )
    validate_loss(graph.loss, outline.output, target.shape[1:])
    total = batch_size * outline.values
    _require(total <= MAX_VALUES, f"one step makes {total} values, at most {MAX_VALUES}")
    return outline
