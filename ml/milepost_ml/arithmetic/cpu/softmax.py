"""Softmax, its logarithm, and the loss that follows it [E21, E22].

Everything goes by rows along the last dimension; another dimension is moved there first.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import torch
from numba import float32
from torch import Tensor

from milepost_ml.arithmetic.cpu import lanes, partial
from milepost_ml.arithmetic.cpu.doubles import exp64, log64
from milepost_ml.arithmetic.cpu.launch import Kernel, kernel
from milepost_ml.arithmetic.cpu.reductions import find_largest, sum_row
from milepost_ml.arithmetic.cpu.scalars import count_pieces, floats, stack_bytes, take_range

_PIECE: Final = 4096
"""Elements in a piece of work, or one row if it is longer."""

_NONE, _MEAN = 0, 1
"""Reductions as PyTorch numbers them; 2 is the sum."""


@kernel
def _softmax(a: Any) -> None:
    """a[1] rows of a[2], a[6] in a piece, from a[3] to a[4]; a[5] has place for two numbers a row.

    If a[7] is not 0, the logarithm.  Exponentials are taken over all rows of a piece in one loop,
    since vectors of the few numbers of a short row would stay half empty; so are logarithms.
    """
    count = a[2]
    largest, totals = floats(a[5]), floats(a[5] + 4 * a[1])
    start, stop = take_range(a, a[1], a[6])
    while start < stop:
        for row in range(start, stop):
            m = find_largest(a[3], row * count, count)
            largest[row] = m
            x, y = floats(a[3] + 4 * row * count), floats(a[4] + 4 * row * count)
            for i in range(count):
                y[i] = x[i] - m
        e = floats(a[4])
        for i in range(start * count, stop * count):
            e[i] = exp64(e[i])
        for row in range(start, stop):
            totals[row] = sum_row(a[4], row * count, count)
        if a[7] != 0:
            for row in range(start, stop):
                totals[row] = log64(totals[row])
        for row in range(start, stop):
            x, y = floats(a[3] + 4 * row * count), floats(a[4] + 4 * row * count)
            m, total = largest[row], totals[row]
            if a[7] != 0:
                for i in range(count):
                    y[i] = (x[i] - m) - total
            else:
                for i in range(count):
                    y[i] = y[i] / total
        start, stop = take_range(a, a[1], a[6])


@kernel
def _softmax_backward(a: Any) -> None:
    """a[1] rows of a[2], a[6] in a piece: gradient a[3] and result a[4] to a[5]."""
    count = a[2]
    full = count - count % 16
    start, stop = take_range(a, a[1], a[6])
    while start < stop:
        for row in range(start, stop):
            g, y, result = a[3] + 4 * row * count, a[4] + 4 * row * count, a[5] + 4 * row * count
            sums = lanes.zeros()
            for i in range(0, full, 16):
                sums = lanes.add_product(sums, lanes.load(g, i), lanes.load(y, i))
            if full < count:
                last = partial.load_part(g, full, count - full)
                sums = lanes.add_product(sums, last, partial.load_part(y, full, count - full))
            total = lanes.fold(sums)
            for i in range(count):
                floats(result)[i] = floats(y)[i] * (floats(g)[i] - total)
        start, stop = take_range(a, a[1], a[6])


@kernel
def _log_softmax_backward(a: Any) -> None:
    """As `_softmax_backward`, of the logarithm."""
    count = a[2]
    start, stop = take_range(a, a[1], a[6])
    while start < stop:
        y, result = floats(a[4]), floats(a[5])
        for i in range(start * count, stop * count):
            result[i] = exp64(y[i])
        for row in range(start, stop):
            total = sum_row(a[3], row * count, count)
            g, e = floats(a[3] + 4 * row * count), floats(a[5] + 4 * row * count)
            for i in range(count):
                e[i] = g[i] - (e[i] * total)
        start, stop = take_range(a, a[1], a[6])


@kernel
def _nll_loss(a: Any) -> None:
    """x a[1] of a[2] rows of a[3] classes, targets a[4], weights a[5] or 0, the one left out a[6].

    By the reduction a[7] the losses or the loss to a[8]; the total to a[9]; to a[10] whether a
    target is outside.  One piece of work.
    """
    if lanes.take_chunk(a) > 0:
        return
    x, weights, result = floats(a[1]), floats(a[5]), floats(a[8])
    losses, totals = stack_bytes(64), stack_bytes(64)
    lanes.store(losses, 0, lanes.zeros())
    lanes.store(totals, 0, lanes.zeros())
    kept = 0
    for row in range(a[2]):
        target = lanes.load_index(a[4], row)
        value = weight = float32(0)
        if target != a[6]:
            if target < 0 or target >= a[3]:
                lanes.store_index(a[10], 0, 1)
                return
            value = -x[row * a[3] + target]
            if a[5] != 0:
                weight = weights[target]
                value = value * weight
            kept += 1
        if a[7] == _NONE:
            result[row] = value
        floats(losses)[row % 16] += value
        floats(totals)[row % 16] += weight
    total = lanes.fold(lanes.load(totals, 0))
    if a[5] == 0:
        total = float32(kept)
    if a[7] == _NONE:
        total = float32(0)
    else:
        loss = lanes.fold(lanes.load(losses, 0))
        result[0] = loss / total if a[7] == _MEAN else loss
    lanes.store_one(a[9], 0, total)


@kernel
def _nll_loss_backward(a: Any) -> None:
    """The gradient a[1] of a[2] rows of a[3] classes, targets a[4], weights a[5] or 0, the one left
    out a[6], reduction a[7]: to a[8], which is +0; the total is at a[9]; to a[10] whether a target
    is outside.  One piece of work."""
    if lanes.take_chunk(a) > 0:
        return
    gradient, weights, result = floats(a[1]), floats(a[5]), floats(a[8])
    for row in range(a[2]):
        target = lanes.load_index(a[4], row)
        if target != a[6]:
            if target < 0 or target >= a[3]:
                lanes.store_index(a[10], 0, 1)
                return
            if a[7] == _NONE:
                value = -gradient[row]
            elif a[7] == _MEAN:
                value = -(gradient[0] / lanes.load_one(a[9], 0))
            else:
                value = -gradient[0]
            result[row * a[3] + target] = value * weights[target] if a[5] != 0 else value


def _by_rows(function: Kernel, tensors: tuple[Tensor, ...], dim: int, *flags: int) -> Tensor:
    """Call a kernel over rows along `dim`: sizes, tensors, result (and a place a row), flags."""
    x = tensors[0]
    last = x.ndim - 1
    moved = x.ndim > 1 and dim % x.ndim != last
    if moved:
        tensors = tuple(tensor.transpose(dim, last) for tensor in tensors)
    tensors = tuple(t if t.is_contiguous() else t.contiguous() for t in tensors)
    result = torch.empty_like(tensors[0])
    elements = x.numel()
    if elements:
        count = result.shape[-1] if x.ndim else 1
        rows = elements // count
        size = max(_PIECE // count, 1)
        addresses = [tensor.data_ptr() for tensor in (*tensors, result)]
        room = torch.empty(2 * rows, dtype=torch.float32) if flags else None
        if room is not None:
            addresses.append(room.data_ptr())
        function(count_pieces(rows, size), rows, count, *addresses, size, *flags)
    return result.transpose(dim, last).contiguous() if moved else result


def softmax(x: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _by_rows(_softmax, (x,), dim, 0)


def softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _by_rows(_softmax_backward, (gradient, result), dim)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _by_rows(_softmax, (x,), dim, 1)


def log_softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    """[E21]"""
    return _by_rows(_log_softmax_backward, (gradient, result), dim)


def _check_targets(outside: array[int], classes: int) -> None:
    if outside[0]:
        raise IndexError(f"a target is outside the {classes} classes")


def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """[E22] loss and total weight of x (N, C) and int64 target (N,).

    Reduction 0 none, 1 mean, 2 sum.  Raises IndexError for a target outside.
    """
    rows, classes = x.shape
    x, target = x.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    loss = torch.empty((rows,) if reduction == _NONE else (), dtype=torch.float32)
    total = torch.empty((), dtype=torch.float32)
    outside = array("q", [0])
    _nll_loss(
        1,
        *(x.data_ptr(), rows, classes, target.data_ptr()),
        *(0 if weight is None else weight.data_ptr(), ignore_index, reduction),
        *(loss.data_ptr(), total.data_ptr(), outside.buffer_info()[0]),
    )
    _check_targets(outside, classes)
    return loss, total


def nll_loss_backward(
    gradient: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total: Tensor,
) -> Tensor:
    """[E22]  Raises IndexError for a target outside."""
    rows, classes = x.shape
    gradient, target = gradient.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    result = torch.zeros((rows, classes), dtype=torch.float32)
    outside = array("q", [0])
    _nll_loss_backward(
        1,
        *(gradient.data_ptr(), rows, classes, target.data_ptr()),
        *(0 if weight is None else weight.data_ptr(), ignore_index, reduction),
        *(result.data_ptr(), total.data_ptr(), outside.buffer_info()[0]),
    )
    _check_targets(outside, classes)
    return result
