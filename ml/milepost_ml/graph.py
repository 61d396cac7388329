"""Runs a recipe's graph with PyTorch: forward and loss; autograd differentiates it.

The plan is made once per graph: for every node the ATen operator and where its arguments come
from.  Only operators of the table are ever looked up, so a recipe reaches nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch

from milepost_ml.arithmetic.profiles import Profile, default_dtype
from milepost_ml.errors import InvalidRecord
from milepost_ml.gpus import CPU
from milepost_ml.nodes import DType, Graph, Infinity, Item, Node, Ref
from milepost_ml.operators import DTYPES, OPERATORS

MAX_VALUES: Final = 2**30
"""Elements that all nodes of one step may have together: 4 GiB of float32."""

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""PyTorch's dtypes by their safetensors names."""
DTYPE_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}

_FACTORIES: Final = frozenset(
    {
        *("arange", "arange.start", "arange.start_step", "full", "ones", "rand", "randn"),
        *("scalar_tensor", "zeros"),
    }
)
"""Operators that make tensors from nothing, on the CPU unless told otherwise."""

_DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in DTYPES}


class _Step(NamedTuple):
    """One planned call: constants are in place, `refs` and `list_refs` are filled in per run."""

    call: Callable[..., Any]
    args: list[Any]
    refs: list[tuple[int, int]]
    """(place in args, value number)"""
    lists: list[tuple[int, list[tuple[int, int]]]]
    """(place in args, [(place in that list, value number)])"""
    keywords: dict[str, Any]


def get_operator(name: str) -> Callable[..., Any]:
    """The ATen operator of a listed name; KeyError for any other."""
    if name not in OPERATORS:
        raise KeyError(name)
    if name == "getitem":
        return operator.getitem
    base, _, overload = name.partition(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, base), overload or "default")
    return function


def _constant(item: Item) -> Any:
    if isinstance(item, DType):
        return _DTYPES[item.name]
    if isinstance(item, Infinity):
        return item.sign * float("inf")
    return None if isinstance(item, Ref) else item


def _plan(node: Node, device: torch.device | None) -> _Step:
    step = _Step(get_operator(node.op), [], [], [], {})
    if device is not None and node.op in _FACTORIES:
        step.keywords["device"] = device
    for argument, value in zip(OPERATORS[node.op], node.args, strict=True):
        if argument.name is not None:
            # No listed keyword argument is a tensor or a list.
            assert not isinstance(value, tuple | Ref)
            step.keywords[argument.name] = _constant(value)
            continue
        place = len(step.args)
        if isinstance(value, tuple):
            step.args.append([_constant(item) for item in value])
            inner = [(i, item.index) for i, item in enumerate(value) if isinstance(item, Ref)]
            if inner:
                step.lists.append((place, inner))
        else:
            step.args.append(_constant(value))
            if isinstance(value, Ref):
                step.refs.append((place, value.index))
    return step


def _unfit(what: str) -> InvalidRecord:
    return InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


class GraphRunner:
    """A graph made ready to run any number of times."""

    def __init__(self, graph: Graph, device: torch.device = CPU) -> None:
        """What the graph makes from nothing lies on `device`."""
        self._graph = graph
        self._plan = [_plan(node, None if device == CPU else device) for node in graph.nodes]

    def run(
        self,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        watch: Callable[[Any], None] | None = None,
    ) -> torch.Tensor:
        """The loss; `tensors` maps "parameter", "buffer" and "data" to tensors by name.

        `watch` is shown the result of every node, in order.

        Buffers are updated in place, as the model does.  Whatever PyTorch refuses (shapes, indices,
        in-place changes autograd forbids) comes as the exception that PyTorch raises.
        """
        values = [tensors[item.source][item.name] for item in self._graph.inputs]
        return self._run(self._plan, values, watch)

    def _run(
        self,
        plan: Sequence[_Step],
        values: list[Any],
        watch: Callable[[Any], None] | None = None,
    ) -> torch.Tensor:
        for call, template, refs, lists, keywords in plan:
            args = list(template)
            for place, index in refs:
                args[place] = values[index]
            for place, inner in lists:
                filled = list(template[place])
                for position, index in inner:
                    filled[position] = values[index]
                args[place] = filled
            value = call(*args, **keywords)
            if watch is not None:
                watch(value)
            values.append(value)
        loss: torch.Tensor = values[self._graph.loss]
        return loss

    def validate(
        self, shapes: Mapping[str, Mapping[str, tuple[str, Sequence[int]]]], profile: Profile
    ) -> None:
        """Raises InvalidRecord (bad-recipe) if the graph does not fit together or is too large.

        `shapes` maps each source to (safetensors dtype, shape) by name; tensors are computed in
        the profile's types.  The graph is run on tensors without memory, so that absurd sizes cost
        nothing to find.
        """
        total = 0

        def watch(value: Any) -> None:
            nonlocal total
            for tensor in value if isinstance(value, list | tuple) else (value,):
                total += tensor.numel()
                if (
                    tensor.dtype.is_floating_point
                    and profile.get_dtype(tensor.dtype) != tensor.dtype
                ):
                    raise _unfit(f"a part of it computes in {tensor.dtype}")
            if total > MAX_VALUES:
                raise _unfit(f"one step makes over {MAX_VALUES} values")

        plan = [_plan(node, torch.device("meta")) for node in self._graph.nodes]
        values = []
        for item in self._graph.inputs:
            dtype, shape = shapes[item.source][item.name]
            computed = profile.get_dtype(TORCH_DTYPES[dtype])
            values.append(torch.empty(tuple(shape), dtype=computed, device="meta"))
        try:
            with torch.no_grad(), default_dtype(profile.dtype):
                loss = self._run(plan, values, watch)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            raise _unfit(
                f"its graph does not fit together ({str(error).splitlines()[0][:200]})"
            ) from error
        if loss.shape != () or loss.dtype != profile.dtype:
            raise _unfit(
                f"its loss is {loss.dtype} {list(loss.shape)}, not one {profile.dtype} number"
            )
