"""One update of all parameters: fused optimizers and clipping, rules E28, E29 and E36."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from milepost_ml.arithmetic.aten.elementwise import compute_norm
from milepost_ml.arithmetic.select import get_backend
from milepost_ml.arithmetic.table import computes, passes, refuse, require, require_float32

passes("_foreach_add_.Scalar")  # the counters of steps: whole numbers


@computes("_foreach_norm.Scalar")
def _norms(tensors: Sequence[Tensor], order: float = 2, dtype: Any = None) -> list[Tensor]:
    return [compute_norm(each, order, dtype=dtype) for each in tensors]


@computes("_foreach_mul_.Tensor")
def _scale(tensors: Sequence[Tensor], factor: Tensor) -> None:
    require_float32("_foreach_mul_", (*tensors, factor))
    for each in tensors:
        each.mul_(factor)


@computes("_foreach_clamp_min_.Scalar")
def _clamp_below(tensors: Sequence[Tensor], low: float) -> None:
    require_float32("_foreach_clamp_min_", tensors)
    _require_bound("_foreach_clamp_min_", low)
    for each in tensors:
        each.clamp_min_(low)


@computes("_foreach_clamp_max_.Scalar")
def _clamp_above(tensors: Sequence[Tensor], high: float) -> None:
    require_float32("_foreach_clamp_max_", tensors)
    _require_bound("_foreach_clamp_max_", high)
    for each in tensors:
        each.clamp_max_(high)


def _require_bound(name: str, bound: float) -> None:
    """PyTorch's kernels give one answer unless a zero meets a bound of the other sign."""
    if bound == 0:
        raise refuse(name, "with the bound 0")


def _validate(
    name: str,
    changed: Sequence[Sequence[Tensor]],
    gradients: Sequence[Tensor],
    unusual: tuple[bool, Tensor | None, Tensor | None],
) -> Sequence[Tensor]:
    """The gradients, contiguous, after checking everything that a step is given."""
    shapes = [tensor.shape for tensor in changed[0]]
    if unusual != (False, None, None):
        raise refuse(name, f"with maximize, grad_scale, found_inf = {unusual}")
    for tensors in (*changed, gradients):
        require([t.shape for t in tensors] == shapes or not tensors, name, "its tensors do not fit")
    for tensors in changed:
        for tensor in tensors:
            if tensor.dtype is not torch.float32 or not tensor.is_contiguous():
                require_float32(name, tensors)
                raise refuse(name, "a parameter or its state is not contiguous")
    require_float32(name, gradients)
    return [g if g.is_contiguous() else g.contiguous() for g in gradients]


@computes("_fused_sgd_")
def _sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    weight_decay: float,
    momentum: float,
    lr: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    is_first_step: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    name, unusual = "_fused_sgd_", (maximize, grad_scale, found_inf)
    get_backend(parameters[0]).sgd(
        parameters,
        _validate(name, (parameters, momenta), gradients, unusual),
        momenta,
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        first=is_first_step,
    )


def _adam(name: str, decoupled: bool) -> Any:
    def step(
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        averages: Sequence[Tensor],
        squares: Sequence[Tensor],
        maxima: Sequence[Tensor],
        steps: Sequence[Tensor],
        *,
        lr: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
        eps: float,
        amsgrad: bool,
        maximize: bool,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> None:
        changed, unusual = (
            (parameters, averages, squares, maxima),
            (maximize, grad_scale, found_inf),
        )
        get_backend(parameters[0]).adam(
            parameters,
            _validate(name, changed, gradients, unusual),
            averages,
            squares,
            maxima if amsgrad else (),
            steps,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            decoupled=decoupled,
        )

    return step


computes("_fused_adam_")(_adam("_fused_adam_", decoupled=False))
computes("_fused_adamw_")(_adam("_fused_adamw_", decoupled=True))
