"""Which ATen operators exact arithmetic knows, and what becomes of each.

An operator either passes to PyTorch, because each of its results is one IEEE operation, a copy or
an integer; or it has a handler, which computes it by the rules of docs/spec/arithmetic.md; or it
is not here and is refused.  Operators are keyed by overload, so that no variant slips through.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import torch

from milepost_ml.errors import RefusedOperator

Handler = Callable[..., Any]

_FLOAT32: Final = torch.float32

HANDLERS: Final[dict[Any, Handler | None]] = {}
"""By overload; an operator that passes is its own handler, one that moves has none."""


def get_overload(name: str) -> Any:
    """The operator of a name such as "add.Tensor"; the overload "default" may be left out."""
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def passes(*names: str) -> None:
    """PyTorch's own kernel computes these."""
    for name in names:
        overload = get_overload(name)
        HANDLERS[overload] = overload


def moves(*names: str) -> None:
    """PyTorch makes these itself: views, copies and fresh tensors, in which nothing is computed.

    They are spared the way through Python, and what they are made of comes by these rules again.
    """
    for name in names:
        HANDLERS[get_overload(name)] = None


def computes(*names: str) -> Callable[[Handler], Handler]:
    """Decorator: the function computes the operators of these names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[get_overload(name)] = handler
        return handler

    return register


def computes_in_place(name: str, handler: Handler) -> None:
    """The operator `name` writes what `handler` computes into its first argument."""

    def write(target: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return target.copy_(handler(target, *args, **kwargs))

    HANDLERS[get_overload(name)] = write


def refuse(name: str, why: str) -> RefusedOperator:
    """The error for an operator that exact arithmetic cannot compute this way."""
    return RefusedOperator(name, why)


def require(condition: bool, name: str, what: str, *values: object) -> None:
    """Raises RuntimeError, as PyTorch's own checks do, which this arithmetic goes around.

    `what` is formatted with the values, shapes mostly, when it is needed.
    """
    if not condition:
        raise RuntimeError(f"{name}: {what.format(*map(_describe, values))}")


def _describe(value: object) -> object:
    return list(value) if isinstance(value, torch.Size) else value


def require_float32(name: str, tensors: Iterable[torch.Tensor | None]) -> None:
    """Raises RefusedOperator unless all tensors that are there hold float32 on one device."""
    is_cpu = None
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype is not _FLOAT32:
            raise refuse(name, f"it is given {tensor.dtype}; exact arithmetic computes float32")
        if is_cpu is not tensor.is_cpu:
            require(is_cpu is None, name, "its tensors lie on different devices")
            is_cpu = tensor.is_cpu


class Dims(NamedTuple):
    """Reduced dimensions, and the shape of the result with them kept as ones."""

    dims: tuple[int, ...]
    kept: tuple[int, ...]
    elements: int
    """Elements that one result is made of."""


def normalize_dims(x: torch.Tensor, dims: Sequence[int] | int | None) -> Dims:
    """Reduced dimensions as PyTorch means them: none given are all."""
    listed = (dims,) if isinstance(dims, int) else tuple(dims or ())
    return _normalize_dims(tuple(x.shape), listed)


@functools.lru_cache(maxsize=1024)
def _normalize_dims(shape: tuple[int, ...], dims: tuple[int, ...]) -> Dims:
    for dim in dims:
        if not -max(len(shape), 1) <= dim < max(len(shape), 1):
            raise IndexError(f"dimension {dim} of a tensor with {len(shape)} dimensions")
    chosen = sorted({dim % len(shape) for dim in dims} if dims and shape else range(len(shape)))
    kept = tuple(1 if dim in chosen else size for dim, size in enumerate(shape))
    return Dims(tuple(chosen), kept, math.prod(shape[dim] for dim in chosen))
