"""Writes what torch.export finds in other people's models with the operators that recipes may hold.

Some operators only say in other words what a listed one says on the CPU; constants that forward
makes are rebuilt from their pattern, so that a recipe holds no values.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch.fx import Node as TracedNode

_SYNONYMS: Final = {
    "__and__.Tensor": "bitwise_and.Tensor",
    "__or__.Tensor": "bitwise_or.Tensor",
    "detach_": "detach",
    "lift_fresh_copy": "alias",
}
"""Of a constant that nothing else holds, in-place detach and a fresh copy change nothing."""

_MAKERS: Final = {"new_ones": "ones", "new_zeros": "zeros"}
_CONVERSIONS: Final = frozenset({"to.device", "to.dtype_layout"})
_CPU: Final = (None, torch.device("cpu"))


class Spelling(NamedTuple):
    """A listed operator and one value for each of its arguments, or None for the node's own."""

    name: str
    values: list[Any] | None = None


class Call(NamedTuple):
    """One operator of a constant's making; `previous` if its first argument is the last result."""

    name: str
    values: tuple[Any, ...]
    previous: bool = False


def respell(name: str, node: TracedNode) -> Spelling:
    """How a recipe writes a node; as it is, if it has no other way to."""
    if name in _SYNONYMS:
        return Spelling(_SYNONYMS[name])
    options = node.kwargs
    if options.get("device") not in _CPU or options.get("layout") not in (None, torch.strided):
        return Spelling(name)
    if name in _MAKERS:
        dtype = options.get("dtype", node.args[0].meta["val"].dtype)  # type: ignore[union-attr]
        return Spelling(_MAKERS[name], [node.args[1], dtype])
    if name in _CONVERSIONS:
        value = node.meta["val"]
        if value.device.type == "cpu" and not options.get("memory_format"):
            return Spelling("to.dtype", [node.args[0], value.dtype, False, False])
    return Spelling(name)


def make_constant(tensor: torch.Tensor) -> list[Call] | None:
    """Operators that make a tensor of one value, or of rows that count 0, 1, 2, ...; else None."""
    shape, dtype = tuple(tensor.shape), tensor.dtype
    if tensor.numel() == 0 or tensor.device.type != "cpu" or dtype.is_complex:
        return None
    first = tensor.flatten()[0]
    if torch.equal(tensor, first.expand(shape)):
        if not shape:
            return [Call("scalar_tensor", (first.item(), dtype))]
        return [Call("full", (shape, first.item(), dtype))]
    row = torch.arange(shape[-1], dtype=torch.int64)
    if dtype == torch.int64 and torch.equal(tensor, row.expand(shape)):
        return [Call("arange", (shape[-1], dtype)), Call("expand", (shape,), previous=True)]
    return None
