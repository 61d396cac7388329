"""Layer and batch normalization [E23, E24] and their gradients."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu.channels import (
    run_batch_norm,
    run_batch_norm_backward,
    run_batch_norm_of_columns,
    run_batch_norm_of_columns_backward,
)
from milepost_ml.arithmetic.cpu.lanes import LANES
from milepost_ml.arithmetic.cpu.launch import pack_float
from milepost_ml.arithmetic.cpu.partial import compute_share
from milepost_ml.arithmetic.cpu.rows import run_layer_norm, run_layer_norm_backward

MAX_WIDTH: Final = 128
"""Columns whose sixteen partial sums, twice, still fit the nearest cache."""


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _dense_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _dense(tensor)


# Layer normalization -----------------------------------------------------------------------------


def layer_norm(
    x: Tensor, count: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """[E23] y, m, r; rows of `count` elements; m and r have one element a row, flat."""
    x, weight, bias = _dense(x), _dense_or_none(weight), _dense_or_none(bias)
    rows = x.numel() // count
    y, mean, rstd = torch.empty_like(x), x.new_empty(rows), x.new_empty(rows)
    rows_a_piece = compute_share(rows)
    run_layer_norm(
        -(-rows // rows_a_piece),
        x.data_ptr(),
        y.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        _address(weight),
        _address(bias),
        rows,
        count,
        rows_a_piece,
        pack_float(count),
        pack_float(eps),
        pack_float(1.0),
    )
    return y, mean, rstd


def layer_norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """[E23] gradients of x, weight and bias (the last two flat)."""
    gradient, x, weight = _dense(gradient), _dense(x), _dense_or_none(weight)
    mean, rstd = _dense(mean), _dense(rstd)
    rows = mean.numel()
    if rows:
        count = x.numel() // rows
    else:
        count = x.shape[-1] if weight is None else weight.numel()
    out, gweight, gbias = torch.empty_like(x), x.new_empty(count), x.new_empty(count)
    rows_a_piece = compute_share(rows)
    row_pieces = -(-rows // rows_a_piece)
    width = min(LANES * compute_share(-(-count // LANES)), MAX_WIDTH)
    column_pieces = -(-count // width)
    partial = x.new_zeros(2 * LANES * width * column_pieces)
    run_layer_norm_backward(
        row_pieces + column_pieces,
        gradient.data_ptr(),
        x.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        _address(weight),
        out.data_ptr(),
        gweight.data_ptr(),
        gbias.data_ptr(),
        partial.data_ptr(),
        rows,
        count,
        row_pieces,
        rows_a_piece,
        width,
        pack_float(count),
    )
    return out, gweight, gbias


# Batch normalization -----------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How channels lie in a tensor, and how much of them makes a piece."""

    images: int
    channels: int
    pixels: int
    piece: int
    pieces: int


def _compute_layout(x: Tensor) -> _Layout:
    images, channels, pixels = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    if pixels == 1:
        piece = LANES * compute_share(-(-channels // LANES))
    else:
        piece = compute_share(channels)
    return _Layout(images, channels, pixels, piece, -(-channels // piece))


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """[E24] y, m, r of x (N, C, ...); running values are changed in place in training.

    Raises ValueError in training with fewer than two elements a channel.
    """
    x, layout = _dense(x), _compute_layout(x)
    count = layout.images * layout.pixels
    if training and count < 2:
        raise ValueError(f"batch_norm needs two elements a channel in training, not {count}")
    weight, bias = _dense_or_none(weight), _dense_or_none(bias)
    dense_mean, dense_var = _dense_or_none(running_mean), _dense_or_none(running_var)
    y, mean, rstd = torch.empty_like(x), x.new_empty(layout.channels), x.new_empty(layout.channels)
    run = run_batch_norm_of_columns if layout.pixels == 1 else run_batch_norm
    run(
        layout.pieces,
        x.data_ptr(),
        y.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        _address(weight),
        _address(bias),
        _address(dense_mean),
        _address(dense_var),
        layout.images,
        layout.channels,
        layout.pixels,
        int(training),
        pack_float(eps),
        pack_float(momentum),
        pack_float(1 - momentum),
        pack_float(count),
        pack_float(count - 1),
        pack_float(1.0),
        layout.piece,
    )
    for running, dense in ((running_mean, dense_mean), (running_var, dense_var)):
        if running is not None and dense is not None and dense is not running:
            running.copy_(dense)
    return y, mean, rstd


def batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """[E24] gradients of x, weight and bias; mean and rstd as `batch_norm` used them."""
    gradient, x, layout = _dense(gradient), _dense(x), _compute_layout(x)
    weight, mean, rstd = _dense_or_none(weight), _dense(mean), _dense(rstd)
    out, gweight, gbias = (
        torch.empty_like(x),
        x.new_empty(layout.channels),
        x.new_empty(layout.channels),
    )
    run = run_batch_norm_of_columns_backward if layout.pixels == 1 else run_batch_norm_backward
    run(
        layout.pieces,
        gradient.data_ptr(),
        x.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        _address(weight),
        out.data_ptr(),
        gweight.data_ptr(),
        gbias.data_ptr(),
        layout.images,
        layout.channels,
        layout.pixels,
        int(training),
        pack_float(layout.images * layout.pixels),
        layout.piece,
    )
    return out, gweight, gbias
