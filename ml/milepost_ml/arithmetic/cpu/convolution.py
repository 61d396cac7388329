"""Convolutions over two dimensions and their gradients [E11, E12, E13].

Memory beside the results: for every thread what `geometry.BAND_BYTES` says (or one row of sixteen
images, where that is more); for the gradient of a weight one copy of the input and one of the
gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.cpu.geometry import (
    Axis,
    Tables,
    choose_band_rows,
    is_worth_skipping,
    make_axes,
    make_tables,
)
from milepost_ml.arithmetic.cpu.images import convolve, convolve_weight, lay_out
from milepost_ml.arithmetic.cpu.lanes import LANES
from milepost_ml.arithmetic.cpu.launch import get_scratch

HEIGHT: Final = 8
"""No tile has more rows; pieces of work hold a multiple of them."""

_ZEROS: Final = torch.zeros(LANES)
_LINEAR: Final = torch.arange(LANES) * LANES
_ZEROS_AT: Final = _ZEROS.data_ptr()


class Plan(NamedTuple):
    """How a convolution is shared out: pieces are images, groups, bands and parts of channels."""

    tables: Tables
    threads: int
    slot_floats: int
    shape: tuple[int, ...]
    pieces: tuple[int, int, int, int]
    skips: bool


@functools.lru_cache(maxsize=256)
def make_plan(
    axes: tuple[Axis, Axis], images: int, groups: int, channels: int, rows: int,
    channel_weights: int, threads: int,
) -> Plan:  # fmt: skip
    """`channels` and `rows` are the channels of the source and of the result in one group."""
    blocks = -(-images // LANES) * groups
    wanted = 1 if blocks % threads == 0 or blocks > 4 * threads else -(-2 * threads // blocks)
    band_rows = choose_band_rows(*axes, channels, rows, wanted)
    skips = is_worth_skipping(*axes, channels, rows)
    tables = make_tables(*axes, channels, channel_weights, band_rows, skips)
    blocks *= tables.bands
    high = rows
    if blocks < threads and rows > HEIGHT:
        high = -(-rows * blocks // threads)
        high = -(-high // HEIGHT) * HEIGHT
    parts = -(-rows // high)
    size = LANES * (channels * tables.plane + high * tables.pixels + 1)
    shape = (groups, channels, rows, tables.plane, tables.pixels)
    pieces = (tables.bands, parts, high, blocks * parts)
    return Plan(tables, min(threads, blocks * parts), size, shape, pieces, skips)


def _convolve(
    plan: Plan, x: Tensor, out: Tensor, weight: Tensor, bias: Tensor | None, weight_row: int
) -> Tensor:
    tables = plan.tables
    convolve(
        plan.threads, x.data_ptr(), x.stride(0), x.stride(1), x.shape[0],
        weight.data_ptr(), weight_row, weight.numel() // plan.shape[0],
        _ZEROS_AT if bias is None else bias.data_ptr(), 0 if bias is None else 1,
        out.data_ptr(), out.stride(0), out.stride(1), *plan.shape,
        tables.bands_at, tables.phases_at, tables.taps_at, tables.pixels_at, tables.places_at,
        *plan.pieces, get_scratch(plan.threads * plan.slot_floats), 4 * plan.slot_floats,
        _ZEROS_AT, 0, int(tables.has_blanks), weight.numel() if plan.skips else 0,
    )  # fmt: skip
    return out


def _line_up(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _get_output_size(size: Sequence[int], taps: Sequence[int], shape: Convolution) -> list[int]:
    return [
        (size[i] + 2 * shape.padding[i] - shape.dilation[i] * (taps[i] - 1) - 1) // shape.stride[i]
        + 1
        for i in range(2)
    ]


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Convolution) -> Tensor:
    """[E11] (N, C, H, W) with (O, C/G, KH, KW): (N, O, OH, OW)."""
    images, _, *size = x.shape
    rows, channels, *taps = weight.shape
    height, width = _get_output_size(size, taps, shape)
    out = torch.empty((images, rows, height, width))
    if not out.numel():
        return out
    axes = make_axes(size, taps, (height, width), shape, gradient=False)
    area = taps[0] * taps[1]
    groups = shape.groups
    plan = make_plan(axes, images, groups, channels, rows // groups, area, torch.get_num_threads())
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()
    return _convolve(plan, _line_up(x), out, _line_up(weight), bias, channels * area)


def convolution_input(
    gradient: Tensor, weight: Tensor, size: Sequence[int], shape: Convolution
) -> Tensor:
    """[E12] the gradient of an input of shape `size` = (N, C, H, W)."""
    out = torch.empty(tuple(size))
    if not out.numel():
        return out
    outputs, rows, *taps = weight.shape
    axes = make_axes(size[2:], taps, gradient.shape[2:], shape, gradient=True)
    area = taps[0] * taps[1]
    groups, threads = shape.groups, torch.get_num_threads()
    plan = make_plan(axes, size[0], groups, outputs // groups, rows, rows * area, threads)
    return _convolve(plan, _line_up(gradient), out, _line_up(weight), None, area)


def _lay_out(x: Tensor, plane: int, met: tuple[int, int, int, int], *, has_blanks: bool) -> Tensor:
    """Whole planes in lanes; `met`: first number, count, places and their spacing."""
    images, channels = x.shape[:2]
    pieces = -(-images // LANES) * channels
    out = torch.empty(pieces * plane * LANES)
    lay_out(
        pieces, x.data_ptr(), x.stride(0), x.stride(1), images, channels, plane, *met[:3],
        met[3], out.data_ptr(), _ZEROS_AT, int(has_blanks), pieces,
    )  # fmt: skip
    return out


def convolution_weight(
    gradient: Tensor, x: Tensor, size: Sequence[int], shape: Convolution
) -> Tensor:
    """[E13] the gradient of a weight of shape `size` = (O, C/G, KH, KW)."""
    outputs, channels, *kernel = size
    if not gradient.numel() or not x.numel():
        return torch.zeros(tuple(size))
    out = torch.empty(tuple(size))
    gradient, x = _line_up(gradient), _line_up(x)
    groups, rows, taps = shape.groups, outputs // shape.groups, channels * kernel[0] * kernel[1]
    pixels = gradient.shape[2] * gradient.shape[3]
    axes = make_axes(x.shape[2:], kernel, gradient.shape[2:], shape, gradient=False)
    tables = make_tables(*axes, channels, kernel[0] * kernel[1], axes[0].results, False)
    first, count = int(tables.memory[0]), int(tables.memory[1])
    met = (first, count, tables.places_at, 0)
    images = _lay_out(x, tables.plane, met, has_blanks=tables.has_blanks)
    lanes = _lay_out(gradient, pixels, (0, pixels, _LINEAR.data_ptr(), LANES), has_blanks=False)

    threads = torch.get_num_threads()
    high = min(rows, 2 * HEIGHT)
    by_rows = -(-rows // high)
    wanted = -(-4 * threads // (groups * by_rows)) if threads > 1 else 1
    wide = min(taps, max(12, -(-taps // (12 * wanted)) * 12), 384)
    by_taps = -(-taps // wide)
    threads = min(threads, groups * by_rows * by_taps)
    size_each = high * wide * LANES
    convolve_weight(
        threads, lanes.data_ptr(), images.data_ptr(), -(-x.shape[0] // LANES), groups, rows,
        pixels, taps, tables.taps_at, tables.pixels_at, channels * tables.plane * LANES, high, wide,
        by_rows, by_taps, out.data_ptr(), get_scratch(threads * size_each), 4 * size_each, 0,
    )  # fmt: skip
    return out
