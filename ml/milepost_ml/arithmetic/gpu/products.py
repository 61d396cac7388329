"""Products of matrices: rules E9 and E10.

A program computes a tile of results, one lane a result, by one loop over the inner dimension.
"""

from __future__ import annotations

from typing import Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous

_ROWS: Final = 32
_COLUMNS: Final = 64
_UNROLLED: Final = 8
"""Steps of the inner dimension that are loaded together; they are added one after the other."""


@jit
def _matmul(
    a: tl.tensor,
    b: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    depth: tl.tensor,
    a_batch: tl.tensor,
    a_row: tl.tensor,
    a_column: tl.tensor,
    b_batch: tl.tensor,
    b_row: tl.tensor,
    b_column: tl.tensor,
    has_bias: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    unrolled: tl.constexpr,
) -> None:
    across = tl.cdiv(n, columns)
    program = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(m, rows) * across
    batch = program // tiles
    tile = program % tiles
    i = (tile // across) * rows + tl.arange(0, rows)
    j = (tile % across) * columns + tl.arange(0, columns)
    left = a + batch * a_batch + i * a_row
    right = b + batch * b_batch + j * b_column
    c = tl.zeros((rows, columns), tl.float32)
    for first in range(0, depth, unrolled):
        for step in tl.static_range(unrolled):
            k = batch * 0 + first + step  # 64 bits, as offsets need
            x = tl.load(left + k * a_column, mask=i < tl.where(k < depth, m, 0), other=0.0)
            y = tl.load(right + k * b_row, mask=j < tl.where(k < depth, n, 0), other=0.0)
            c = c + (x[:, None] * y[None, :])
    if has_bias:
        c = c + tl.load(bias + j, mask=j < n, other=0.0)[None, :]
    place = out + (batch * m + i)[:, None] * n + j[None, :]
    tl.store(place, c, mask=(i < m)[:, None] & (j < n)[None, :])


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """[E10] (B, M, K) x (B, K, N) or (M, K) x (K, N); `bias` of shape (N,) is added to D."""
    if a.ndim == 2:
        return matmul(a.unsqueeze(0), b.unsqueeze(0), bias).squeeze(0)
    batch, m, depth = a.shape
    n = b.shape[2]
    out = torch.empty((batch, m, n), dtype=a.dtype, device=a.device)
    programs = batch * divide_up(m, _ROWS) * divide_up(n, _COLUMNS)
    shift = a if bias is None else make_contiguous(bias)
    launch(
        _matmul,
        programs,
        (a, b, shift, out, m, n, depth, *a.stride(), *b.stride()),
        has_bias=bias is not None,
        rows=_ROWS,
        columns=_COLUMNS,
        unrolled=_UNROLLED,
    )
    return out
