"""Products of matrices and convolutions: rules E10 to E13."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.select import get_backend
from milepost_ml.arithmetic.table import computes, refuse, require, require_float32


def _validate(name: str, a: Tensor, b: Tensor, dims: int) -> None:
    require_float32(name, (a, b))
    require(
        a.ndim == b.ndim == dims and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2],
        name,
        "{} and {} cannot be multiplied",
        a.shape,
        b.shape,
    )


@computes("mm")
def _mm(a: Tensor, b: Tensor) -> Tensor:
    _validate("mm", a, b, 2)
    return get_backend(a).matmul(a, b)


@computes("bmm")
def _bmm(a: Tensor, b: Tensor) -> Tensor:
    _validate("bmm", a, b, 3)
    return get_backend(a).matmul(a, b)


@computes("mv")
def _mv(a: Tensor, b: Tensor) -> Tensor:
    return _mm(a, b.unsqueeze(-1)).squeeze(1)


@computes("dot")
def _dot(a: Tensor, b: Tensor) -> Tensor:
    return _mm(a.unsqueeze(0), b.unsqueeze(-1)).view(())


def _affine(name: str, bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    require_float32(name, (bias,))
    _validate(name, a, b, 3 if name == "baddbmm" else 2)
    backend = get_backend(a)
    if beta == 1 and alpha == 1 and bias.ndim == 1 and bias.shape[0] == b.shape[-1]:
        return backend.matmul(a, b, bias)
    product = backend.matmul(a, b)
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return product + (bias if beta == 1 else bias * beta).expand(product.shape)


@computes("addmm")
def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _affine("addmm", bias, a, b, beta, alpha)


@computes("baddbmm")
def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _affine("baddbmm", bias, a, b, beta, alpha)


@computes("addmv")
def _addmv(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    column = bias.unsqueeze(-1) if bias.ndim else bias
    return _affine("addmv", column, a, b.unsqueeze(-1), beta, alpha).squeeze(1)


def _make_shape(
    name: str,
    x: Tensor,
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
    return _validate_shape(
        name, x.shape, weight.shape, tuple(stride), tuple(padding), tuple(dilation), groups
    )


@functools.lru_cache(maxsize=1024)
def _validate_shape(
    name: str,
    x: torch.Size,
    weight: torch.Size,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Convolution:
    """The geometry, over two dimensions where there is one."""

    def pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
        full = values if len(values) == len(weight) - 2 else values * (len(weight) - 2)
        return (missing, full[0]) if len(full) == 1 else (full[0], full[1])

    shape = Convolution(pair(stride, 1), pair(padding, 0), pair(dilation, 1), groups)
    fits = (
        groups > 0
        and len(x) == len(weight)
        and weight[0] % groups == 0
        and x[1] == weight[1] * groups
    )
    require(fits, name, "a weight {} in {} groups does not fit an input {}", weight, groups, x)
    sizes, kernels = (x[2:], weight[2:]) if len(x) == 4 else ((1, *x[2:]), (1, *weight[2:]))
    for size, width, step, pad, gap in zip(sizes, kernels, *shape[:3], strict=True):
        fits = fits and width > 0 and step > 0 and pad >= 0 and gap > 0
        fits = fits and gap * (width - 1) + 1 <= size + 2 * pad
    require(fits, name, "a weight {} does not fit an input {} with {}", weight, x, shape)
    return shape


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
    shape = _make_shape("convolution", x, weight, stride, padding, dilation, transposed, groups)
    require(
        bias is None or bias.shape == weight.shape[:1],
        "convolution",
        "its bias does not fit a weight {}",
        weight.shape,
    )
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
    shape = _make_shape(name, x, weight, stride, padding, dilation, transposed, groups)
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
