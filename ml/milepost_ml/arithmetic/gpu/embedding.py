"""Sums by index: rule E26."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous

_TILE: Final = 256


@jit
def _index_add(
    base: tl.tensor,
    source: tl.tensor,
    order: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    width: tl.tensor,
    skip: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """`order` lists the rows of `source` that go to row r from `starts[r]` to `starts[r + 1]`."""
    across = tl.cdiv(width, columns)
    program = tl.program_id(0).to(tl.int64)
    row = program // across * rows + tl.arange(0, rows)
    column = program % across * columns + tl.arange(0, columns)
    inside = (row < count)[:, None] & (column < width)[None, :]
    place = row[:, None] * width + column[None, :]
    r = tl.load(base + place, mask=inside, other=0.0)
    first = tl.load(starts + row, mask=row < count, other=0)
    last = tl.load(starts + row + 1, mask=row < count, other=0)
    length = tl.where(row == skip, 0, last - first)
    for step in range(tl.max(length, axis=0)):
        real = step < length
        taken = tl.load(order + first + step, mask=real, other=0)
        there = taken[:, None] * width + column[None, :]
        r = r + tl.load(source + there, mask=inside & real[:, None], other=0.0)
    tl.store(out + place, r, mask=inside)


def index_add(base: Tensor, index: Tensor, rows: Tensor, skip: int) -> Tensor:
    """[E26] a stable sort brings together what is added to one row, in the order of the index."""
    count, width = base.shape
    if bool(((index < 0) | (index >= count)).any()):
        raise IndexError(f"an index is not in [0, {count})")
    base, rows = make_contiguous(base), make_contiguous(rows)
    ordered, order = torch.sort(index, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(count + 1, device=index.device))
    out = torch.empty_like(base)
    columns = min(triton.next_power_of_2(width), _TILE)
    height = _TILE // columns
    programs = divide_up(count, height) * divide_up(width, columns)
    launch(
        _index_add,
        programs,
        (base, rows, order, starts, out, count, width, skip),
        rows=height,
        columns=columns,
    )
    return out
