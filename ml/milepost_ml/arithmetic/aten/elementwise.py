"""Elementwise operators and reductions: rules E6 to E8, E14 to E20 and E33."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from milepost_ml.arithmetic.select import get_backend
from milepost_ml.arithmetic.table import (
    Handler,
    computes,
    computes_in_place,
    normalize_dims,
    passes,
    refuse,
    require_float32,
)

# One IEEE operation an element, the same in every kernel that PyTorch has for them.
passes(
    *("abs", "ceil", "floor", "mul.Scalar", "mul.Tensor", "mul_.Scalar", "mul_.Tensor", "neg"),
    *("neg_", "reciprocal", "round"),
    *("sgn", "sign", "trunc"),
)

_ADD: Final = torch.ops.aten.add.Tensor
_ADD_IN_PLACE: Final = torch.ops.aten.add_.Tensor
_SUB: Final = torch.ops.aten.sub.Tensor
_MAX_POWER: Final = 64


def _is_float(a: Tensor, b: Tensor) -> bool:
    return a.dtype.is_floating_point or b.dtype.is_floating_point


def _add_scaled(name: str, a: Tensor, b: Tensor | float, alpha: float) -> Tensor:
    if not isinstance(b, Tensor):
        kind = a.dtype if a.dtype.is_floating_point else None
        b = torch.tensor(b, dtype=kind, device=a.device)
    if not _is_float(a, b):
        plain: Tensor = _ADD(a, b, alpha=alpha)
        return plain
    require_float32(name, (a, b))
    return get_backend(a).add_scaled(a, b, alpha)


@computes("add.Tensor", "add.Scalar")
def _add(a: Tensor, b: Tensor | float, alpha: float = 1) -> Tensor:
    if alpha == 1:
        plain: Tensor = _ADD(a, b)
        return plain
    return _add_scaled("add with alpha", a, b, alpha)


@computes("add_.Tensor")
def _add_in_place(a: Tensor, b: Tensor | float, *, alpha: float = 1) -> Tensor:
    if alpha == 1:
        plain: Tensor = _ADD_IN_PLACE(a, b)
        return plain
    return a.copy_(_add(a, b, alpha=alpha))


@computes("sub.Tensor", "sub.Scalar")
def _sub(a: Tensor, b: Tensor | float, alpha: float = 1) -> Tensor:
    if alpha == 1:
        plain: Tensor = _SUB(a, b)
        return plain
    # The sign of a product changes no bit else.
    return _add_scaled("sub with alpha", a, b, -alpha)


def divide(a: Tensor, b: Tensor | float) -> Tensor:
    """a / b, one operation an element on every device."""
    # On a GPU, PyTorch multiplies with the inverse of a number that lies on the processor.
    if a.is_cuda and not (isinstance(b, Tensor) and b.is_cuda):
        b = torch.as_tensor(b, dtype=torch.float32, device=a.device)
    return torch.div(a, b)


computes("div.Scalar", "div.Tensor")(divide)


@computes("rsub.Tensor")
def _rsub(a: Tensor, b: Tensor, *, alpha: float = 1) -> Tensor:
    return _sub(b, a, alpha=alpha)


@computes("rsub.Scalar")
def _rsub_number(a: Tensor, b: float, alpha: float = 1) -> Tensor:
    if alpha != 1:
        raise refuse("rsub", f"with alpha={alpha}")
    return b - a


@computes("addcmul")
def _addcmul(a: Tensor, b: Tensor, c: Tensor, *, value: float = 1) -> Tensor:
    require_float32("addcmul", (a, b, c))
    return get_backend(a).addcmul(a, b, c, value)


@computes("addcdiv")
def _addcdiv(a: Tensor, b: Tensor, c: Tensor, *, value: float = 1) -> Tensor:
    require_float32("addcdiv", (a, b, c))
    return get_backend(a).addcdiv(a, b, c, value)


@computes("lerp.Scalar")
def _lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    require_float32("lerp", (start, end))
    return get_backend(start).lerp(start, end, weight)


@computes("pow.Tensor_Scalar")
def _pow(x: Tensor, exponent: float) -> Tensor:
    if exponent < 0:
        return _pow(x, -exponent).reciprocal()
    if exponent == 0.5:
        return get_backend(x).sqrt(x)
    if exponent == int(exponent) <= _MAX_POWER:
        power = x.clone() if exponent else torch.ones_like(x)
        for _ in range(1, int(exponent)):
            power *= x
        return power
    raise refuse(
        "pow", f"with the exponent {exponent}; whole numbers up to {_MAX_POWER} and 0.5 have rules"
    )


@computes("maximum")
def _maximum(a: Tensor, b: Tensor) -> Tensor:
    if not _is_float(a, b):
        return torch.maximum(a, b)
    require_float32("maximum", (a, b))
    return get_backend(a).maximum(a, b)


@computes("minimum")
def _minimum(a: Tensor, b: Tensor) -> Tensor:
    if not _is_float(a, b):
        return torch.minimum(a, b)
    require_float32("minimum", (a, b))
    return get_backend(a).minimum(a, b)


def _fill(x: Tensor, value: float) -> Tensor:
    return torch.full((), value, dtype=x.dtype, device=x.device)


@computes("clamp")
def _clamp(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    if not x.dtype.is_floating_point:
        return torch.clamp(x, low, high)
    if low is not None:
        x = _maximum(x, _fill(x, low))
    return x if high is None else _minimum(x, _fill(x, high))


@computes("clamp_min")
def _clamp_min(x: Tensor, low: float) -> Tensor:
    return _clamp(x, low)


@computes("clamp_max")
def _clamp_max(x: Tensor, high: float) -> Tensor:
    return _clamp(x, None, high)


@computes("clamp.Tensor")
def _clamp_tensor(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = _maximum(x, low)
    return x if high is None else _minimum(x, high)


@computes("hardtanh")
def _hardtanh(x: Tensor, low: float = -1, high: float = 1) -> Tensor:
    return _clamp(x, low, high)


@computes("hardtanh_backward")
def _hardtanh_backward(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    require_float32("hardtanh_backward", (gradient, x))
    return get_backend(x).hardtanh_backward(gradient, x, low, high)


@computes("threshold_backward")
def _threshold_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    require_float32("threshold_backward", (gradient, x))
    return get_backend(x).threshold_backward(gradient, x, threshold)


@computes("leaky_relu")
def _leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    require_float32("leaky_relu", (x,))
    return get_backend(x).leaky_relu(x, slope)


@computes("leaky_relu_backward")
def _leaky_relu_backward(gradient: Tensor, x: Tensor, slope: float, of_result: bool) -> Tensor:
    require_float32("leaky_relu_backward", (gradient, x))
    return get_backend(x).leaky_relu_backward(gradient, x, slope)


@computes("gelu")
def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    require_float32("gelu", (x,))
    return get_backend(x).gelu(x, approximate)


@computes("gelu_backward")
def _gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    require_float32("gelu_backward", (gradient, x))
    return get_backend(x).gelu_backward(gradient, x, approximate)


def _apply(name: str) -> Handler:
    """The operator of one tensor that the backend has under the same name."""

    def handler(x: Tensor) -> Tensor:
        require_float32(name, (x,))
        result: Tensor = getattr(get_backend(x), name)(x)
        return result

    return handler


def _apply_backward(name: str) -> Handler:
    """The gradient that the backend has under the same name."""

    def handler(gradient: Tensor, x: Tensor) -> Tensor:
        require_float32(name, (gradient, x))
        result: Tensor = getattr(get_backend(x), name)(gradient, x)
        return result

    return handler


for _name in ("erf", "exp", "log", "relu", "rsqrt", "sigmoid", "silu", "sqrt", "tanh"):
    computes(_name)(_apply(_name))
    computes_in_place(f"{_name}_", _apply(_name))
for _name in ("sigmoid_backward", "silu_backward", "tanh_backward"):
    computes(_name)(_apply_backward(_name))
computes_in_place("div_.Scalar", divide)
computes_in_place("div_.Tensor", divide)
computes_in_place("sub_.Tensor", _sub)
computes_in_place("add_.Scalar", _add)
computes_in_place("sub_.Scalar", _sub)
computes_in_place("addcmul_", _addcmul)
computes_in_place("addcdiv_", _addcdiv)
computes_in_place("lerp_.Scalar", _lerp)
computes_in_place("clamp_", _clamp)
computes_in_place("clamp_min_", _clamp_min)
computes_in_place("clamp_max_", _clamp_max)
computes_in_place("hardtanh_", _hardtanh)
computes_in_place("leaky_relu_", _leaky_relu)
computes_in_place("reciprocal_", torch.reciprocal)
computes_in_place("pow_.Scalar", _pow)

# Reductions --------------------------------------------------------------------------------------


def sum_exactly(x: Tensor, dims: Sequence[int] | int | None, keepdim: bool = False) -> Tensor:
    """Rule E7 with PyTorch's meaning of the dimensions."""
    chosen = normalize_dims(x, dims)
    if not chosen.dims:  # of a single number
        return x + 0.0
    result = get_backend(x).sum(x, chosen.dims)
    return result.view(chosen.kept) if keepdim else result


