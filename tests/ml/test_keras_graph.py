"""Declared Keras models are judged, and measured, before any framework is loaded."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from milepost_ml.augmentation import Flip
from milepost_ml.errors import InvalidRecord
from milepost_ml.keras_graph import (
    MAX_CALLS,
    MAX_LAYERS,
    MAX_VALUES,
    BinaryCrossentropy,
    Call,
    CategoricalCrossentropy,
    KerasGraph,
    KerasInput,
    KerasLayer,
    MeanSquaredError,
    Outline,
    SparseCategoricalCrossentropy,
    validate_loss,
)
from milepost_ml.keras_layers import (
    MAX_SIDE,
    Activation,
    Add,
    AnyLayer,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    LayerNormalization,
    MaxPooling2D,
    MultiHeadAttention,
    ReLU,
    Rescaling,
    Reshape,
)
from milepost_ml.keras_optimizers import KerasAdam, KerasSGD
from milepost_ml.recipe import Recipe, decode_recipe, encode_recipe, get_optimizer_specs
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import SGD, ClipValue
from tests.support.keras_recipes import make_keras_graph, make_keras_recipe
from tests.support.recipes import make_graph

Change = dict[str, Any]
(GROUP,) = make_keras_recipe().groups


def regroup(**change: Any) -> Change:
    """The recipe's one parameter group otherwise."""
    return {"groups": (msgspec.structs.replace(GROUP, **change),)}


def refuse(recipe: Recipe) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        decode_recipe(encode_recipe(recipe))
    return caught.value


def test_a_recipe_of_layers_is_read_back() -> None:
    recipe = make_keras_recipe()
    assert decode_recipe(encode_recipe(recipe)) == recipe
    assert [spec.name for spec in get_optimizer_specs(recipe, 1)] == [
        f"{item.name}.{slot}"
        for item in recipe.parameters
        if item.trained
        for slot in ("momentum", "velocity")
    ]
    assert get_optimizer_specs(recipe, 0) == ()


def test_judging_a_recipe_of_layers_loads_no_framework() -> None:
    script = (
        "import sys\n"
        "from milepost_ml.recipe import decode_recipe\n"
        "decode_recipe(sys.stdin.buffer.read())\n"
        "assert not {'torch', 'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
    )
    data = encode_recipe(make_keras_recipe())
    subprocess.run([sys.executable, "-c", script], input=data, check=True)


