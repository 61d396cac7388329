"""Gradients of single operators as PyTorch's formulas give them [E31]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.reference.elementwise import amax, power, rsqrt, sign
from tests.reference.functions import exp
from tests.reference.pooling import index_add
from tests.reference.products import compute_mean, compute_sum, matmul

Array = npt.NDArray[Any]
Formula = Callable[..., tuple[Array, ...]]

_F = np.float32
_HALF: Final = _F(0.5)
ALPHA: Final = 0.3
NUMBER: Final = 3.0
LOW, HIGH = -0.5, 1.0


def _take_larger(gradient: Array, a: Array, b: Array) -> Array:
    """What `a` gets of the gradient of maximum(a, b): half where they are equal."""
    return np.where(a < b, _F(0), np.where(a == b, gradient / _F(2), gradient))


def _share_largest(g: Array, x: Array) -> Array:
    """amax over dimension 1: equal largest elements share."""
    largest = x == amax(x, [1])[:, None]
    result: Array = (g[:, None] * largest) / largest.sum(1, keepdims=True).astype(_F)
    return result


def _differentiate_var(g: Array, x: Array) -> Array:
    """Over dimension 1 with correction 1."""
    factor = _F(2.0 / (x.shape[1] - 1))
    result: Array = (factor * g)[:, None] * (x - compute_mean(x, [1])[:, None])
    return result


def _differentiate_linear(g: Array, x: Array, w: Array) -> tuple[Array, ...]:
    """Over the last of three dimensions; the bias is a third input."""
    rows, columns = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
    of_x = matmul(rows, w).reshape(x.shape)
    return of_x, matmul(rows.T, columns), compute_sum(rows, [0])


def _put(shape: Sequence[int], place: int, g: Array) -> Array:
    result = np.zeros(shape, np.float32)
    result[place] = g
    return result


GRADIENTS: Final[dict[str, Formula]] = {
    "add a row": lambda g, a, row: (g, compute_sum(g, [0])[None]),
    "add alpha": lambda g, a, b: (g, g * _F(ALPHA)),
    "sub": lambda g, a, b: (g, -g),
    "mul": lambda g, a, b: (g * b, g * a),
    "mul a column": lambda g, a, column: (g * column, compute_sum(g * a, [1])[:, None]),
    "mul number": lambda g, x: (g * _F(NUMBER),),
    "div": lambda g, a, b: (g / b, -g * ((a / b) / b)),
    "div number": lambda g, x: (g / _F(NUMBER),),
    "neg": lambda g, x: (-g,),
    "abs": lambda g, x: (g * sign(x),),
    "exp": lambda g, x: (g * exp(x),),
    "log": lambda g, x: (g / x,),
    "sqrt": lambda g, x: (g / (_F(2) * np.sqrt(x)),),
    "rsqrt": lambda g, x: ((-_HALF * g) * power(rsqrt(x), 3),),
    "reciprocal": lambda g, x: (-g * ((_F(1) / x) * (_F(1) / x)),),
    "pow 2": lambda g, x: (g * (_F(2) * x),),
    "pow 3": lambda g, x: (g * (_F(3) * (x * x)),),
    "maximum": lambda g, a, b: (_take_larger(g, a, b), _take_larger(g, b, a)),
    "minimum": lambda g, a, b: (_take_larger(g, -a, -b), _take_larger(g, -b, -a)),
    "clamp": lambda g, x: (np.where((x >= _F(LOW)) & (x <= _F(HIGH)), g, _F(0)),),
    "amax": lambda g, x: (_share_largest(g, x),),
    "sum": lambda g, x: (np.broadcast_to(g[:, None], x.shape),),
    "mean": lambda g, x: (np.broadcast_to(g[:, None] / _F(x.shape[1]), x.shape),),
    "var": lambda g, x: (_differentiate_var(g, x),),
    "matmul": lambda g, a, b: (matmul(g, b.T), matmul(a.T, g)),
    "linear": lambda g, x, w, bias: _differentiate_linear(g, x, w),
    "two rows": lambda g, x: (_put(x.shape, 1, g) + _put(x.shape, 0, g),),
    "embedding": lambda g, table, index: (index_add(np.zeros_like(table), index, g, -1),),
}
"""By operator: the gradient of the result and the inputs give those of the inputs."""


def gradient(of: str, gradient: Array, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """[E31] of a named operator."""
    return GRADIENTS[of](gradient, *inputs)
