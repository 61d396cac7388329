"""Softmax and losses: rules E21, E22, E27 and E34."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from milepost_ml.arithmetic.aten.elementwise import divide, sum_exactly
from milepost_ml.arithmetic.select import get_backend
from milepost_ml.arithmetic.table import computes, refuse, require, require_float32

_NONE, _MEAN = 0, 1
"""Reductions as PyTorch numbers them; 2 is the sum."""


def _reduce(values: Tensor, reduction: int) -> Tensor:
    if reduction == _NONE:
        return values
    total = sum_exactly(values, None)
    return divide(total, values.numel()) if reduction == _MEAN else total


@computes("_softmax")
def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    require_float32("softmax", (x,))
    return get_backend(x).softmax(x, dim)


@computes("_safe_softmax")
def _safe_softmax(x: Tensor, dim: int, dtype: object = None) -> Tensor:
    """Rows that are all masked give zeros."""
    require_float32("softmax", (x,))
    backend = get_backend(x)
    result = backend.softmax(x, dim)
    masked = backend.amax(x, (dim % x.ndim,)) == -math.inf
    return result.masked_fill_(masked.unsqueeze(dim), 0.0) if masked.any() else result


@computes("_softmax_backward_data")
def _softmax_backward(gradient: Tensor, result: Tensor, dim: int, dtype: object) -> Tensor:
    require_float32("softmax_backward", (gradient, result))
    return get_backend(result).softmax_backward(gradient, result, dim)


@computes("_log_softmax")
def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    require_float32("log_softmax", (x,))
    return get_backend(x).log_softmax(x, dim)


@computes("_log_softmax_backward_data")
def _log_softmax_backward(gradient: Tensor, result: Tensor, dim: int, dtype: object) -> Tensor:
    require_float32("log_softmax_backward", (gradient, result))
    return get_backend(result).log_softmax_backward(gradient, result, dim)


def _validate_targets(
    name: str, x: Tensor, target: Tensor, weight: Tensor | None, dims: int
) -> None:
    require_float32(name, (x, weight))
    classes = x.shape[-1] if x.ndim == 1 else x.shape[1] if x.ndim else 0
    rows = (*x.shape[:1], *x.shape[2:]) if x.ndim > 1 else ()
    require(
        x.ndim in (1, 2, 4)
        and target.ndim == dims
        and tuple(target.shape) == rows
        and target.dtype is torch.int64
        and (weight is None or tuple(weight.shape) == (classes,)),
        name,
        "{} targets {} or weights do not fit {}",
        target.dtype,
        target.shape,
        x.shape,
    )


@computes("nll_loss_forward")
def _nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    _validate_targets("nll_loss", x, target, weight, x.ndim - 1)
    backend = get_backend(x)
    if x.ndim == 1:
        loss, total = backend.nll_loss(
            x.unsqueeze(0), target.view(1), weight, reduction, ignore_index
        )
        return loss.view(()), total
    return backend.nll_loss(x, target, weight, reduction, ignore_index)


@computes("nll_loss_backward")
def _nll_loss_backward(
    gradient: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total: Tensor,
) -> Tensor:
    require_float32("nll_loss_backward", (gradient, x, weight))
    rows, targets = (x.unsqueeze(0), target.view(1)) if x.ndim == 1 else (x, target)
    if gradient.ndim == 0 and reduction == _NONE:
        gradient = gradient.view(1)
    result = get_backend(x).nll_loss_backward(
        gradient, rows, targets, weight, reduction, ignore_index, total
    )
    return result.view(x.shape)


def _get_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) as one row of classes for every target."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


@computes("nll_loss2d_forward")
def _nll_loss2d(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    _validate_targets("nll_loss2d", x, target, weight, 3)
    loss, total = get_backend(x).nll_loss(
        _get_rows(x), target.reshape(-1), weight, reduction, ignore_index
    )
    return (loss.view(target.shape) if reduction == _NONE else loss), total


@computes("nll_loss2d_backward")
def _nll_loss2d_backward(
    gradient: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total: Tensor,
) -> Tensor:
    require_float32("nll_loss2d_backward", (gradient, x, weight))
    images, classes, height, width = x.shape
    rows = get_backend(x).nll_loss_backward(
        gradient.reshape(-1) if reduction == _NONE else gradient,
        _get_rows(x),
        target.reshape(-1),
        weight,
        reduction,
        ignore_index,
        total,
    )
    return rows.view(images, height, width, classes).permute(0, 3, 1, 2).contiguous()


@computes("mse_loss")
def _mse_loss(x: Tensor, target: Tensor, reduction: int = _MEAN) -> Tensor:
    require_float32("mse_loss", (x, target))
    distance = x - target
    return _reduce(distance * distance, reduction)


@computes("mse_loss_backward")
def _mse_loss_backward(gradient: Tensor, x: Tensor, target: Tensor, reduction: int) -> Tensor:
    require_float32("mse_loss_backward", (gradient, x, target))
    distance = x - target
    return (distance * (2.0 / distance.numel() if reduction == _MEAN else 2.0)) * gradient


@computes("binary_cross_entropy_with_logits")
def _bce_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = _MEAN,
) -> Tensor:
    name = "binary_cross_entropy_with_logits"
    if weight is not None or pos_weight is not None:
        raise refuse(name, "with weights; multiply the unreduced loss instead")
    require_float32(name, (x, target))
    backend = get_backend(x)
    softplus = backend.log(backend.exp(-x.abs()) + 1.0)
    return _reduce((backend.relu(x) - x * target) + softplus, reduction)