@pytest.mark.parametrize(
    ("layer", "inputs", "output", "weights"),
    [
        (Dense(3, "relu", True), [(5, 4)], (5, 3), [(4, 3), (3,)]),
        (
            Conv2D(6, (3, 2), (2, 1), "valid", (1, 1), "linear", True),
            [(9, 8, 5)],
            (4, 7, 6),
            [(3, 2, 5, 6), (6,)],
        ),
        (
            Conv2D(2, (3, 3), (2, 2), "same", (1, 1), "relu", False),
            [(9, 8, 1)],
            (5, 4, 2),
            [(3, 3, 1, 2)],
        ),
        (
            Conv2D(2, (3, 3), (1, 1), "valid", (2, 3), "relu", False),
            [(9, 8, 1)],
            (5, 2, 2),
            [(3, 3, 1, 2)],
        ),
        (
            DepthwiseConv2D((3, 3), (1, 1), "valid", 2, "linear", True),
            [(9, 8, 5)],
            (7, 6, 10),
            [(3, 3, 5, 2), (10,)],
        ),
        (MaxPooling2D((2, 2), (2, 2), "valid"), [(9, 8, 5)], (4, 4, 5), []),
        (AveragePooling2D((3, 3), (2, 2), "same"), [(9, 8, 5)], (5, 4, 5), []),
        (GlobalAveragePooling2D(), [(9, 8, 5)], (5,), []),
        (GlobalAveragePooling1D(), [(9, 8)], (8,), []),
        (Flatten(), [(9, 8, 5)], (360,), []),
        (Reshape((4, 6)), [(2, 12)], (4, 6), []),
        (Rescaling(0.5, 1.0), [(3,)], (3,), []),
        (Dropout(0.5), [(3,)], (3,), []),
        (Activation("tanh"), [(3,)], (3,), []),
        (ReLU(6.0, 0.0, 0.0), [(3,)], (3,), []),
        (BatchNormalization(0.9, 0.1, True, False), [(4, 3)], (4, 3), [(3,), (3,), (3,)]),
        (LayerNormalization(0.1, True, True), [(4, 3)], (4, 3), [(3,), (3,)]),
        (Add(), [(4, 3), (4, 3)], (4, 3), []),
        (Concatenate(), [(4, 3), (4, 2)], (4, 5), []),
        (Embedding(7, 2), [(5,)], (5, 2), [(7, 2)]),
        (
            MultiHeadAttention(2, 3, 4, 0.0, False),
            [(5, 6), (7, 8)],
            (5, 6),
            [(6, 2, 3), (8, 2, 3), (8, 2, 4), (2, 4, 6)],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_shapes_follow_from_settings(
    layer: AnyLayer,
    inputs: list[tuple[int, ...]],
    output: tuple[int, ...],
    weights: list[tuple[int, ...]],
) -> None:
    layer.validate()
    assert layer.compute_output(inputs) == output
    assert [weight.shape for weight in layer.get_weights(inputs)] == weights
    assert layer.count_values(inputs) >= math.prod(output)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (Dense(0, "relu", True), [(4,)]),
        (Dense(MAX_SIDE + 1, "relu", True), [(4,)]),
        (Dense(3, "relu", True), []),
        (Dense(3, "relu", True), [()]),
        (Dense(3, "relu", True), [(4,), (4,)]),
        (Conv2D(1, (5, 5), (1, 1), "valid", (1, 1), "relu", True), [(4, 4, 1)]),
        (Conv2D(1, (1, 1), (1, 1), "valid", (1, 1), "relu", True), [(4, 4)]),
        (Conv2D(1, (1, 1), (0, 1), "valid", (1, 1), "relu", True), [(4, 4, 1)]),
        (Conv2D(1, (2, 2), (2, 2), "valid", (2, 2), "relu", True), [(4, 4, 1)]),
        (DepthwiseConv2D((1, 1), (1, 2), "same", 1, "relu", True), [(4, 4, 1)]),
        (MaxPooling2D((-1, 2), (2, 2), "valid"), [(4, 4, 1)]),
        (Reshape((4, 4)), [(15,)]),
        (Reshape(()), [(1,)]),
        (Reshape((-2, -2)), [(4,)]),
        (Dropout(1.0), [(4,)]),
        (Dropout(-0.1), [(4,)]),
        (BatchNormalization(1.5, 0.1, True, True), [(4,)]),
        (BatchNormalization(0.9, 0.0, True, True), [(4,)]),
        (LayerNormalization(math.nan, True, True), [(4,)]),
        (Rescaling(math.inf, 0.0), [(4,)]),
        (ReLU(-1.0, 0.0, 0.0), [(4,)]),
        (Add(), [(4,)]),
        (Add(), [(4,), (1,)]),
        (Concatenate(), [(4, 1), (3, 1)]),
        (Embedding(0, 1), [(4,)]),
        (MultiHeadAttention(1, 1, 1, 0.0, True), [(4, 2), (4, 2), (5, 2)]),
        (MultiHeadAttention(0, 1, 1, 0.0, True), [(4, 2), (4, 2)]),
        (MultiHeadAttention(1, 1, 1, 0.0, True), [(4, 2)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_out_of_range_are_refused(layer: AnyLayer, inputs: list[tuple[int, ...]]) -> None:
    with pytest.raises(InvalidRecord, match=f"its layer {type(layer).__name__} "):
        _judge(layer, inputs)


def _judge(layer: AnyLayer, inputs: list[tuple[int, ...]]) -> None:
    layer.validate()
    layer.compute_output(inputs)


def call(layer: int, *inputs: int, causal: bool = False) -> Call:
    return Call(layer, inputs, causal)


DENSE = KerasLayer(Dense(4, "relu", True), True)
FLAT = KerasLayer(Flatten(), True)
RESHAPED = (call(0, 0), call(1, 1), call(0, 2))
"""The same layer before and after Flatten."""
FLOATS = TensorSpec("data.0", "F32", (10, 4))
IMAGES = TensorSpec("data.0", "F32", (10, 4, 4))
LABELS = TensorSpec("data.1", "I64", (10,))
HUGE = KerasInput((MAX_SIDE, MAX_SIDE), "float32")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"inputs": ()}, "0 inputs"),
        ({"inputs": (KerasInput((), "float32"),)}, "an input of shape"),
        ({"inputs": (KerasInput((4, 0), "float32"),)}, "an input of shape"),
        ({"inputs": (KerasInput((1,) * 9, "float32"),)}, "an input of shape"),
        ({"layers": ()}, "0 layers"),
        ({"layers": (DENSE,) * (MAX_LAYERS + 1)}, f"{MAX_LAYERS + 1} layers"),
        ({"calls": ()}, "0 calls"),
        ({"calls": (call(0, 0),) * (MAX_CALLS + 1)}, f"{MAX_CALLS + 1} calls"),
        ({"calls": (call(0, 1),)}, "computed only later"),
        ({"calls": (call(0, -1),)}, "computed only later"),
        ({"calls": (call(0),)}, "computed only later"),
        ({"calls": (call(5, 0),)}, "no layer"),
        ({"calls": (call(-1, 0),)}, "no layer"),
        ({"calls": (call(0, 0, causal=True),)}, "only attention"),
        ({"layers": (DENSE, DENSE)}, "never called"),
        ({"output": 0}, "no call's result"),
        ({"output": 2}, "no call's result"),
        ({"calls": (call(0, 0), call(0, 1))}, "does not lead to the output"),
        ({"layers": (DENSE, FLAT), "calls": RESHAPED, "output": 3}, "other weights"),
        ({"inputs": (HUGE,), "layers": (FLAT,)}, "gives the shape"),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_hold_together_is_refused(change: Change, why: str) -> None:
    plain = KerasGraph(
        inputs=(KerasInput((3, 4), "float32"),),
        layers=(DENSE,),
        calls=(call(0, 0),),
        output=1,
        loss=MeanSquaredError(),
    )
    assert Outline(plain).output == (3, 4)
    with pytest.raises(InvalidRecord, match=why):
        Outline(msgspec.structs.replace(plain, **change))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"profile": "exact", "device_class": "exact/1"}, "need profile class"),
        ({"device_class": "torch-2.13.0/x86_64/avx512/threads-1/kat-00"}, "TensorFlow"),
        (regroup(optimizer=SGD(0.0, 0.0, 0.0, False)), "Keras's optimizer"),
        ({"graph": make_graph()}, "graph of operators"),
        ({"groups": (GROUP, msgspec.structs.replace(GROUP, parameters=()))}, "one parameter group"),
        (regroup(parameters=GROUP.parameters[::-1]), "order of the model"),
        ({"accumulate": 2}, "without accumulation"),
        ({"clip": ClipValue(1.0)}, "clipped by their optimizer"),
        ({"ema_decay": 0.9}, "running average"),
        ({"augment": (Flip(),), "data": (IMAGES, LABELS)}, "without accumulation, augmentation"),
        ({"autocast": "bfloat16", "device_class": "tensorflow-2.21.0/bfloat16"}, "autocast"),
        ({"parameters": make_keras_recipe().parameters[::-1]}, "tensors are not those"),
        ({"buffers": (), "initial": make_keras_recipe().initial[:-2]}, "tensors are not those"),
        ({"data": (msgspec.structs.replace(FLOATS, shape=(10, 5)), LABELS)}, "shapes"),
        ({"data": (FLOATS,)}, "shapes"),
        ({"data": (FLOATS, msgspec.structs.replace(LABELS, shape=(10, 2)))}, "loss"),
        (regroup(optimizer=KerasAdam(None, None, None, None, 1.0, 0.9, 1e-7, False)), "beta"),
        (regroup(optimizer=KerasSGD(None, 1.0, 1.0, None, 0.0, False)), "clipped twice"),
        (regroup(optimizer=KerasSGD(None, 0.0, None, None, 0.0, False)), "clipped to 0"),
        (regroup(optimizer=KerasSGD(-1.0, None, None, None, 0.0, False)), "weight_decay"),
        (regroup(optimizer=KerasSGD(None, None, None, None, 1.5, False)), "momentum"),
    ],
)  # fmt: skip
def test_a_recipe_of_layers_must_fit_together(change: Change, why: str) -> None:
    error = refuse(msgspec.structs.replace(make_keras_recipe(), **change))
    assert error.slug == "bad-recipe"
    assert why in str(error)


