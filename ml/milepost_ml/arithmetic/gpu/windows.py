"""Where the windows of an average begin and end along one dimension: rule E25.

`avg_pool2d` and `adaptive_avg_pool2d` differ in nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from milepost_ml.arithmetic.backends import Pooling
from milepost_ml.arithmetic.gpu.launch import divide_up

_GEOMETRIES: Final = 256
"""How many lists of windows are kept."""


class Axis(NamedTuple):
    """Windows along one dimension; the last four are int32 tensors."""

    outputs: int
    longest: int
    most: int
    """Windows that hold one place, at most."""
    starts: Tensor
    ends: Tensor
    sizes: Tensor
    """What a window counts in its divisor."""
    first: Tensor
    """The first window that ends after each place."""

    def get_windows(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.starts, self.ends, self.sizes


def _make_axis(length: int, windows: Sequence[tuple[int, int, int]], device: torch.device) -> Axis:
    """Of windows (start, end, size) with both ends ascending."""
    starts, ends, sizes = zip(*windows, strict=True)
    first = [sum(end <= place for end in ends) for place in range(length)]
    held = [
        sum(start <= place < end for start, end in zip(starts, ends, strict=True))
        for place in range(length)
    ]
    return Axis(
        len(windows),
        max(end - start for start, end in zip(starts, ends, strict=True)),
        max(held),
        *(
            torch.tensor(values, dtype=torch.int32, device=device)
            for values in (starts, ends, sizes, first)
        ),
    )


def count_outputs(length: int, shape: Pooling, axis: int) -> int:
    kernel, stride, padding = shape.kernel[axis], shape.stride[axis], shape.padding[axis]
    room = length + 2 * padding - shape.dilation[axis] * (kernel - 1) - 1
    count = (room + (stride - 1 if shape.ceil_mode else 0)) // stride + 1
    if shape.ceil_mode and (count - 1) * stride >= length + padding:
        count -= 1  # a window must begin inside the input or the padding before it
    return count


@functools.lru_cache(_GEOMETRIES)
def get_axis(
    length: int, shape: Pooling, axis: int, count_include_pad: bool, device: torch.device
) -> Axis:
    """Windows of `avg_pool2d`, clipped as PyTorch clips them."""
    windows = []
    for i in range(count_outputs(length, shape, axis)):
        start = i * shape.stride[axis] - shape.padding[axis]
        end = min(start + shape.kernel[axis], length + shape.padding[axis])
        clipped = max(start, 0), min(end, length)
        size = end - start if count_include_pad else clipped[1] - clipped[0]
        windows.append((*clipped, size))
    return _make_axis(length, windows, device)


@functools.lru_cache(_GEOMETRIES)
def get_adaptive_axis(length: int, outputs: int, device: torch.device) -> Axis:
    windows = []
    for i in range(outputs):
        start, end = i * length // outputs, divide_up((i + 1) * length, outputs)
        windows.append((start, end, end - start))
    return _make_axis(length, windows, device)
