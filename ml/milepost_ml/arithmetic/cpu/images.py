"""The kernels of convolutions: sixteen images in the lanes of a vector [E11-E13].

The tables that guide them are made in `geometry`.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from milepost_ml.arithmetic.cpu.lanes import (
    LANES,
    add_product,
    fold,
    load,
    load_index,
    load_one,
    store,
    store_one,
    take_chunk,
    zeros,
)
from milepost_ml.arithmetic.cpu.launch import kernel
from milepost_ml.arithmetic.cpu.tiles import (
    fit_columns,
    fit_rows,
    multiply_pixels,
    multiply_taps,
    take_slot,
)
from milepost_ml.arithmetic.cpu.turns import turn_in, turn_out

RUN: Final = 24
"""Pixels that all channels of the result meet while the source is in the nearest cache."""

STRETCH: Final = 64
"""Pixels that all taps of a weight's gradient meet likewise."""


@njit(error_model="numpy")
def _clear(out: Any, count: Any) -> None:
    for i in range(count):
        store(out, i * LANES, zeros())


@njit(error_model="numpy")
def _is_finite(base: Any, count: Any) -> Any:
    """Whether no number is infinite or NaN: such numbers times 0 are NaN."""
    total = zeros()
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        total = add_product(total, zeros(), load(base, i))
    rest = fold(total)
    for i in range(whole, count):
        rest += load_one(base, i) * rest
    return rest == 0


@njit(error_model="numpy")
def _convolve_phase(
    a: Any, phase: Any, weight: Any, first: Any, last: Any, images: Any, bias: Any, result: Any
) -> None:
    """Rows `first` to `last` of the result's channels at the pixels of one phase."""
    taps = a[20] + 16 * load_index(phase, 0)
    count = load_index(phase, 1)
    pixels = a[21] + 16 * load_index(phase, 2)
    total = load_index(phase, 3)
    for run in range(0, total, RUN):
        end = min(total, run + RUN)
        row = first
        while row < last:
            high = fit_rows(last - row)
            at = run
            while at < end:
                wide = fit_columns(high, end - at)
                multiply_taps(
                    high, wide, taps, count, weight + 4 * row * a[6], a[6], images,
                    pixels + 16 * at, bias + 4 * row * a[9], a[9],
                    result + 4 * (row - first) * a[17] * LANES, a[17] * LANES,
                )  # fmt: skip
                at += wide
            row += high


