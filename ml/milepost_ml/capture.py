"""Turns a user's model and loss into a graph of listed operators, once, on the first batch.

`torch.export` traces the module in training mode; what comes out is translated into the recipe's
plain data, and an operator that is not on the list is refused by name with what to use instead.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch.fx import Node as TracedNode

from milepost_ml.arithmetic.profiles import Profile, default_dtype
from milepost_ml.arithmetic.rounded import Widened
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.gpus import CPU
from milepost_ml.graph import DTYPE_NAMES, GraphRunner
from milepost_ml.nodes import (
    DType,
    Graph,
    Infinity,
    Input,
    Item,
    Node,
    Ref,
    Value,
    validate_graph,
)
from milepost_ml.operators import DTYPES, OPERATORS, Argument, get_instead
from milepost_ml.rehearsal import Loss, Rehearsal, StepModule, WholeStep
from milepost_ml.respelling import make_constant, respell

_DTYPE_NAMES: Final = {getattr(torch, name): name for name in DTYPES}
_CHECKS: Final = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async"})
"""Operators that only check; without them the graph computes the same."""
_WITHOUT_EFFECT: Final[dict[str, tuple[Any, ...]]] = {
    "device": (None, torch.device("cpu")),
    "layout": (None, torch.strided),
    "pin_memory": (None, False),
    "memory_format": (None, torch.contiguous_format, torch.preserve_format),
    "generator": (None,),
    "sparse_grad": (False,),
    "implicit": (False,),
    "path": (None,),
}
"""Arguments that recipes leave out, with the values that make no difference on a CPU."""


class Captured(NamedTuple):
    """A graph and the names of the parameters that a step gives a gradient."""

    graph: Graph
    trained: frozenset[str]


def _refuse(what: str, slug: str = "cannot-capture") -> RecordingError:
    return RecordingError(what, slug=slug)


def _get_canonical_names(module: StepModule) -> dict[str, tuple[str, str]]:
    """For every name in the exported signature: (source, the name the tensor is recorded under).

    A tensor shared by two layers is recorded once, under the name that comes first.
    """
    model = module.model
    first = {id(tensor): name for name, tensor in model.named_parameters()}
    names = {
        f"model.{name}": ("parameter", first[id(tensor)])
        for name, tensor in model.named_parameters(remove_duplicate=False)
    }
    first = {id(tensor): name for name, tensor in model.named_buffers()}
    names |= {
        f"model.{name}": ("buffer", first[id(tensor)])
        for name, tensor in model.named_buffers(remove_duplicate=False)
    }
    return names


def _export(module: StepModule, batch: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    state = torch.random.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, tuple(batch))
    except Exception as error:  # torch.export raises errors of many unrelated types
        raise _refuse(
            "torch.export could not capture model and loss as one graph:"
            f" {str(error).strip().splitlines()[0][:300]}. Usual causes are if or while on tensor"
            " values, .item() and libraries other than PyTorch inside forward"
        ) from error
    finally:
        torch.random.set_rng_state(state)


def _get_name(node: TracedNode) -> str:
    """The operator's name as the table spells it."""
    target = node.target
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        overload = target._overloadname
        return target._opname + ("" if overload == "default" else f".{overload}")
    return str(getattr(target, "__name__", target))


