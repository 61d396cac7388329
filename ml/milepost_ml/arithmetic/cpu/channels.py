"""Kernels of batch normalization: channels of planes, and channels of single numbers [E24]."""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from milepost_ml.arithmetic.cpu.lanes import (
    LANES,
    add,
    add_product,
    divide,
    fold,
    load,
    load_one,
    multiply,
    splat,
    store,
    store_one,
    subtract,
    take_chunk,
    unpack_float,
    zeros,
)
from milepost_ml.arithmetic.cpu.launch import kernel
from milepost_ml.arithmetic.cpu.partial import (
    CANONICAL_NAN,
    canonical,
    fold_across,
    fold_sixteen,
    keep,
    put,
    root,
    roots,
    sixteen_vectors,
    take,
)


@register_jitable
def _sum_planes(x: Any, images: Any, stride: Any, pixels: Any, middle: Any, squares: Any) -> Any:
    """The sum of x, or of (x - middle)^2, over pixels and then over images [E7]."""
    planes, total, around = sixteen_vectors(), zeros(), splat(middle)
    for first in range(0, images, LANES):
        for lane in range(LANES):
            p = zeros()
            if first + lane < images:
                plane = x + 4 * (first + lane) * stride
                if squares:
                    for i in range(0, pixels, LANES):
                        d = keep(subtract(take(plane, i, pixels), around), i, pixels)
                        p = add_product(p, d, d)
                else:
                    for i in range(0, pixels, LANES):
                        p = add(p, take(plane, i, pixels))
            store(planes, LANES * lane, p)
        total = add(total, fold_sixteen(planes))
    return fold(total)


@register_jitable
def _canonical_one(value: Any) -> Any:
    return value if value == value else unpack_float(CANONICAL_NAN)


@kernel
def run_batch_norm(a: Any) -> None:
    x, y, mean, rstd, weight, bias, running_mean, running_var = (
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
        a[8],
    )
    images, channels, pixels, training = a[9], a[10], a[11], a[12]
    eps, momentum, remainder = unpack_float(a[13]), unpack_float(a[14]), unpack_float(a[15])
    count, count_less_one, one = unpack_float(a[16]), unpack_float(a[17]), unpack_float(a[18])
    piece, stride = a[19], channels * pixels
    channel, stop = 0, 0
    while True:
        if channel == stop:
            channel = take_chunk(a) * piece
            stop = min(channel + piece, channels)
            if channel >= channels:
                break
        here, there = x + 4 * channel * pixels, y + 4 * channel * pixels
        if training != 0:
            m = _sum_planes(here, images, stride, pixels, eps, False) / count
            q = _sum_planes(here, images, stride, pixels, m, True)
            v = q / count
            if running_mean != 0:
                old = remainder * load_one(running_mean, channel)
                store_one(running_mean, channel, _canonical_one(old + momentum * m))
            if running_var != 0:
                old = remainder * load_one(running_var, channel)
                new = old + momentum * (q / count_less_one)
                store_one(running_var, channel, _canonical_one(new))
        else:
            m, v = load_one(running_mean, channel), load_one(running_var, channel)
        r = one / root(v + eps)
        store_one(mean, channel, m)
        store_one(rstd, channel, r)
        middle, scale, factor, shift = splat(m), splat(r), zeros(), zeros()
        if weight != 0:
            factor = splat(load_one(weight, channel))
        if bias != 0:
            shift = splat(load_one(bias, channel))
        for image in range(images):
            source, target = here + 4 * image * stride, there + 4 * image * stride
            for i in range(0, pixels, LANES):
                h = multiply(subtract(take(source, i, pixels), middle), scale)
                if weight != 0:
                    h = multiply(h, factor)
                if bias != 0:
                    h = add(h, shift)
                put(target, i, h, pixels)
        channel += 1


@kernel
def run_batch_norm_backward(a: Any) -> None:
    gradient, x, mean, rstd, weight, out, gweight, gbias = (
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
        a[8],
    )
    images, channels, pixels, training, count = a[9], a[10], a[11], a[12], unpack_float(a[13])
    piece, stride = a[14], channels * pixels
    g_planes, h_planes = sixteen_vectors(), sixteen_vectors()
    channel, stop = 0, 0
    while True:
        if channel == stop:
            channel = take_chunk(a) * piece
            stop = min(channel + piece, channels)
            if channel >= channels:
                break
        begin = 4 * channel * pixels
        r = load_one(rstd, channel)
        middle, scale = splat(load_one(mean, channel)), splat(r)
        g_total, h_total = zeros(), zeros()
        for first in range(0, images, LANES):
            for lane in range(LANES):
                g_sum, h_sum = zeros(), zeros()
                if first + lane < images:
                    plane = begin + 4 * (first + lane) * stride
                    for i in range(0, pixels, LANES):
                        g = take(gradient + plane, i, pixels)
                        h = multiply(subtract(take(x + plane, i, pixels), middle), scale)
                        g_sum = add(g_sum, g)
                        h_sum = add(h_sum, keep(multiply(g, h), i, pixels))
                store(g_planes, LANES * lane, g_sum)
                store(h_planes, LANES * lane, h_sum)
            g_total = add(g_total, fold_sixteen(g_planes))
            h_total = add(h_total, fold_sixteen(h_planes))
        sum_g, sum_h = fold(g_total), fold(h_total)
        store_one(gbias, channel, sum_g)
        store_one(gweight, channel, sum_h)
        c1, c2 = splat(sum_g / count), splat(sum_h / count)
        if weight != 0:
            r = load_one(weight, channel) * r
        factor = splat(r)
        for image in range(images):
            plane = begin + 4 * image * stride
            for i in range(0, pixels, LANES):
                g = take(gradient + plane, i, pixels)
                if training != 0:
                    h = multiply(subtract(take(x + plane, i, pixels), middle), scale)
                    g = subtract(subtract(g, c1), multiply(h, c2))
                put(out + plane, i, multiply(g, factor), pixels)
        channel += 1


