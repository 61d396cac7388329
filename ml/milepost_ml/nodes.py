"""A step's computation as data: forward and loss, as a list of listed operators.

Values are numbered: the graph's inputs in order, then its nodes in order.  A node refers to earlier
values only, so the graph has no cycles and runs front to back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final, Literal

import msgspec

from milepost_ml.errors import InvalidRecord
from milepost_ml.operators import (
    DTYPES,
    EQUATION,
    MULTIPLE,
    OPERATORS,
    WORDS,
    Argument,
    get_instead,
)

MAX_NODES: Final = 20_000
"""A hundred-layer transformer has a few thousand."""
MAX_LIST: Final = 1_024
_MAX_INT: Final = 2**63 - 1


class Ref(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="value"):
    """Value number `index` of the graph: its inputs in order, then its nodes in order."""

    index: int


class DType(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="dtype"):
    """A dtype by its PyTorch name."""

    name: str


class Infinity(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", tag="infinity"
):
    """A float that JSON cannot spell."""

    sign: Literal[-1, 1]


Item = bool | int | float | str | Ref | DType | Infinity | None
Value = Item | tuple[Item, ...]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One application of a listed operator, with a value for each of its arguments."""

    op: str
    args: tuple[Value, ...]


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value the graph starts from: a tensor of the model, or the batch of a data tensor."""

    source: Literal["parameter", "buffer", "data"]
    name: str


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="aten"):
    """Forward and loss; `loss` is the value number of the loss.  Buffers are written in place."""

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    loss: int


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


def validate_graph(graph: Graph, known: Mapping[str, Set[str]]) -> None:
    """Raises InvalidRecord unless the graph is a sound computation over known tensors.

    `known` maps each source of an input to the names it has.  Errors: bad-recipe, and
    unknown-operator by name.
    """
    for item in graph.inputs:
        _require(item.name in known[item.source], f"the graph reads an unknown {item.source}")
    _require(len(set(graph.inputs)) == len(graph.inputs), "the graph reads a tensor twice")
    _require(1 <= len(graph.nodes) <= MAX_NODES, f"{len(graph.nodes)} nodes, at most {MAX_NODES}")
    multiple = [False] * len(graph.inputs)
    for position, node in enumerate(graph.nodes):
        where = f"node {position} ({node.op[:60]})"
        arguments = OPERATORS.get(node.op)
        if arguments is None:
            raise InvalidRecord(
                f"the recipe uses the operator {node.op[:60]!r}, which is not on the list:"
                f" {get_instead(node.op)}",
                slug="unknown-operator",
            )
        _require(
            len(node.args) == len(arguments),
            f"{where} has {len(node.args)} arguments, {len(arguments)} are needed",
        )
        for argument, value in zip(arguments, node.args, strict=True):
            _validate_value(where, argument, value, multiple)
        multiple.append(node.op in MULTIPLE)
    _require(
        len(graph.inputs) <= graph.loss < len(multiple) and not multiple[graph.loss],
        "the loss is not the result of a node",
    )


def _is_tensor(value: Item, multiple: Sequence[bool], *, several: bool = False) -> bool:
    """Whether a value refers to an earlier one of the right kind: no cycles, nothing forward."""
    return (
        isinstance(value, Ref)
        and 0 <= value.index < len(multiple)
        and multiple[value.index] == several
    )


def _is_number(value: Item) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, Infinity) or (isinstance(value, int) and abs(value) <= _MAX_INT)


def _is_item(kind: str, value: Item, multiple: Sequence[bool]) -> bool:
    if kind in "TN" and isinstance(value, Ref):
        return _is_tensor(value, multiple)
    if kind == "M":
        return _is_tensor(value, multiple, several=True)
    if kind in "nN":
        return _is_number(value)
    if kind == "f":
        return isinstance(value, float | Infinity) and _is_number(value)
    if kind == "i":
        return type(value) is int and abs(value) <= _MAX_INT
    if kind == "b":
        return isinstance(value, bool)
    if kind == "s":
        return isinstance(value, str) and value in WORDS
    if kind == "e":
        return isinstance(value, str) and EQUATION.fullmatch(value) is not None
    return kind == "d" and isinstance(value, DType) and value.name in DTYPES


_LISTS: Final = {"I": "i", "F": "f", "L": "T", "O": "T"}


def _validate_value(where: str, argument: Argument, value: Value, multiple: Sequence[bool]) -> None:
    if value is None:
        _require(argument.optional, f"{where} lacks an argument")
    elif argument.kind in _LISTS:
        _require(
            isinstance(value, tuple) and len(value) <= MAX_LIST,
            f"{where} needs a list of at most {MAX_LIST}",
        )
        assert isinstance(value, tuple)
        for item in value:
            _require(
                (item is None and argument.kind == "O")
                or _is_item(_LISTS[argument.kind], item, multiple),
                f"{where} has a wrong or forward-pointing element in a list",
            )
    else:
        _require(
            not isinstance(value, tuple) and _is_item(argument.kind, value, multiple),
            f"{where} has an argument of the wrong kind, or one that is computed only later",
        )


def iterate_refs(node: Node) -> Iterator[int]:
    """The value numbers a node reads."""
    for value in node.args:
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Ref):
                yield item.index