def _get_place(node: TracedNode) -> str:
    """Which layer a node comes from, for people."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    name = paths[-1].removeprefix("model").removeprefix(".") if paths else ""
    return f"layer {name!r}" if name else "the model's forward or the loss"


class _Translator:
    """Holds which value number each traced node became."""

    def __init__(self, names: Mapping[str, tuple[str, str]]) -> None:
        self._names = names
        self._numbers: dict[TracedNode, int] = {}
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.places: list[str] = []
        """For people: where each node comes from."""

    def translate(self, program: torch.export.ExportedProgram) -> Graph:
        signature = program.graph_signature
        targets = signature.inputs_to_parameters | signature.inputs_to_buffers
        hidden = signature.inputs_to_lifted_tensor_constants
        constants: list[TracedNode] = []
        data = [name for name in signature.user_inputs if isinstance(name, str)]
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if not node.users:
                    continue
                if node.name in hidden:
                    constants.append(node)
                    continue
                if node.name in targets:
                    source, name = self._names[targets[node.name]]
                else:
                    source, name = "data", f"data.{data.index(node.name)}"
                self._add_input(node, Input(source, name))  # type: ignore[arg-type]
        # Values are numbered inputs first; the numbers of nodes follow from how many there are.
        for node in constants:
            self._add_constant(node, program.constants[hidden[node.name]])
        for node in program.graph.nodes:
            if node.op == "get_attr" or (node.op == "call_function" and _is_check(node)):
                continue
            if node.op == "call_function":
                self._add_node(node)
            elif node.op == "output":
                (loss,) = node.args[0]
                return Graph(tuple(self.inputs), tuple(self.nodes), self._numbers[loss])
        raise AssertionError("torch.export ends every graph with its output")

    def _add_input(self, node: TracedNode, item: Input) -> None:
        if item not in self.inputs:
            self.inputs.append(item)
        self._numbers[node] = self.inputs.index(item)

    def _add_constant(self, node: TracedNode, tensor: torch.Tensor) -> None:
        calls = make_constant(tensor)
        if calls is None:
            raise _unknown("lift_fresh_copy", node)
        for call in calls:
            previous = [node] if call.previous else []
            self._append(call.name, [*previous, *call.values], node)

    def _add_node(self, node: TracedNode) -> None:
        name, values = respell(_get_name(node), node)
        arguments = OPERATORS.get(name)
        if arguments is None:
            raise _unknown(name, node)
        if values is None:
            values = (
                list(node.args) if name == "getitem" else _collect_arguments(name, arguments, node)
            )
        self._append(name, values, node)

    def _append(self, name: str, values: Sequence[Any], node: TracedNode) -> None:
        args = tuple(
            self._translate(argument, value, name, node)
            for argument, value in zip(OPERATORS[name], values, strict=True)
        )
        self._numbers[node] = len(self.inputs) + len(self.nodes)
        self.nodes.append(Node(name, args))
        self.places.append(_get_place(node))

    def _translate(self, argument: Argument, value: Any, name: str, node: TracedNode) -> Value:
        if isinstance(value, list | tuple):
            kind = "f" if argument.kind == "F" else ""
            return tuple(self._translate_item(kind, item, name, node) for item in value)
        return self._translate_item(argument.kind, value, name, node)

    def _translate_item(self, kind: str, value: Any, name: str, node: TracedNode) -> Item:
        if isinstance(value, TracedNode):
            if value not in self._numbers:
                raise _unknown(_get_name(value), value)
            return Ref(self._numbers[value])
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            return Infinity(1 if value > 0 else -1)
        if kind == "d" and value is not None:
            # Schema defaults spell dtypes as numbers, but every listed default is None.
            if value not in _DTYPE_NAMES:
                raise _refuse(
                    f"{_get_place(node)} uses {name} with {value}; recipes know"
                    f" {', '.join(DTYPES)}",
                    "unknown-operator",
                )
            return DType(_DTYPE_NAMES[value])
        if kind == "f" and type(value) is int:
            return float(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise _refuse(
            f"{_get_place(node)} uses {name} with an argument {value!r:.80} that recipes"
            " cannot hold",
            "unknown-operator",
        )


def _is_check(node: TracedNode) -> bool:
    return _get_name(node).partition(".")[0] in _CHECKS and not node.users


def _collect_arguments(name: str, arguments: Sequence[Argument], node: TracedNode) -> list[Any]:
    """One value per listed argument: as given, or the operator's default."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = list(node.target._schema.arguments)
    given = dict(zip((item.name for item in schema), node.args, strict=False)) | dict(node.kwargs)
    by_place = [item.name for item in schema if not item.kwarg_only]
    places = iter(by_place)
    listed = [argument.name or next(places) for argument in arguments]
    for item in schema:
        value = given.get(item.name, item.default_value)
        if item.name in listed or value == item.default_value:
            continue
        if value not in _WITHOUT_EFFECT.get(item.name, ()):
            raise _refuse(
                f"{_get_place(node)} uses {name} with {item.name}={value}, which recipes leave"
                " out. Keep the default; what forward makes has the device of its input"
                " (device=x.device) and the default layout",
                "unknown-operator",
            )
    defaults = {item.name: item.default_value for item in schema}
    return [given.get(key, defaults[key]) for key in listed]


def _unknown(name: str, node: TracedNode) -> RecordingError:
    return _refuse(
        f"{_get_place(node)} uses the operator {name}, which a recipe may not hold, because"
        f" verifiers run listed operators only. Instead: {get_instead(name)}",
        "unknown-operator",
    )


def capture(
    model: torch.nn.Module,
    loss: Loss | WholeStep,
    batch: Sequence[torch.Tensor],
    *,
    generator_seed: int,
    profile: Profile,
) -> Captured:
    """Capture forward and loss of a model in training mode and check that they repeat.

    `batch` is one batch of every data tensor, as it is recorded.  The graph is run once beside the
    module itself, in the profile's arithmetic, on copies and from the same generator seed; loss
    and gradients must agree bit for bit.  Neither the model nor torch's generator is changed.
    Raises RecordingError: unknown-operator, cannot-capture, no-exact-kernel.
    """
    original = StepModule(copy.deepcopy(model), loss)
    Widened((*original.model.parameters(), *original.model.buffers()), profile)
    # Tracing leaves traces in some layers (LSTM keeps what it saw), so a copy is traced: on the
    # CPU, because a recipe names no device.
    module = copy.deepcopy(original).to(CPU)
    computed = [profile.take(tensor) for tensor in batch]
    translator = _Translator(_get_canonical_names(module))
    with default_dtype(profile.dtype):
        graph = translator.translate(_export(module, [tensor.to(CPU) for tensor in computed]))
    _validate(graph, model, batch, profile)
    rehearsal = Rehearsal(original, graph, computed, generator_seed, profile)
    return Captured(graph, rehearsal.compare(translator.places))


def _describe(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    name = DTYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise _refuse(f"tensors of {tensor.dtype} cannot be recorded", "unsupported-model")
    return name, tuple(tensor.shape)


def _validate(
    graph: Graph, model: torch.nn.Module, batch: Sequence[torch.Tensor], profile: Profile
) -> None:
    known = {
        "parameter": {name for name, _ in model.named_parameters()},
        "buffer": {name for name, _ in model.named_buffers()},
        "data": {f"data.{index}" for index in range(len(batch))},
    }
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shapes = {name: _describe(tensor) for name, tensor in tensors}
    data = {f"data.{index}": _describe(tensor) for index, tensor in enumerate(batch)}
    try:
        validate_graph(graph, known)
        GraphRunner(graph).validate({"parameter": shapes, "buffer": shapes, "data": data}, profile)
    except InvalidRecord as error:
        raise _refuse(str(error), error.slug) from error
