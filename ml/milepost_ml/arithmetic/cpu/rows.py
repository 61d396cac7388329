"""Kernels of layer normalization: statistics of rows, sums over columns [E23]."""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from milepost_ml.arithmetic.cpu.lanes import (
    LANES,
    add,
    add_product,
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
from milepost_ml.arithmetic.cpu.partial import keep, put, root, take


@kernel
def run_layer_norm(a: Any) -> None:
    x, y, mean, rstd, weight, bias = a[1], a[2], a[3], a[4], a[5], a[6]
    rows, n, rows_a_piece = a[7], a[8], a[9]
    count, eps = unpack_float(a[10]), unpack_float(a[11])
    one = unpack_float(a[12])
    while True:
        first = take_chunk(a) * rows_a_piece
        if first >= rows:
            break
        for row in range(first, min(first + rows_a_piece, rows)):
            here, there = x + 4 * row * n, y + 4 * row * n
            total = zeros()
            for i in range(0, n, LANES):
                total = add(total, take(here, i, n))
            m = fold(total) / count
            middle = splat(m)
            total = zeros()
            for i in range(0, n, LANES):
                d = keep(subtract(take(here, i, n), middle), i, n)
                total = add_product(total, d, d)
            r = one / root(fold(total) / count + eps)
            scale = splat(r)
            for i in range(0, n, LANES):
                h = multiply(subtract(take(here, i, n), middle), scale)
                if weight != 0:
                    h = multiply(h, take(weight, i, n))
                if bias != 0:
                    h = add(h, take(bias, i, n))
                put(there, i, h, n)
            store_one(mean, row, m)
            store_one(rstd, row, r)


@kernel
def run_layer_norm_backward(a: Any) -> None:
    gradient, x, mean, rstd, weight = a[1], a[2], a[3], a[4], a[5]
    out, gweight, gbias, partial = a[6], a[7], a[8], a[9]
    rows, n, row_pieces, rows_a_piece, width = a[10], a[11], a[12], a[13], a[14]
    count = unpack_float(a[15])
    while True:
        piece = take_chunk(a)
        column = (piece - row_pieces) * width
        if column >= n:
            break
        if column >= 0:
            end = min(column + width, n)
            weights = partial + 8 * LANES * column
            biases = weights + 4 * LANES * width
            _sum_rows(gradient, x, mean, rstd, rows, n, column, end, weights, biases, width)
            _fold_rows(weights, width, gweight, column, end)
            _fold_rows(biases, width, gbias, column, end)
            continue
        for row in range(piece * rows_a_piece, min((piece + 1) * rows_a_piece, rows)):
            g_row, x_row, out_row = gradient + 4 * row * n, x + 4 * row * n, out + 4 * row * n
            middle, scale = splat(load_one(mean, row)), splat(load_one(rstd, row))
            total1, total2 = zeros(), zeros()
            for i in range(0, n, LANES):
                q = take(g_row, i, n)
                if weight != 0:
                    q = multiply(q, take(weight, i, n))
                h = multiply(subtract(take(x_row, i, n), middle), scale)
                total1 = add(total1, keep(q, i, n))
                total2 = add(total2, keep(multiply(q, h), i, n))
            c1, c2 = splat(fold(total1) / count), splat(fold(total2) / count)
            for i in range(0, n, LANES):
                q = take(g_row, i, n)
                if weight != 0:
                    q = multiply(q, take(weight, i, n))
                h = multiply(subtract(take(x_row, i, n), middle), scale)
                q = subtract(subtract(q, c1), multiply(h, c2))
                put(out_row, i, multiply(q, scale), n)


@register_jitable
def _sum_rows(
    gradient: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    rows: Any,
    n: Any,
    column: Any,
    end: Any,
    weights: Any,
    biases: Any,
    width: Any,
) -> None:
    """Add columns of g * h and of g over rows, row r to the partial sums r mod 16 [E6]."""
    for row in range(rows):
        middle, scale = splat(load_one(mean, row)), splat(load_one(rstd, row))
        place = row % LANES * width
        for i in range(column, end, LANES):
            g = take(gradient + 4 * row * n, i, end)
            h = multiply(subtract(take(x + 4 * row * n, i, end), middle), scale)
            here = place + i - column
            store(weights, here, add_product(load(weights, here), g, h))
            store(biases, here, add(load(biases, here), g))


@register_jitable
def _fold_rows(partial: Any, width: Any, out: Any, column: Any, end: Any) -> None:
    """Fold sixteen rows of partial sums, column by column [E6]."""
    for i in range(column, end, LANES):
        half = LANES // 2
        while half > 0:
            for row in range(half):
                here = row * width + i - column
                store(partial, here, add(load(partial, here), load(partial, here + half * width)))
            half //= 2
        put(out, i, load(partial, i - column), end)
