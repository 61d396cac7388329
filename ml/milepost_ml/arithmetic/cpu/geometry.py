"""Where the numbers of a convolution lie when sixteen images share a vector [E11-E13].

Kernels see the images as `Lanes` at the positions of a padded plane, channel after channel, and
find their way by tables that are made here once for every shape.  Offsets count float32.

A *band* is a run of rows of the result; a *phase* of a band are the pixels of the result that meet
the same taps: all of them, except in the gradient of an input with a stride, where a pixel meets
only the taps that its position leaves divisible.

There are two sets of phases.  In the first one a tap outside is met and multiplied with +0, as the
rules say.  In the second one it is not met.  That gives the same bits if all weights are finite:
the product is +0 or -0, and adding it changes no sum, because a sum that starts at +0 is never -0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.cpu.lanes import LANES

BAND_BYTES: Final = 1 << 20
"""What a thread lays out at a time, sources and results, if that is more than one row."""

MIN_ROWS: Final = 4
"""Channels of a result from which on a tile of one pixel keeps the processor busy."""

MAX_TAPS: Final = 1 << 18
"""Entries that a table of taps may have to save those outside."""

_Ints = NDArray[np.int64]
_Taps = tuple[tuple[int, int], ...]
_Phases = dict[_Taps, list[int]]


class Axis(NamedTuple):
    """One dimension of a convolution as its result walks over it.

    A result at r meets, at tap k, the source at `(r * up + shift - sign * k * dilation) / down`,
    where sign is 1 for gradients (`down` = stride) and -1 otherwise (`up` = stride).
    """

    results: int
    sources: int
    taps: int
    up: int
    down: int
    shift: int
    step: int

    def find_span(self, first: int, last: int) -> tuple[int, int]:
        """The lowest and the highest source that results first..last meet, absent ones too."""
        ends = (0, (self.taps - 1) * self.step)
        low = first * self.up + self.shift + min(ends)
        high = last * self.up + self.shift + max(ends)
        return -(-low // self.down), high // self.down

    def find_phases(self, *, inside: bool) -> _Phases:
        """Taps (their number, their distance from `find_base`) and the results that meet them.

        With `inside`, results meet no taps that are outside.
        """
        phases: _Phases = {}
        for result in range(self.results):
            start = result % self.down * self.up + self.shift
            places = [(k, start + k * self.step) for k in range(self.taps)]
            taps = [(k, place // self.down) for k, place in places if place % self.down == 0]
            if inside:
                base = self.find_base(result)
                taps = [tap for tap in taps if 0 <= base + tap[1] < self.sources]
            phases.setdefault(tuple(taps), []).append(result)
        return phases

    def find_base(self, result: int) -> int:
        """The source from which distances of taps count."""
        return result // self.down * self.up


class Tables(NamedTuple):
    """Tables for a kernel, and their addresses."""

    memory: Tensor
    plane: int  # positions of a channel
    pixels: int  # of the result, in the largest band
    bands: int
    has_blanks: bool
    bands_at: int
    phases_at: int
    taps_at: int
    pixels_at: int
    places_at: int


def make_axes(size: Sequence[int], taps: Sequence[int], out: Sequence[int], shape: Convolution,
              *, gradient: bool) -> tuple[Axis, Axis]:  # fmt: skip
    """Height and width; `size` is the input's, `out` the output's height and width."""
    axes = []
    for i in range(2):
        stride, padding, dilation = shape.stride[i], shape.padding[i], shape.dilation[i]
        if gradient:
            axes.append(Axis(size[i], out[i], taps[i], 1, stride, padding, -dilation))
        else:
            axes.append(Axis(out[i], size[i], taps[i], stride, 1, -padding, dilation))
    return axes[0], axes[1]


class _Writer:
    """Collects phases, their taps and their pixels."""

    def __init__(self, tall: Axis, broad: Axis, channels: int, channel_weights: int) -> None:
        self.tall, self.broad = tall, broad
        self.channels, self.channel_weights = channels, channel_weights
        self.plane = self.width = self.left = 0
        self.phases: list[tuple[int, int, int, int]] = []
        self.taps: list[_Ints] = [np.empty((0, 2), np.int64)]
        self.pixels: list[_Ints] = []
        self._spans: dict[tuple[_Taps, _Taps], tuple[int, int]] = {}
        self._pixel_count = self._tap_count = 0

    def add_taps(self, rows: _Taps, columns: _Taps) -> tuple[int, int]:
        """Where the pairs (offset into the weight, offset into the images) lie."""
        if (rows, columns) not in self._spans:
            one = [
                (ky * self.broad.taps + kx, (up * self.width + across) * LANES)
                for ky, up in rows
                for kx, across in columns
            ]
            channel = np.arange(self.channels)[:, None, None]
            apart = channel * np.array([self.channel_weights, self.plane * LANES])
            taps = (np.array(one, np.int64).reshape(-1, 2) + apart).reshape(-1, 2)
            self._spans[rows, columns] = (self._tap_count, len(taps))
            self._tap_count += len(taps)
            self.taps.append(taps)
        return self._spans[rows, columns]

    def add_band(self, first: int, last: int, low: int, *, inside: bool) -> tuple[int, int]:
        """Phases of results in rows first..last, laid out from row `low` of the source on."""
        start = len(self.phases)
        by_column = self.broad.find_phases(inside=inside)
        for row_taps, all_rows in self.tall.find_phases(inside=inside).items():
            rows = [row for row in all_rows if first <= row <= last]
            if not rows:
                continue
            up = np.array([self.tall.find_base(row) - low for row in rows]) * self.width
            down = (np.array(rows) - first) * self.broad.results
            for column_taps, columns in by_column.items():
                across = np.array([self.broad.find_base(column) for column in columns])
                sources = np.add.outer(up, across - self.left).ravel()
                targets = np.add.outer(down, np.array(columns)).ravel()
                pairs: _Ints = np.stack([sources, targets], axis=1) * LANES
                span = self.add_taps(row_taps, column_taps)
                self.phases.append((*span, self._pixel_count, len(pairs)))
                self.pixels.append(pairs)
                self._pixel_count += len(pairs)
        return start, len(self.phases) - start


@functools.lru_cache(maxsize=256)
def make_tables(
    tall: Axis, broad: Axis, channels: int, channel_weights: int, band_rows: int, inside: bool
) -> Tables:
    """Tables for bands of `band_rows` rows, a multiple of `tall.down`.

    A tap is (channel, row, column), channels outermost, `channel_weights` numbers of the weight
    apart.  The second set of phases is the first one again unless `inside` asks for it.
    """
    spans = []
    for first in range(0, tall.results, band_rows):
        last = min(first + band_rows, tall.results) - 1
        spans.append((first, last, *tall.find_span(first, last)))
    left, right = broad.find_span(0, broad.results - 1)
    writer = _Writer(tall, broad, channels, channel_weights)
    writer.left = min(left, 0)
    writer.width = max(right, broad.sources - 1) - writer.left + 1
    writer.plane = writer.width * max(high - low + 1 for _, _, low, high in spans)

    bands: list[tuple[int, ...]] = []
    places: list[_Ints] = []
    placed = 0
    has_blanks = False
    for first, last, low, high in spans:
        from_row, to_row = max(low, 0), min(high, tall.sources - 1) + 1
        rows = np.arange(from_row, max(to_row, from_row))[:, None] - low
        place = (rows * writer.width + np.arange(broad.sources) - writer.left).ravel()
        places.append(place.astype(np.int64) * LANES)
        has_blanks = has_blanks or len(place) < writer.plane
        phases = writer.add_band(first, last, low, inside=False)
        others = writer.add_band(first, last, low, inside=True) if inside else phases
        results = (first * broad.results, (last + 1 - first) * broad.results)
        bands.append((from_row * broad.sources, len(place), placed, *results, *phases, *others))
        placed += len(place)

    taps, pixels = np.concatenate(writer.taps), np.concatenate(writer.pixels)
    parts = [np.array(bands), np.array(writer.phases), taps, pixels, *places]
    memory = torch.from_numpy(np.concatenate([part.ravel() for part in parts]).astype(np.int64))
    sizes = [part.size for part in parts[:4]]
    starts = [memory.data_ptr() + 8 * sum(sizes[:i]) for i in range(5)]
    largest = max(band[4] for band in bands)
    return Tables(memory, writer.plane, largest, len(bands), has_blanks, *starts)


def is_worth_skipping(tall: Axis, broad: Axis, channels: int, rows: int) -> bool:
    """Whether the second set of phases saves time: there are taps outside, and tiles stay full."""
    if rows < MIN_ROWS:
        return False
    phases = [axis.find_phases(inside=True) for axis in (tall, broad)]
    count = len(phases[0]) * len(phases[1]) * channels * tall.taps * broad.taps
    return count <= MAX_TAPS and any(
        len(phases[i]) > len(axis.find_phases(inside=False)) for i, axis in enumerate((tall, broad))
    )


def choose_band_rows(tall: Axis, broad: Axis, channels: int, rows: int, wanted: int) -> int:
    """How many rows of the result make a band: memory allows it, and there are `wanted` bands."""
    left, right = broad.find_span(0, broad.results - 1)
    width = max(right, broad.sources - 1) - min(left, 0) + 1
    most = max(1, tall.results // max(wanted, 1))
    count = tall.down
    while count < most:
        following = min(count + tall.down, tall.results)
        low, high = tall.find_span(0, following - 1)
        numbers = LANES * (channels * (high - low + 1) * width + rows * following * broad.results)
        if 4 * numbers > BAND_BYTES:
            break
        count = following
    bands = -(-tall.results // count)
    even = -(-tall.results // bands)
    return -(-even // tall.down) * tall.down
