"""Products of matrices and convolutions: rules E10 to E13."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.select import get_backend
from milepost_ml.arithmetic.table import computes, refuse, require_float32


@computes("mm", "bmm")
def _mm(a: Tensor, b: Tensor) -> Tensor:
    require_float32("mm", (a, b))
    return get_backend(a).matmul(a, b)


@computes("mv")
def _mv(a: Tensor, b: Tensor) -> Tensor:
    require_float32("mv", (a, b))
    return get_backend(a).matmul(a, b.unsqueeze(1)).squeeze(1)


@computes("dot")
def _dot(a: Tensor, b: Tensor) -> Tensor:
    require_float32("dot", (a, b))
    return get_backend(a).matmul(a.unsqueeze(0), b.unsqueeze(1)).view(())


def _affine(name: str, bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    require_float32(name, (bias, a, b))
    backend = get_backend(a)
    if beta == 1 and alpha == 1 and bias.ndim == 1 and bias.shape[0] == b.shape[-1]:
        return backend.matmul(a, b, bias)
    product = backend.matmul(a, b)
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return product + (bias if beta == 1 else bias * beta)


@computes("addmm")
def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _affine("addmm", bias, a, b, beta, alpha)


@computes("baddbmm")
def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _affine("baddbmm", bias, a, b, beta, alpha)


@computes("addmv")
def _addmv(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    column = bias.unsqueeze(-1) if bias.ndim else bias
    return _affine("addmv", column, a, b.unsqueeze(1), beta, alpha).squeeze(1)


def _make_shape(
    name: str,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    groups: int,
) -> Convolution:
    if transposed:
        raise refuse(name, "transposed convolutions have no rule; upsample and convolve")
    if weight.ndim not in (3, 4):
        raise refuse(name, f"over {weight.ndim - 2} dimensions; there are rules for one and two")

    def pair(values: Sequence[int], missing: int) -> tuple[int, int]:
        full = [*values] if len(values) == weight.ndim - 2 else [*values] * (weight.ndim - 2)
        return (missing, full[0]) if len(full) == 1 else (full[0], full[1])

    return Convolution(pair(stride, 1), pair(padding, 0), pair(dilation, 1), groups)


@computes("convolution")
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    require_float32("convolution", (x, weight, bias))
    shape = _make_shape("convolution", weight, stride, padding, dilation, transposed, groups)
    backend = get_backend(x)
    if weight.ndim == 4:
        return backend.convolution(x, weight, bias, shape)
    return backend.convolution(x.unsqueeze(2), weight.unsqueeze(2), bias, shape).squeeze(2)


@computes("convolution_backward")
def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    name = "convolution_backward"
    require_float32(name, (gradient, x, weight))
    shape = _make_shape(name, weight, stride, padding, dilation, transposed, groups)
    backend = get_backend(x)
    lines = weight.ndim == 3
    if lines:
        gradient, x, weight = gradient.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2)
    of_x = backend.convolution_input(gradient, weight, x.shape, shape) if wanted[0] else None
    of_weight = backend.convolution_weight(gradient, x, weight.shape, shape) if wanted[1] else None
    of_bias = backend.sum(gradient, (0, 2, 3)) if wanted[2] else None
    if lines:
        of_x = None if of_x is None else of_x.squeeze(2)
        of_weight = None if of_weight is None else of_weight.squeeze(2)
    return of_x, of_weight, of_bias
