"""Operators that copy, select, compare and count: PyTorch computes them, there is one answer."""

from __future__ import annotations

from typing import Any

import torch

from milepost_ml.arithmetic.table import computes, moves, passes, refuse

# The most frequent views and fresh tensors.
moves(
    *("alias", "as_strided", "detach", "empty.memory_format", "empty_like", "empty_strided"),
    *("expand", "new_empty", "new_empty_strided", "permute", "select.int", "slice.Tensor", "t"),
    *("transpose.int", "unsqueeze", "view", "_reshape_alias", "_unsafe_view"),
)
# Other views, and copies.
passes(
    *("clone", "contiguous", "copy_", "detach_", "diagonal", "lift_fresh", "split.Tensor"),
    *("split_with_sizes", "squeeze", "squeeze.dim", "squeeze.dims", "squeeze_", "squeeze_.dim"),
    *("t_", "transpose_", "unbind.int", "unfold", "unsafe_split.Tensor", "unsqueeze_"),
)
# Elements put elsewhere; gradients of views.
passes(
    *("cat", "constant_pad_nd", "diagonal_backward", "flip", "gather", "im2col", "index.Tensor"),
    *("index_select", "pixel_shuffle", "pixel_unshuffle", "repeat", "roll", "scatter.src"),
    *("scatter.value", "scatter_.value", "select_backward", "slice_backward", "stack", "tril"),
    *("triu", "embedding", "masked_fill.Scalar", "masked_fill.Tensor", "masked_fill_.Scalar"),
    *("masked_fill_.Tensor", "where.self", "where.ScalarSelf", "where.ScalarOther"),
    *("where.Scalar", "slice_scatter", "select_scatter", "_unsafe_index.Tensor"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
)
# Fresh tensors.
passes(
    *("fill.Scalar", "fill.Tensor", "fill_.Scalar", "fill_.Tensor", "full", "full_like"),
    *("new_full", "new_ones", "new_zeros", "ones", "ones_like", "scalar_tensor", "zero_", "zeros"),
    *("zeros_like", "eye", "eye.m"),
)
# Truth values, indices and single numbers.
passes(
    *(
        f"{name}.{kind}"
        for name in ("eq", "ge", "gt", "le", "lt", "ne")
        for kind in ("Scalar", "Tensor")
    ),
    *("argmax", "argmin", "isinf", "isnan", "logical_and", "logical_not", "logical_or"),
    *("logical_xor", "max.dim", "min.dim", "nonzero", "signbit", "_local_scalar_dense", "equal"),
    *("is_same_size", "any", "all", "any.dim", "all.dim", "any.dims", "all.dims"),
)

_EXACT_WHOLE: int = 2**24


@computes("arange", "arange.start", "arange.start_step")
def _arange(*bounds: Any, **options: Any) -> torch.Tensor:
    """Whole numbers up to 2^24, which float32 holds: counting by any other step rounds."""
    floats = any(isinstance(bound, float) for bound in bounds)
    dtype = options.get("dtype")
    floats = floats or (dtype is not None and dtype.is_floating_point)
    if floats and any(bound != int(bound) or abs(bound) > _EXACT_WHOLE for bound in bounds):
        raise refuse("arange", "its numbers are not whole; multiply whole numbers instead")
    return torch.arange(*bounds, **options)


@computes("_to_copy")
def _to_copy(x: torch.Tensor, *, dtype: torch.dtype | None = None, **options: Any) -> torch.Tensor:
    if dtype is not None and dtype is not x.dtype:
        if x.dtype.is_floating_point and not dtype.is_floating_point and dtype is not torch.bool:
            raise refuse(
                "_to_copy", f"{x.dtype} to {dtype} has no one answer for numbers out of range"
            )
        if dtype in (torch.float16, torch.bfloat16) or dtype.is_complex:
            raise refuse("_to_copy", f"it makes {dtype}; exact arithmetic computes float32")
    converted: torch.Tensor = torch.ops.aten._to_copy.default(x, dtype=dtype, **options)
    return converted
