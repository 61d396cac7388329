"""Convolution over two dimensions and its gradients: rules E11, E12 and E13.

A program computes a tile of channels by places.  Places outside an input are read as +0 and
multiplied, since zero times infinity is not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import triton.language as tl
from torch import Tensor

from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.gpu.lanes import fold
from milepost_ml.arithmetic.gpu.launch import divide_up, jit, launch, make_contiguous

_CHANNELS: Final = 16
_PLACES: Final = 64
_TAPS: Final = 8


@jit
def _forward(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    images: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    groups: tl.tensor,
    xh: tl.tensor,
    xw: tl.tensor,
    yh: tl.tensor,
    yw: tl.tensor,
    kh: tl.tensor,
    kw: tl.tensor,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dilation_h: tl.constexpr,
    dilation_w: tl.constexpr,
    has_bias: tl.constexpr,
    channels: tl.constexpr,
    places: tl.constexpr,
) -> None:
    """`inputs` and `outputs` count the channels of one group."""
    across = tl.cdiv(images * yh * yw, places)
    down = tl.cdiv(outputs, channels)
    program = tl.program_id(0).to(tl.int64)
    group = program // (across * down)
    o = (program // across) % down * channels + tl.arange(0, channels)
    place = program % across * places + tl.arange(0, places)
    n = place // (yh * yw)
    i = place // yw % yh
    j = place % yw
    real = n < images
    channel = group * outputs + o
    taps = inputs * kh * kw
    y = tl.zeros((channels, places), tl.float32)
    for t in range(taps):
        c = group * inputs + t // (kh * kw)
        h = i * stride_h + t // kw % kh * dilation_h - pad_h
        v = j * stride_w + t % kw * dilation_w - pad_w
        inside = real & (h >= 0) & (h < xh) & (v >= 0) & (v < xw)
        a = tl.load(weight + channel * taps + t, mask=o < outputs, other=0.0)
        b = tl.load(x + ((n * groups * inputs + c) * xh + h) * xw + v, mask=inside, other=0.0)
        y = y + (a[:, None] * b[None, :])
    if has_bias:
        y = y + tl.load(bias + channel, mask=o < outputs, other=0.0)[:, None]
    row = (n * groups * outputs)[None, :] + channel[:, None]
    target = out + row * (yh * yw) + (i * yw + j)[None, :]
    tl.store(target, y, mask=(o < outputs)[:, None] & real[None, :])


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Convolution) -> Tensor:
    """[E11]"""
    x, weight = make_contiguous(x), make_contiguous(weight)
    images, _, xh, xw = x.shape
    total, inputs, kh, kw = weight.shape
    yh, yw = (
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, pad, dilation, kernel, stride in zip(
            (xh, xw), shape.padding, shape.dilation, (kh, kw), shape.stride, strict=True
        )
    )
    outputs = total // shape.groups
    out = torch.empty((images, total, yh, yw), dtype=x.dtype, device=x.device)
    tiles = divide_up(outputs, _CHANNELS) * divide_up(images * yh * yw, _PLACES)
    shift = x if bias is None else make_contiguous(bias)
    sizes = images, outputs, inputs, shape.groups, xh, xw, yh, yw, kh, kw
    launch(
        _forward,
        shape.groups * tiles,
        (x, weight, shift, out, *sizes),
        **_get_constants(shape),
        has_bias=bias is not None,
        channels=_CHANNELS,
        places=_PLACES,
    )
    return out


def _get_constants(shape: Convolution) -> dict[str, int]:
    return {
        "stride_h": shape.stride[0],
        "stride_w": shape.stride[1],
        "pad_h": shape.padding[0],
        "pad_w": shape.padding[1],
        "dilation_h": shape.dilation[0],
        "dilation_w": shape.dilation[1],
    }


@jit
def _backward_input(
    gradient: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    images: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    groups: tl.tensor,
    xh: tl.tensor,
    xw: tl.tensor,
    yh: tl.tensor,
    yw: tl.tensor,
    kh: tl.tensor,
    kw: tl.tensor,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dilation_h: tl.constexpr,
    dilation_w: tl.constexpr,
    channels: tl.constexpr,
    places: tl.constexpr,
) -> None:
    across = tl.cdiv(images * xh * xw, places)
    down = tl.cdiv(inputs, channels)
    program = tl.program_id(0).to(tl.int64)
    group = program // (across * down)
    c = (program // across) % down * channels + tl.arange(0, channels)
    place = program % across * places + tl.arange(0, places)
    n = place // (xh * xw)
    h = place // xw % xh
    v = place % xw
    real = n < images
    r = tl.zeros((channels, places), tl.float32)
    for tap in range(outputs * kh * kw):
        o = group * outputs + tap // (kh * kw)
        ky = tap // kw % kh
        kx = tap % kw
        above = h + pad_h - ky * dilation_h
        left = v + pad_w - kx * dilation_w
        i = above // stride_h
        j = left // stride_w
        inside = real & (above >= 0) & (i < yh) & (left >= 0) & (j < yw)
        a = tl.load(weight + ((o * inputs + c) * kh + ky) * kw + kx, mask=c < inputs, other=0.0)
        b = tl.load(
            gradient + ((n * groups * outputs + o) * yh + i) * yw + j, mask=inside, other=0.0
        )
        met = (above % stride_h == 0) & (left % stride_w == 0)
        r = tl.where(met[None, :], r + (a[:, None] * b[None, :]), r)
    row = (n * groups * inputs)[None, :] + (group * inputs + c)[:, None]
    target = out + row * (xh * xw) + (h * xw + v)[None, :]
    tl.store(target, r, mask=(c < inputs)[:, None] & real[None, :])


def convolution_input(
    gradient: Tensor, weight: Tensor, size: Sequence[int], shape: Convolution
) -> Tensor:
    """[E12]"""
    gradient, weight = make_contiguous(gradient), make_contiguous(weight)
    images, _, xh, xw = size
    total, inputs, kh, kw = weight.shape
    yh, yw = gradient.shape[2:]
    out = torch.empty(tuple(size), dtype=gradient.dtype, device=gradient.device)
    tiles = divide_up(inputs, _CHANNELS) * divide_up(images * xh * xw, _PLACES)
    sizes = images, total // shape.groups, inputs, shape.groups, xh, xw, yh, yw, kh, kw
    launch(
        _backward_input,
        shape.groups * tiles,
        (gradient, weight, out, *sizes),
        **_get_constants(shape),
        channels=_CHANNELS,
        places=_PLACES,
    )
    return out


@jit
def _backward_weight(
    gradient: tl.tensor,
    x: tl.tensor,
    out: tl.tensor,
    images: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    groups: tl.tensor,
    xh: tl.tensor,
    xw: tl.tensor,
    yh: tl.tensor,
    yw: tl.tensor,
    kh: tl.tensor,
    kw: tl.tensor,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dilation_h: tl.constexpr,
    dilation_w: tl.constexpr,
    taps: tl.constexpr,
) -> None:
    """A tile of output channels by taps by the sixteen partial sums of images."""
    across = tl.cdiv(inputs * kh * kw, taps)
    down = tl.cdiv(outputs, taps)
    program = tl.program_id(0).to(tl.int64)
    group = program // (across * down)
    o = (program // across) % down * taps + tl.arange(0, taps)
    t = program % across * taps + tl.arange(0, taps)
    channel = group * outputs + o
    c = group * inputs + t // (kh * kw)
    above = t // kw % kh * dilation_h - pad_h
    left = t % kw * dilation_w - pad_w
    p = tl.zeros((taps, taps, 16), tl.float32)
    for first in range(0, images, 16):
        n = (first + tl.arange(0, 16)).to(tl.int64)
        for place in range(yh * yw):
            i = place // yw
            j = place % yw
            h = i * stride_h + above
            v = j * stride_w + left
            row = (n * groups * outputs)[None, :] + channel[:, None]
            a = tl.load(
                gradient + row * (yh * yw) + place,
                mask=(o < outputs)[:, None] & (n < images)[None, :],
                other=0.0,
            )
            inside = (t < inputs * kh * kw) & (h >= 0) & (h < xh) & (v >= 0) & (v < xw)
            plane = (n * groups * inputs)[None, :] + c[:, None]
            b = tl.load(
                x + plane * (xh * xw) + (h * xw + v)[:, None],
                mask=inside[:, None] & (n < images)[None, :],
                other=0.0,
            )
            p = p + (a[:, None, :] * b[None, :, :])
    sums = fold(tl.reshape(p, (taps * taps, 16)), taps * taps)
    target = out + channel[:, None] * (inputs * kh * kw) + t[None, :]
    real = (o < outputs)[:, None] & (t < inputs * kh * kw)[None, :]
    tl.store(target, tl.reshape(sums, (taps, taps)), mask=real)


def convolution_weight(
    gradient: Tensor, x: Tensor, size: Sequence[int], shape: Convolution
) -> Tensor:
    """[E13]"""
    gradient, x = make_contiguous(gradient), make_contiguous(x)
    images, _, xh, xw = x.shape
    total, inputs, kh, kw = size
    yh, yw = gradient.shape[2:]
    outputs = total // shape.groups
    out = torch.empty(tuple(size), dtype=x.dtype, device=x.device)
    tiles = divide_up(outputs, _TAPS) * divide_up(inputs * kh * kw, _TAPS)
    sizes = images, outputs, inputs, shape.groups, xh, xw, yh, yw, kh, kw
    launch(
        _backward_weight,
        shape.groups * tiles,
        (gradient, x, out, *sizes),
        **_get_constants(shape),
        taps=_TAPS,
    )
    return out