def test_a_step_has_a_size() -> None:
    side = 2**12
    layers = (KerasLayer(Dense(side, "relu", False), True),)
    inputs = (KerasInput((side, side), "float32"),)
    loss = MeanSquaredError()
    graph = KerasGraph(inputs=inputs, layers=layers, calls=(call(0, 0),), output=1, loss=loss)
    spec = (64, side, side)
    change: Change = {
        "graph": graph,
        "data": (TensorSpec("data.0", "F32", spec), TensorSpec("data.1", "F32", spec)),
        "batch_size": 64,
        "parameters": (
            msgspec.structs.replace(make_keras_recipe().parameters[0], shape=(side, side)),
        ),
        "buffers": (),
        "initial": make_keras_recipe().initial[:1],
        **regroup(parameters=GROUP.parameters[:1]),
    }
    assert 64 * 2 * side**2 > MAX_VALUES
    assert "values" in str(refuse(msgspec.structs.replace(make_keras_recipe(), **change)))


def test_classes_and_settings_that_are_not_listed_are_refused_by_name() -> None:
    text = encode_recipe(make_keras_recipe())
    for old, new, named in (
        (b'"kind":"dense"', b'"kind":"lambda"', "lambda"),
        (b'"activation":"relu"', b'"activation":"eval"', "eval"),
        (b'"units":4', b'"units":4,"kernel_constraint":"x"', "kernel_constraint"),
        (b'"kind":"keras-adam"', b'"kind":"keras-lion"', "keras-lion"),
        (b'"kind":"sparse-categorical-crossentropy"', b'"kind":"custom"', "custom"),
        (b'"kind":"keras"', b'"kind":"archive"', "archive"),
    ):
        assert old in text
        with pytest.raises(InvalidRecord, match=named):
            decode_recipe(text.replace(old, new, 1))


def test_losses_take_targets_that_fit() -> None:
    sparse = SparseCategoricalCrossentropy(from_logits=True)
    validate_loss(sparse, (10,), ())
    validate_loss(sparse, (10,), (1,))
    validate_loss(sparse, (7, 10), (7,))
    validate_loss(MeanSquaredError(), (1,), ())
    validate_loss(CategoricalCrossentropy(False, 0.1), (10,), (10,))
    for loss, target in (
        (sparse, (10,)),
        (MeanSquaredError(), (1,)),
        (CategoricalCrossentropy(False, 0.1), ()),
        (CategoricalCrossentropy(False, 1.0), (10,)),
        (BinaryCrossentropy(False, math.nan), (10,)),
    ):
        with pytest.raises(InvalidRecord):
            validate_loss(loss, (10,), target)


def test_names_say_where_a_layer_stands() -> None:
    names = [name for name, _, _ in Outline(make_keras_graph()).iterate_weights()]
    assert names[0] == "0.dense.kernel"
    assert "1.batch-normalization.moving_mean" in names
