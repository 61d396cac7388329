"""Softmax, its logarithm and the loss of classes: rules E21 and E22."""

from __future__ import annotations

from typing import Any, Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu import sums
from milepost_ml.arithmetic.gpu.doubles import exp32, log64
from milepost_ml.arithmetic.gpu.lanes import fold, fold_maximum, maximum
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous

_ROWS: Final = 16
_NONE: Final = 0
_MEAN: Final = 1


@jit
def _forward(
    x: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    n: tl.tensor,
    logarithm: tl.constexpr,
    rows: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    lane = tl.arange(0, 16)
    p = tl.full((rows, 16), float("-inf"), tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        p = maximum(p, tl.load(x + place, mask=inside, other=float("-inf")))
    m = fold_maximum(p, rows)[:, None]
    p = tl.zeros((rows, 16), tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        e = exp32(tl.load(x + place, mask=inside, other=0.0) - m)
        p = p + tl.where(inside, e, 0.0)
    s = fold(p, rows)[:, None]
    if logarithm:
        s = log64(s.to(tl.float64)).to(tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        d = tl.load(x + place, mask=inside, other=0.0) - m
        if logarithm:
            y = d - s
        else:
            y = tl.div_rn(exp32(d), s)
        tl.store(out + place, y, mask=inside)


@jit
def _backward(
    gradient: tl.tensor,
    result: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    n: tl.tensor,
    logarithm: tl.constexpr,
    rows: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    lane = tl.arange(0, 16)
    p = tl.zeros((rows, 16), tl.float32)
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        q = tl.load(gradient + place, mask=inside, other=0.0)
        if not logarithm:
            q = q * tl.load(result + place, mask=inside, other=0.0)
        p = p + q
    t = fold(p, rows)[:, None]
    for first in range(0, n, 16):
        i = first + lane
        inside = (row < count)[:, None] & (i < n)[None, :]
        place = row[:, None] * n + i[None, :]
        g = tl.load(gradient + place, mask=inside, other=0.0)
        y = tl.load(result + place, mask=inside, other=0.0)
        if logarithm:
            z = g - (exp32(y) * t)
        else:
            z = y * (g - t)
        tl.store(out + place, z, mask=inside)


def _run(kernel: Any, dim: int, logarithm: bool, *tensors: Tensor) -> Tensor:
    """Rows along `dim` of tensors of one shape."""
    if tensors[0].ndim == 0:
        return _run(kernel, 0, logarithm, *(tensor.view(1) for tensor in tensors)).view(())
    rows = [make_contiguous(tensor.movedim(dim, -1)) for tensor in tensors]
    out = torch.empty_like(rows[0])
    n = out.shape[-1]
    count = out.numel() // n if n else 0
    programs = divide_up(count, _ROWS)
    launch(kernel, programs, (*rows, out, count, n), logarithm=logarithm, rows=_ROWS)
    return make_contiguous(out.movedim(-1, dim))


def softmax(x: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _run(_forward, dim, False, x)


def softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _run(_backward, dim, False, gradient, result)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _run(_forward, dim, True, x)


def log_softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _run(_backward, dim, True, gradient, result)


def _find_places(target: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which targets count, and the column of each; 0 for those that do not."""
    kept = target != ignore_index
    if bool((kept & ((target < 0) | (target >= classes))).any()):
        raise IndexError(f"a target is not in [0, {classes})")
    return kept, torch.where(kept, target, 0)


def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """[E22] selections and single operations are PyTorch's, sums are S."""
    kept, places = _find_places(target, x.shape[1], ignore_index)
    v = -x.gather(1, places.unsqueeze(1)).squeeze(1)
    if weight is not None:
        weights = weight[places]
        v = v * weights
    v = torch.where(kept, v, 0.0)
    if reduction == _NONE:
        return v, x.new_zeros(())
    if weight is None:
        total = kept.sum().to(x.dtype)
    else:
        total = sums.sum(torch.where(kept, weights, 0.0), [0])
    loss = sums.sum(v, [0])
    return (loss / total if reduction == _MEAN else loss), total


def nll_loss_backward(
    gradient: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total: Tensor,
) -> Tensor:
    """[E22]"""
    kept, places = _find_places(target, x.shape[1], ignore_index)
    value = -(gradient / total if reduction == _MEAN else gradient)
    value = value.expand(target.shape)
    if weight is not None:
        value = value * weight[places]
    value = torch.where(kept, value, 0.0)
    return torch.zeros_like(x, memory_format=torch.contiguous_format).scatter_(
        1, places.unsqueeze(1), value.unsqueeze(1)
    )
