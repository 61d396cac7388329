"""Reads what a user compiled: the declaration of a Keras model, its loss and its optimizer.

Only built-in classes are declared, and only settings that a declaration repeats: a layer made from
the declaration must have the configuration of the user's own.  Everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.keras_graph import Call, KerasGraph, KerasInput, KerasLayer, KerasLoss, Outline
from milepost_ml.keras_layers import LAYERS, Add, AnyLayer, Concatenate, MultiHeadAttention
from milepost_ml.keras_optimizers import KerasOptimizer
from milepost_ml.keras_training.building import make_layer, make_loss, make_optimizer
from milepost_ml.keras_training.device import load_keras

_UNCOMPARED: Final = frozenset({"name", "dtype", "trainable", "seed", "learning_rate"})
"""Settings that are declared elsewhere, or nowhere because they change no step."""
_STARTS: Final = "_initializer"
"""Ends the settings that say how weights begin: the first snapshot holds them."""
_BUILT: Final = (("attention_axes", (1,)), ("axis", [-1]))
"""What layers make of their defaults once they have weights."""
_LOSS_NAMES: Final = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
}
_Declared = TypeVar("_Declared")


class Described(NamedTuple):
    """A model as a recipe declares it, with the user's layers in the declaration's order."""

    graph: KerasGraph
    optimizer: KerasOptimizer
    layers: list[Any]


def _refuse(what: str, slug: str = "unsupported-model") -> RecordingError:
    return RecordingError(what, slug=slug)


def describe_compiled(model: Any) -> Described:
    """The declaration of a built and compiled model.

    Raises RecordingError: unsupported-model, unsupported-optimizer.
    """
    _validate_compiled(model)
    try:
        inputs, layers, calls, output, held = _read_network(model)
        graph = KerasGraph(inputs, layers, calls, output, _read_loss(model.loss))
        optimizer = _read_optimizer(model.optimizer)
        optimizer.validate()
        Outline(graph)
    except InvalidRecord as error:
        raise _refuse(str(error)) from error
    return Described(graph, optimizer, held)


def _validate_compiled(model: Any) -> None:
    keras = load_keras().keras
    if not isinstance(model, keras.Model) or not model.compiled or model.optimizer is None:
        raise _refuse("the model is not compiled; call model.compile(optimizer, loss) first")
    if type(model) not in (keras.Sequential, _get_functional()):
        raise _refuse(
            f"{type(model).__name__} is a model class of its own, whose code a verifier does not"
            " run. Build it with keras.Sequential or keras.Model(inputs, outputs)"
        )
    if model.steps_per_execution != 1:
        raise _refuse("steps_per_execution hides single steps; leave it out")
    tf = load_keras().tf
    if type(model.distribute_strategy) is not type(_get_default_strategy()):
        raise _refuse("a distribution strategy is in use; records are made on one processor")
    if tf.config.get_visible_devices("GPU"):
        raise _refuse(
            "TensorFlow sees a GPU; records of Keras models are made on the processor:"
            " tf.config.set_visible_devices([], 'GPU') before the first layer"
        )
    config = model.get_compile_config() or {}
    if config.get("loss_weights") is not None:
        raise _refuse("loss_weights cannot be recorded; leave them out")


def _get_functional() -> type:
    """The class of `keras.Model(inputs, outputs)`, which Keras exports under no name."""
    keras = load_keras().keras
    start = keras.Input((1,))
    return type(keras.Model(start, start))


def _get_default_strategy() -> Any:
    """What TensorFlow uses where no strategy was chosen."""
    return load_keras().tf.distribute.get_strategy()


def _read_network(
    model: Any,
) -> tuple[tuple[KerasInput, ...], tuple[KerasLayer, ...], tuple[Call, ...], int, list[Any]]:
    """The network as numbered values, in the order in which Keras computes them."""
    keras = load_keras().keras
    if not getattr(model, "inputs", None):
        raise _refuse("the model's inputs are unknown; begin it with keras.Input(shape)")
    if len(model.outputs) != 1:
        raise _refuse(f"the model has {len(model.outputs)} outputs; a recipe holds one")
    functional = model._functional if isinstance(model, keras.Sequential) else model
    numbers = {id(tensor): place for place, tensor in enumerate(model.inputs)}
    inputs = tuple(_read_input(tensor) for tensor in model.inputs)
    held: list[Any] = []
    layers: list[KerasLayer] = []
    calls: list[Call] = []
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            layer = node.operation
            if isinstance(layer, keras.layers.InputLayer):
                continue
            if not any(layer is each for each in held):
                layers.append(_read_layer(layer))
                held.append(layer)
            place = next(i for i, each in enumerate(held) if each is layer)
            taken, causal = _read_arguments(layers[place].layer, node, layer.name)
            calls.append(Call(place, tuple(numbers[id(each)] for each in taken), causal))
            numbers[id(node.outputs[0])] = len(inputs) + len(calls) - 1
    return inputs, tuple(layers), tuple(calls), numbers[id(model.outputs[0])], held


def _read_input(tensor: Any) -> KerasInput:
    shape = tuple(tensor.shape[1:])
    if None in shape or getattr(tensor, "sparse", False):
        raise _refuse(f"the input {tensor.name} has the open shape {shape}; give every length")
    try:
        return msgspec.convert({"shape": shape, "dtype": tensor.dtype}, KerasInput)
    except msgspec.ValidationError as error:
        raise _refuse(f"the input {tensor.name} cannot be recorded: {error}") from error


def _read_arguments(declared: AnyLayer, node: Any, name: str) -> tuple[list[Any], bool]:
    """The tensors that a call takes, and whether it is causal."""
    arguments: dict[Any, Any] = {**dict(enumerate(node.arguments.args)), **node.arguments.kwargs}
    causal = bool(arguments.pop("use_causal_mask", False))
    if isinstance(declared, MultiHeadAttention):
        named = [arguments.pop(key, None) for key in ("query", "value", "key")]
        placed = [arguments.pop(place, None) for place in range(3)]
        taken = [a if a is not None else b for a, b in zip(named, placed, strict=True)]
        taken = [each for each in taken if each is not None]
    else:
        first = arguments.pop(0, None)
        first = arguments.pop("inputs", None) if first is None else first
        taken = list(first) if isinstance(declared, Add | Concatenate) else [first]
    odd = sorted(str(key) for key, value in arguments.items() if value not in (None, False))
    if odd or any(not hasattr(each, "shape") for each in taken):
        raise _refuse(f"layer {name!r} is called with {', '.join(odd) or 'other than tensors'}")
    return taken, causal


def _read_layer(layer: Any) -> KerasLayer:
    keras = load_keras().keras
    listed = {getattr(keras.layers, kind.__name__): kind for kind in LAYERS}
    kind = listed.get(type(layer))
    if kind is None:
        raise _refuse(_explain(layer))
    if layer.dtype_policy.name != "float32":
        raise _refuse(
            f"layer {layer.name!r} computes in {layer.dtype_policy.name}; mixed precision cannot be"
            " recorded, use float32"
        )
    where = f"layer {layer.name!r}"
    declared: Any = _declare(kind, layer.get_config(), where, "unsupported-model")
    declared.validate()
    _compare(where, layer.get_config(), make_layer(declared).get_config(), "unsupported-model")
    return KerasLayer(declared, trainable=bool(layer.trainable) or not layer.weights)


def _explain(layer: Any) -> str:
    """Why a layer cannot be recorded, and what to use instead."""
    keras = load_keras().keras
    kind, name = type(layer).__name__, getattr(layer, "name", "")
    names = ", ".join(sorted(each.__name__ for each in LAYERS))
    if isinstance(layer, keras.Model):
        return f"the model {name!r} lies inside another; call its layers in the outer model instead"
    if isinstance(layer, keras.layers.Lambda):
        return (
            f"layer {name!r} is a Lambda, which is code, and a verifier runs nobody's code. Listed"
            f" layers: {names}"
        )
    if not isinstance(layer, keras.layers.Layer):
        return (
            f"the operation {kind} is applied to tensors; use layers instead (keras.layers.Add for"
            " +, Concatenate, Reshape, Activation, Rescaling)"
        )
    if not type(layer).__module__.startswith("keras."):
        return (
            f"layer {name!r} is of the class {kind}, whose code a verifier does not run. Build it"
            f" from listed layers: {names}"
        )
    return f"layer {name!r} is a {kind}, which is not on the list: {names}"


def _declare(kind: type[_Declared], config: Mapping[str, Any], where: str, slug: str) -> _Declared:
    """A declaration with the settings of a configuration."""
    tag = kind.__struct_config__.tag  # type: ignore[attr-defined]
    fields = kind.__struct_fields__  # type: ignore[attr-defined]
    try:
        return msgspec.convert({"kind": tag} | {name: config[name] for name in fields}, kind)
    except (msgspec.ValidationError, KeyError) as error:
        raise _refuse(f"{where} cannot be recorded as it is set: {error}", slug) from error


def _compare(where: str, mine: Mapping[str, Any], plain: Mapping[str, Any], slug: str) -> None:
    """Raises RecordingError for the first setting that the declaration does not repeat."""
    for name, value in mine.items():
        if name in _UNCOMPARED or name.endswith(_STARTS):
            continue
        if (name, value) not in _BUILT and value != plain.get(name):
            raise _refuse(
                f"{where} has {name}={value!r}, which cannot be recorded; leave it at"
                f" {plain.get(name)!r}",
                slug,
            )


def _read_loss(loss: Any) -> KerasLoss:
    keras = load_keras().keras
    kinds: dict[str, type[Any]] = {kind.__name__: kind for kind in KerasLoss.__args__}
    if isinstance(loss, str):
        loss = getattr(keras.losses, _LOSS_NAMES.get(loss, loss), loss)
    for name, kind in kinds.items():
        made = getattr(keras.losses, name)()
        if type(loss) is type(made):
            config = loss.get_config()
            declared: KerasLoss = _declare(kind, config, f"the loss {name}", "unsupported-model")
            expected = make_loss(declared).get_config()
            _compare(f"the loss {name}", config, expected, "unsupported-model")
            return declared
        if callable(loss) and loss in (getattr(made, "fn", None), type(made)):
            plain: KerasLoss = _declare(kind, made.get_config(), name, "unsupported-model")
            return plain
    what = getattr(loss, "__name__", None) or type(loss).__name__
    raise _refuse(
        f"the loss {what} cannot be recorded: use one of {', '.join(sorted(kinds))} of keras.losses"
    )


def _read_optimizer(optimizer: Any) -> KerasOptimizer:
    keras = load_keras().keras
    kinds: dict[str, type[Any]] = {
        kind.__name__.removeprefix("Keras"): kind for kind in KerasOptimizer.__args__
    }
    slug = "unsupported-optimizer"
    for name, kind in kinds.items():
        if type(optimizer) is not getattr(keras.optimizers, name):
            continue
        config = optimizer.get_config()
        declared: KerasOptimizer = _declare(kind, config, f"the optimizer {name}", slug)
        expected = make_optimizer(declared).get_config()
        _compare(f"the optimizer {name}", config, expected, slug)
        if any(name.startswith("_exclude_from_weight_decay") for name in vars(optimizer)):
            raise _refuse("exclude_from_weight_decay cannot be recorded; leave it out", slug)
        return declared
    raise _refuse(
        f"the optimizer {type(optimizer).__name__} cannot be recorded; use"
        f" {', '.join(sorted(kinds))} of keras.optimizers",
        slug,
    )
