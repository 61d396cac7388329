"""Sums and largest values over dimensions: rules E6, E7 and E15.

A tensor is seen as (outer, count, inner) and reduced over the middle: one row of a tile for a
result, sixteen columns for its partial sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu.lanes import fold, fold_maximum, maximum
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous

_ROWS: Final = 16


@jit
def _sum(
    x: tl.tensor,
    out: tl.tensor,
    results: tl.tensor,
    count: tl.tensor,
    inner: tl.tensor,
    rows: tl.constexpr,
) -> None:
    q = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    start = (q // inner) * count * inner + q % inner
    p = tl.zeros((rows, 16), tl.float32)
    for first in range(0, count, 16):
        i = first + tl.arange(0, 16).to(tl.int64)
        inside = (q < results)[:, None] & (i < count)[None, :]
        p = p + tl.load(x + start[:, None] + i[None, :] * inner, mask=inside, other=0.0)
    tl.store(out + q, fold(p, rows), mask=q < results)


@jit
def _largest(
    x: tl.tensor,
    out: tl.tensor,
    results: tl.tensor,
    count: tl.tensor,
    inner: tl.tensor,
    rows: tl.constexpr,
) -> None:
    q = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    start = (q // inner) * count * inner + q % inner
    p = tl.full((rows, 16), float("-inf"), tl.float32)
    for first in range(0, count, 16):
        i = first + tl.arange(0, 16).to(tl.int64)
        inside = (q < results)[:, None] & (i < count)[None, :]
        place = x + start[:, None] + i[None, :] * inner
        p = maximum(p, tl.load(place, mask=inside, other=float("-inf")))
    tl.store(out + q, fold_maximum(p, rows), mask=q < results)


def _reduce(kernel: Any, x: Tensor, first: int, last: int) -> Tensor:
    """Over the dimensions from `first` to `last`, which are one group."""
    x = make_contiguous(x)
    count = prod(x.shape[first : last + 1])
    inner = prod(x.shape[last + 1 :])
    out = torch.empty(x.shape[:first] + x.shape[last + 1 :], dtype=x.dtype, device=x.device)
    results = out.numel()
    launch(kernel, divide_up(results, _ROWS), (x, out, results, count, inner), rows=_ROWS)
    return out


def _reduce_groups(kernel: Any, x: Tensor, dims: Sequence[int]) -> Tensor:
    """[E7] adjacent dimensions are one group; the innermost group goes first."""
    rest = list(dims)
    while rest:
        first = last = rest.pop()
        while rest and rest[-1] == first - 1:
            first = rest.pop()
        x = _reduce(kernel, x, first, last)
    return x


def sum(x: Tensor, dims: Sequence[int]) -> Tensor:  # noqa: A001
    """[E7]"""
    return _reduce_groups(_sum, x, dims)


def amax(x: Tensor, dims: Sequence[int]) -> Tensor:
    """[E15] the largest, a zero as +0."""
    return _reduce_groups(_largest, x, dims)
