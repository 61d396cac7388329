"""Adding rows at indices: the gradient of a table of embeddings and its relatives [E26]."""

from __future__ import annotations

from array import array
from typing import Any

import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu.lanes import LANES, add, load_index, store_index, take_chunk
from milepost_ml.arithmetic.cpu.launch import kernel
from milepost_ml.arithmetic.cpu.partial import compute_share, put, take


@kernel
def _index_add(a: Any) -> None:
    out, index, rows, failed = a[1], a[2], a[3], a[4]
    size, count, width, skip, columns = a[5], a[6], a[7], a[8], a[9]
    while True:
        start = take_chunk(a) * columns
        if start >= max(width, 1):
            break
        end = min(start + columns, width)
        for i in range(count):
            row = load_index(index, i)
            if row < 0 or row >= size:
                store_index(failed, 0, 1)
                continue
            if row == skip:
                continue
            target, source = out + 4 * row * width, rows + 4 * i * width
            for j in range(start, end, LANES):
                put(target, j, add(take(target, j, end), take(source, j, end)), end)


def index_add(base: Tensor, index: Tensor, rows: Tensor, skip: int) -> Tensor:
    """[E26] base (R, D) plus rows (I, D) at int64 index (I,); index `skip` is left out.

    A base of zeros gives the gradient of an embedding.  Raises IndexError outside [0, R), even
    where `skip` is outside, too.
    """
    out = base.clone(memory_format=torch.contiguous_format)
    index = index if index.is_contiguous() else index.contiguous()
    rows = rows if rows.is_contiguous() else rows.contiguous()
    size, width = out.shape
    failed = array("q", [0])
    # Each thread adds every row, but only its own columns: so each sum keeps its order.
    columns = LANES * compute_share(-(-width // LANES))
    _index_add(
        -(-width // columns),
        out.data_ptr(),
        index.data_ptr(),
        rows.data_ptr(),
        failed.buffer_info()[0],
        size,
        index.numel(),
        width,
        skip,
        columns,
    )
    if failed[0]:
        raise IndexError(f"an index lies outside the {size} rows")
    return out