@kernel
def convolve(a: Any) -> None:
    """[E11, E12] One piece: some channels of a band of the results of sixteen images.

    a[1:5] source: address, numbers in an image and in a plane, images; a[5:8] weight: address,
    numbers between rows and groups; a[8:10] bias; a[10:13] result as the source;
    a[13:18] groups, channels of the source and of the result in a group, positions of a plane,
    pixels of a band; a[18:24] tables; a[24:27] parts, channels in a part, pieces; a[27:32] memory;
    a[32] numbers in the weight if there is a second set of phases for finite ones, otherwise 0.
    """
    groups, channels, rows, plane = a[13], a[14], a[15], a[16]
    bands, parts, high, pieces = a[23], a[24], a[25], a[26]
    piece = take_chunk(a)
    if piece >= pieces:
        return
    images = a[27] + take_slot(a, 30) * a[28]
    result = images + 4 * channels * plane * LANES
    spare = result + 4 * high * a[17] * LANES
    phases = 7 if a[32] and _is_finite(a[5], a[32]) else 5
    while piece < pieces:
        first = piece % parts * high
        last = min(rows, first + high)
        group = piece // parts % groups
        band = a[18] + 72 * (piece // parts // groups % bands)
        block = piece // parts // groups // bands
        lines = min(LANES, a[4] - block * LANES)
        source = a[1] + 4 * (block * LANES * a[2] + group * channels * a[3] + load_index(band, 0))
        count = load_index(band, 1)
        if a[31]:
            _clear(images, channels * plane)
        for c in range(channels):
            turn_in(
                source + 4 * c * a[3], a[2], lines, count, a[29],
                images + 4 * c * plane * LANES, a[22] + 8 * load_index(band, 2), 0,
            )  # fmt: skip
        bias = a[8] + 4 * group * rows * a[9]
        for p in range(load_index(band, phases + 1)):
            phase = a[19] + 32 * (load_index(band, phases) + p)
            _convolve_phase(a, phase, a[5] + 4 * group * a[7], first, last, images, bias, result)
        target = a[10] + 4 * (block * LANES * a[11] + (group * rows + first) * a[12])
        if bands == 1:  # planes follow each other here and there
            turn_out(result, target, a[11], lines, (last - first) * a[12], spare)
        else:
            target += 4 * load_index(band, 3)
            for r in range(last - first):
                turn_out(
                    result + 4 * r * a[17] * LANES, target + 4 * r * a[12], a[11], lines,
                    load_index(band, 4), spare,
                )  # fmt: skip
        piece = take_chunk(a)


@kernel
def lay_out(a: Any) -> None:
    """Put whole planes of sixteen images into lanes; a piece is a channel.

    a[1:5] source as in `convolve`; a[5] channels; a[6] positions of a plane; a[7:10] first number
    and count of those that are met, their places; a[10] spacing of places; a[11] result;
    a[12] zeros; a[13] whether positions stay blank; a[14] pieces.
    """
    while True:
        piece = take_chunk(a)
        if piece >= a[14]:
            break
        block = piece // a[5]
        out = a[11] + 4 * piece * a[6] * LANES
        if a[13]:
            _clear(out, a[6])
        turn_in(
            a[1] + 4 * (block * LANES * a[2] + piece % a[5] * a[3] + a[7]), a[2],
            min(LANES, a[4] - block * LANES), a[8], a[12], out, a[9], a[10],
        )  # fmt: skip


@njit(error_model="numpy")
def _gather_sums(
    a: Any, first: Any, last: Any, tap: Any, end: Any, gradient: Any, images: Any, sums: Any
) -> None:
    """Add what sixteen images give to the sums of some channels and taps."""
    width = end - tap
    for run in range(0, a[6], STRETCH):
        count = min(STRETCH, a[6] - run)
        row = first
        while row < last:
            high = fit_rows(last - row)
            at = 0
            while at < width:
                wide = fit_columns(high, width - at)
                multiply_pixels(
                    high, wide, a[9] + 16 * run, count,
                    gradient + 4 * (row * a[6] + run) * LANES, a[6] * LANES,
                    images, a[8] + 16 * (tap + at),
                    sums + 4 * ((row - first) * width + at) * LANES, width * LANES,
                )  # fmt: skip
                at += wide
            row += high


@kernel
def convolve_weight(a: Any) -> None:
    """[E13] One piece: some channels and taps of the gradient of a weight.

    a[1:3] gradient and images as `lay_out` left them; a[3] blocks of sixteen images; a[4:8] groups,
    the gradient's channels in a group, its pixels, taps; a[8:10] tables of taps and pixels; a[10]
    numbers in a group of images; a[11:15] channels and taps in a piece, pieces over channels and
    over taps; a[15] result; a[16:18] memory; a[18] counter of slots.
    """
    groups, rows, pixels, taps = a[4], a[5], a[6], a[7]
    pieces = groups * a[13] * a[14]
    piece = take_chunk(a)
    if piece >= pieces:
        return
    sums = a[16] + take_slot(a, 18) * a[17]
    while piece < pieces:
        tap = piece % a[14] * a[12]
        end = min(taps, tap + a[12])
        first = piece // a[14] % a[13] * a[11]
        last = min(rows, first + a[11])
        group = piece // a[14] // a[13]
        _clear(sums, (last - first) * (end - tap))
        for block in range(a[3]):
            place = block * groups + group
            gradient = a[1] + 4 * place * rows * pixels * LANES
            _gather_sums(a, first, last, tap, end, gradient, a[2] + 4 * place * a[10], sums)
        for r in range(last - first):
            for t in range(end - tap):
                total = fold(load(sums, (r * (end - tap) + t) * LANES))
                store_one(a[15], (group * rows + first + r) * taps + tap + t, total)
        piece = take_chunk(a)