@register_jitable
def _clear(vectors: Any) -> None:
    for lane in range(LANES):
        store(vectors, LANES * lane, zeros())


@register_jitable
def _sum_columns(x: Any, images: Any, channels: Any, column: Any, middle: Any, squares: Any) -> Any:
    """Sixteen channels' sums of x, or of (x - middle)^2, over images of one pixel [E7]."""
    partial = sixteen_vectors()
    _clear(partial)
    for image in range(images):
        lane = LANES * (image % LANES)
        value, total = take(x + 4 * image * channels, column, channels), load(partial, lane)
        if squares:
            value = subtract(value, middle)
            store(partial, lane, add_product(total, value, value))
        else:
            store(partial, lane, add(total, value))
    return fold_across(partial)


@kernel
def run_batch_norm_of_columns(a: Any) -> None:
    """The same as `run_batch_norm` for images of one pixel, sixteen channels at a time."""
    x, y, mean, rstd, weight, bias, running_mean, running_var = (
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
        a[8],
    )
    images, channels, training = a[9], a[10], a[12]
    eps, momentum = splat(unpack_float(a[13])), splat(unpack_float(a[14]))
    remainder, count = splat(unpack_float(a[15])), splat(unpack_float(a[16]))
    count_less_one, one, piece = splat(unpack_float(a[17])), splat(unpack_float(a[18])), a[19]
    while True:
        start = take_chunk(a) * piece
        if start >= channels:
            break
        for c in range(start, min(start + piece, channels), LANES):
            if training != 0:
                m = divide(_sum_columns(x, images, channels, c, zeros(), False), count)
                q = _sum_columns(x, images, channels, c, m, True)
                v = divide(q, count)
                if running_mean != 0:
                    old = multiply(remainder, take(running_mean, c, channels))
                    new = add_product(old, momentum, m)
                    put(running_mean, c, canonical(new), channels)
                if running_var != 0:
                    old = multiply(remainder, take(running_var, c, channels))
                    new = add_product(old, momentum, divide(q, count_less_one))
                    put(running_var, c, canonical(new), channels)
            else:
                m, v = take(running_mean, c, channels), take(running_var, c, channels)
            r = divide(one, roots(add(v, eps)))
            put(mean, c, m, channels)
            put(rstd, c, r, channels)
            for image in range(images):
                h = multiply(subtract(take(x + 4 * image * channels, c, channels), m), r)
                if weight != 0:
                    h = multiply(h, take(weight, c, channels))
                if bias != 0:
                    h = add(h, take(bias, c, channels))
                put(y + 4 * image * channels, c, h, channels)


@kernel
def run_batch_norm_of_columns_backward(a: Any) -> None:
    """The same as `run_batch_norm_backward` for images of one pixel, sixteen channels at a time."""
    gradient, x, mean, rstd, weight, out, gweight, gbias = (
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
        a[8],
    )
    images, channels, training = a[9], a[10], a[12]
    count, piece = splat(unpack_float(a[13])), a[14]
    g_sums, h_sums = sixteen_vectors(), sixteen_vectors()
    while True:
        start = take_chunk(a) * piece
        if start >= channels:
            break
        for c in range(start, min(start + piece, channels), LANES):
            m, r = take(mean, c, channels), take(rstd, c, channels)
            _clear(g_sums)
            _clear(h_sums)
            for image in range(images):
                lane, row = LANES * (image % LANES), 4 * image * channels
                g = take(gradient + row, c, channels)
                h = multiply(subtract(take(x + row, c, channels), m), r)
                store(g_sums, lane, add(load(g_sums, lane), g))
                store(h_sums, lane, add_product(load(h_sums, lane), g, h))
            sum_g, sum_h = fold_across(g_sums), fold_across(h_sums)
            put(gbias, c, sum_g, channels)
            put(gweight, c, sum_h, channels)
            c1, c2, factor = divide(sum_g, count), divide(sum_h, count), r
            if weight != 0:
                factor = multiply(take(weight, c, channels), r)
            for image in range(images):
                row = 4 * image * channels
                g = take(gradient + row, c, channels)
                if training != 0:
                    h = multiply(subtract(take(x + row, c, channels), m), r)
                    g = subtract(subtract(g, c1), multiply(h, c2))
                put(out + row, c, multiply(g, factor), channels)