@computes("sum.dim_IntList")
def _sum_dims(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    if not x.dtype.is_floating_point:
        counted: Tensor = torch.ops.aten.sum.dim_IntList(x, dims, keepdim)
        return counted if dtype is None else counted.to(dtype)
    require_float32("sum", (x,))
    if dtype not in (None, torch.float32):
        raise refuse("sum", f"with dtype={dtype}; exact arithmetic computes float32")
    return sum_exactly(x, dims, keepdim)


@computes("sum")
def _sum(x: Tensor, *, dtype: Any = None) -> Tensor:
    return _sum_dims(x, None, dtype=dtype)


@computes("mean.dim")
def _mean_dims(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    if dtype not in (None, torch.float32):
        raise refuse("mean", f"with dtype={dtype}; exact arithmetic computes float32")
    require_float32("mean", (x,))
    return divide(sum_exactly(x, dims, keepdim), normalize_dims(x, dims).elements)


@computes("mean")
def _mean(x: Tensor, *, dtype: Any = None) -> Tensor:
    return _mean_dims(x, None, dtype=dtype)


@computes("var.correction")
def _var(
    x: Tensor,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Tensor:
    require_float32("var", (x,))
    count = normalize_dims(x, dims).elements
    distance = x - divide(sum_exactly(x, dims, keepdim=True), count)
    total = sum_exactly(distance * distance, dims, keepdim)
    return divide(total, max(count - (1 if correction is None else correction), 0))


@computes("var_mean.correction")
def _var_mean(
    x: Tensor,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    return _var(x, dims, correction=correction, keepdim=keepdim), _mean_dims(x, dims, keepdim)


@computes("std.correction")
def _std(x: Tensor, dims: Sequence[int] | None = None, **options: Any) -> Tensor:
    return get_backend(x).sqrt(_var(x, dims, **options))


@computes("linalg_vector_norm")
def compute_norm(
    x: Tensor,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    require_float32("linalg_vector_norm", (x,))
    if order == 2 and dtype is None:
        return get_backend(x).sqrt(sum_exactly(x * x, dims, keepdim))
    if order == 1 and dtype is None:
        return sum_exactly(x.abs(), dims, keepdim)
    if order == math.inf and dtype is None:
        return _amax(x.abs(), dims or (), keepdim)
    raise refuse("linalg_vector_norm", f"of order {order}; 1, 2 and infinity have rules")


@computes("amax")
def _amax(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    if not x.dtype.is_floating_point:
        return torch.amax(x, tuple(dims), keepdim)
    require_float32("amax", (x,))
    chosen = normalize_dims(x, dims)
    if not chosen.dims:
        return x + 0.0
    result = get_backend(x).amax(x, chosen.dims)
    return result.view(chosen.kept) if keepdim else result


@computes("amin")
def _amin(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    if not x.dtype.is_floating_point:
        return torch.amin(x, tuple(dims), keepdim)
    return -_amax(-x, dims, keepdim)


@computes("max")
def _max(x: Tensor) -> Tensor:
    return _amax(x)


@computes("min")
def _min(x: Tensor) -> Tensor:
    return _amin(x)
