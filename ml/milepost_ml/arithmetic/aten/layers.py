"""Normalisation, pooling, embedding and sums by index: rules E23 to E26."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from milepost_ml.arithmetic.backends import Pooling
from milepost_ml.arithmetic.select import get_backend
from milepost_ml.arithmetic.table import (
    computes,
    computes_in_place,
    refuse,
    require,
    require_float32,
)


@computes("native_layer_norm")
def _layer_norm(
    x: Tensor, normalized: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    require_float32("layer_norm", (x, weight, bias))
    shape = tuple(normalized)
    fits = bool(shape) and tuple(x.shape[-len(shape) :]) == shape
    for tensor in (weight, bias):
        fits = fits and (tensor is None or tuple(tensor.shape) == shape)
    require(fits, "layer_norm", "{}, weight and bias do not end in {}", x.shape, shape)
    count = math.prod(shape)
    y, mean, rstd = get_backend(x).layer_norm(x, count, weight, bias, eps)
    rows = (*x.shape[: x.ndim - len(normalized)], *(1 for _ in normalized))
    return y, mean.view(rows), rstd.view(rows)


@computes("native_layer_norm_backward")
def _layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    normalized: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    require_float32("layer_norm_backward", (gradient, x, weight))
    of_x, of_weight, of_bias = get_backend(x).layer_norm_backward(gradient, x, mean, rstd, weight)
    return (
        of_x if wanted[0] else None,
        of_weight.view(tuple(normalized)) if wanted[1] else None,
        of_bias.view(tuple(normalized)) if wanted[2] else None,
    )


@computes("native_batch_norm")
def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    vectors = (weight, bias, running_mean, running_var)
    require_float32("batch_norm", (x, *vectors))
    require(
        x.ndim >= 2
        and all(vector is None or vector.shape == x.shape[1:2] for vector in vectors)
        and (training or (running_mean is not None and running_var is not None)),
        "batch_norm",
        "weight, bias and running values do not fit an input {}",
        x.shape,
    )
    return get_backend(x).batch_norm(
        x, weight, bias, running_mean, running_var, training, momentum, eps
    )


@computes("native_batch_norm_backward")
def _batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    training: bool,
    eps: float,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    require_float32("batch_norm_backward", (gradient, x, weight))
    if not training:
        assert running_mean is not None
        assert running_var is not None
        mean, rstd = running_mean, get_backend(x).rsqrt(running_var + eps)
    assert mean is not None
    assert rstd is not None
    of_x, of_weight, of_bias = get_backend(x).batch_norm_backward(
        gradient, x, weight, mean, rstd, training
    )
    return (
        of_x if wanted[0] else None,
        of_weight if wanted[1] else None,
        of_bias if wanted[2] else None,
    )


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _make_pooling(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Pooling:
    return _validate_pooling(
        x.shape,
        _pair(kernel),
        _pair(stride or kernel),
        _pair(padding),
        _pair(dilation),
        ceil_mode,
    )


@functools.lru_cache(maxsize=1024)
def _validate_pooling(
    x: torch.Size,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    ceil_mode: bool,
) -> Pooling:
    shape = Pooling(kernel, stride, padding, dilation, ceil_mode)
    fits = len(x) in (3, 4)
    for size, width, step, pad, gap in zip(x[-2:], *shape[:4], strict=False):
        fits = fits and width > 0 and step > 0 and gap > 0 and 0 <= 2 * pad <= width
        fits = fits and gap * (width - 1) + 1 <= size + 2 * pad
    require(fits, "pooling", "{} does not fit an input {}", shape, x)
    return shape


def _as_images(x: Tensor) -> Tensor:
    """(N, C, H, W), for one image without N as well."""
    return x if x.ndim == 4 else x.unsqueeze(0)


@computes("max_pool2d_with_indices")
def _max_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    require_float32("max_pool2d", (x,))
    shape = _make_pooling(x, kernel, stride, padding, dilation, ceil_mode)
    values, indices = get_backend(x).max_pool2d(_as_images(x), shape)
    return (values, indices) if x.ndim == 4 else (values.squeeze(0), indices.squeeze(0))


@computes("max_pool2d_with_indices_backward")
def _max_pool2d_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    require_float32("max_pool2d_backward", (gradient, x))
    size = _as_images(x).shape
    result = get_backend(x).max_pool2d_backward(_as_images(gradient), _as_images(indices), size)
    return result.view(x.shape)


@computes("avg_pool2d")
def _avg_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    require_float32("avg_pool2d", (x,))
    shape = _make_pooling(x, kernel, stride, padding, (1,), ceil_mode)
    require(divisor_override != 0, "avg_pool2d", "the divisor is zero")
    result = get_backend(x).avg_pool2d(_as_images(x), shape, count_include_pad, divisor_override)
    return result if x.ndim == 4 else result.squeeze(0)


@computes("avg_pool2d_backward")
def _avg_pool2d_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    require_float32("avg_pool2d_backward", (gradient, x))
    shape = _make_pooling(x, kernel, stride, padding, (1,), ceil_mode)
    result = get_backend(x).avg_pool2d_backward(
        _as_images(gradient), _as_images(x).shape, shape, count_include_pad, divisor_override
    )
    return result.view(x.shape)


@computes("_adaptive_avg_pool2d")
def _adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    require_float32("adaptive_avg_pool2d", (x,))
    require(x.ndim in (3, 4) and min(*size, x.numel()) > 0, "adaptive_avg_pool2d", "no elements")
    result = get_backend(x).adaptive_avg_pool2d(_as_images(x), _pair(size))
    return result if x.ndim == 4 else result.squeeze(0)


@computes("_adaptive_avg_pool2d_backward")
def _adaptive_avg_pool2d_backward(gradient: Tensor, x: Tensor) -> Tensor:
    require_float32("adaptive_avg_pool2d_backward", (gradient, x))
    result = get_backend(x).adaptive_avg_pool2d_backward(_as_images(gradient), _as_images(x).shape)
    return result.view(x.shape)


@computes("embedding_dense_backward")
def _embedding_backward(
    gradient: Tensor, indices: Tensor, rows: int, padding_index: int, by_frequency: bool
) -> Tensor:
    require_float32("embedding_backward", (gradient,))
    if by_frequency:
        raise refuse("embedding_backward", "with scale_grad_by_freq")
    width = gradient.shape[-1]
    base = torch.zeros(rows, width, device=gradient.device)
    return get_backend(gradient).index_add(
        base, indices.reshape(-1).long(), gradient.reshape(-1, width), padding_index
    )


_SKIP_NONE = -1


@computes("index_add")
def _index_add(x: Tensor, dim: int, index: Tensor, rows: Tensor, *, alpha: float = 1) -> Tensor:
    require_float32("index_add", (x, rows))
    if alpha != 1:
        raise refuse("index_add", f"with alpha={alpha}")
    front, added = x.movedim(dim, 0), rows.movedim(dim, 0)
    require(
        front.shape[1:] == added.shape[1:] and index.shape == added.shape[:1],
        "index_add",
        "{} at {} does not fit {}",
        rows.shape,
        index.shape,
        x.shape,
    )
    base = front.reshape(front.shape[0], -1)
    result = get_backend(x).index_add(
        base, index.long(), added.reshape(added.shape[0], -1), _SKIP_NONE
    )
    return result.view(front.shape).movedim(0, dim).contiguous()


@computes("scatter_add")
def _scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    require_float32("scatter_add", (x, source))
    if x.ndim == 0:
        raise refuse("scatter_add", "to a single number")
    dim %= x.ndim
    require(
        index.ndim == x.ndim == source.ndim
        and all(
            size <= source.shape[axis] and (axis == dim or size <= x.shape[axis])
            for axis, size in enumerate(index.shape)
        ),
        "scatter_add",
        "an index {} does not fit {} and {}",
        index.shape,
        source.shape,
        x.shape,
    )
    shape = tuple(slice(0, size) for size in index.shape)
    places = [
        torch.arange(size, device=x.device).view([-1 if a == axis else 1 for a in range(x.ndim)])
        for axis, size in enumerate(index.shape)
    ]
    places[dim] = index
    return _add_at(x, places, source[shape])


@computes("index_put")
def _index_put(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    given = [index for index in indices if index is not None]
    if not accumulate:
        result: Tensor = torch.ops.aten.index_put.default(x, indices, values)
        return result
    require_float32("index_put", (x, values))
    masks = any(index.dtype in (torch.bool, torch.uint8) for index in given)
    if len(given) != len(indices) or len(given) > x.ndim or masks:
        raise refuse("index_put", "accumulating by masks or between whole dimensions")
    return _add_at(x, given, values)


def _add_at(x: Tensor, places: Sequence[Tensor], values: Tensor) -> Tensor:
    """Add values at places given for the leading dimensions, in row-major order of the places."""
    flat = torch.zeros((), dtype=torch.int64, device=x.device)
    for index, size in zip(places, x.shape, strict=False):
        if ((index < -size) | (index >= size)).any():
            raise IndexError(f"an index lies outside a dimension of {size}")
        flat = flat * size + torch.where(index < 0, index + size, index)
    inner = x.shape[len(places) :]
    width = inner.numel()
    rows = values.expand((*flat.shape, *inner)).reshape(-1, width)
    result = get_backend(x).index_add(x.reshape(-1, width), flat.reshape(-1), rows, _SKIP_NONE)
    return result.view(x.shape)


computes_in_place("index_add_", _index_add)
computes_in_place("scatter_add_", _scatter_add)
computes_in_place("index_put_", _index_put)
computes_in_place(
    "_index_put_impl_",
    lambda x, indices, values, accumulate=False, unsafe=False: _index_put(
        x, indices, values, accumulate
    ),
)
