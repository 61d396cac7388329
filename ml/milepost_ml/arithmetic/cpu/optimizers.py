"""Steps of SGD, Adam and AdamW [E28, E29] over all parameters in one run of a kernel.

A table of integers names the tensors: eight words each, the first the number of the tensor's
first piece.  A piece is `PIECE_ELEMENTS` neighbours of one tensor.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

from numba.extending import register_jitable
from torch import Tensor

from milepost_ml.arithmetic.cpu.lanes import (
    LANES,
    add,
    add_product,
    divide,
    load_index,
    multiply,
    splat,
    subtract,
    take_chunk,
    unpack_float,
)
from milepost_ml.arithmetic.cpu.launch import kernel, pack_float
from milepost_ml.arithmetic.cpu.partial import canonical, larger, put, roots, take

PIECE_ELEMENTS: Final = 16384
"""Neighbours of one tensor in a piece: enough to outweigh handing it out."""

_WORDS: Final = 8


@register_jitable
def _find_tensor(table: Any, tensors: Any, piece: Any) -> Any:
    """The place in the table of the tensor that a piece belongs to."""
    low, high = 0, tensors
    while high - low > 1:
        middle = (low + high) // 2
        if load_index(table, _WORDS * middle) <= piece:
            low = middle
        else:
            high = middle
    return _WORDS * low


@kernel
def _sgd(a: Any) -> None:
    table, tensors, pieces = a[1], a[2], a[3]
    has_decay, has_momentum, nesterov, first = a[4], a[5], a[6], a[7]
    lr, decay = splat(unpack_float(a[8])), splat(unpack_float(a[9]))
    momentum, share = splat(unpack_float(a[10])), splat(unpack_float(a[11]))
    while True:
        piece = take_chunk(a)
        if piece >= pieces:
            break
        entry = _find_tensor(table, tensors, piece)
        begin = (piece - load_index(table, entry)) * PIECE_ELEMENTS
        count = load_index(table, entry + 1)
        p_at, g_at = load_index(table, entry + 2), load_index(table, entry + 3)
        b_at = load_index(table, entry + 4)
        end = min(begin + PIECE_ELEMENTS, count)
        for i in range(begin, end, LANES):
            p, g = take(p_at, i, end), take(g_at, i, end)
            if has_decay != 0:
                g = add_product(g, decay, p)
            if has_momentum != 0:
                b = g
                if first == 0:
                    b = add(multiply(momentum, take(b_at, i, end)), multiply(share, g))
                put(b_at, i, canonical(b), end)
                if nesterov != 0:
                    g = add_product(g, momentum, b)
                else:
                    g = b
            put(p_at, i, canonical(subtract(p, multiply(lr, g))), end)


@kernel
def _adam(a: Any) -> None:
    table, tensors, pieces = a[1], a[2], a[3]
    has_decay, decoupled, has_maxima = a[4], a[5], a[6]
    decay, eps = splat(unpack_float(a[7])), splat(unpack_float(a[8]))
    share1, beta2, share2 = (
        splat(unpack_float(a[9])),
        splat(unpack_float(a[10])),
        splat(unpack_float(a[11])),
    )
    while True:
        piece = take_chunk(a)
        if piece >= pieces:
            break
        entry = _find_tensor(table, tensors, piece)
        begin = (piece - load_index(table, entry)) * PIECE_ELEMENTS
        count = load_index(table, entry + 1)
        p_at, g_at = load_index(table, entry + 2), load_index(table, entry + 3)
        m_at, v_at = load_index(table, entry + 4), load_index(table, entry + 5)
        w_at, factors = load_index(table, entry + 6), load_index(table, entry + 7)
        rate, correction = splat(unpack_float(factors)), splat(unpack_float(factors >> 32))
        end = min(begin + PIECE_ELEMENTS, count)
        for i in range(begin, end, LANES):
            p, g = take(p_at, i, end), take(g_at, i, end)
            if has_decay != 0:
                if decoupled != 0:
                    p = multiply(p, decay)
                else:
                    g = add_product(g, decay, p)
            m, v = take(m_at, i, end), take(v_at, i, end)
            m = add_product(m, share1, subtract(g, m))
            v = add(multiply(beta2, v), multiply(share2, multiply(g, g)))
            put(m_at, i, canonical(m), end)
            put(v_at, i, canonical(v), end)
            if has_maxima != 0:
                v = larger(take(w_at, i, end), v)
                put(w_at, i, canonical(v), end)
            step = divide(m, add(divide(roots(v), correction), eps))
            put(p_at, i, canonical(subtract(p, multiply(rate, step))), end)


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _write_back(changed: Sequence[tuple[Tensor, Tensor]]) -> None:
    for tensor, dense in changed:
        if dense is not tensor:
            tensor.copy_(dense)


def _lay_table(
    gradients: Sequence[Tensor], changed: Sequence[Sequence[Tensor]], factors: Sequence[int]
) -> tuple[array[int], int, list[tuple[Tensor, Tensor]]]:
    """The table, how many pieces there are, and each tensor with the dense one to be changed.

    `changed` are the lists of tensors that a step writes, the parameters first; a list may be
    empty.  All that is returned must live until the kernel is done.
    """
    table, pieces = array("q"), 0
    written: list[tuple[Tensor, Tensor]] = []
    places = [
        (place, tensors) for place, tensors in zip((2, 4, 5, 6), changed, strict=False) if tensors
    ]
    for i, gradient in enumerate(gradients):
        count = gradient.numel()
        if not count:
            continue
        dense = _dense(gradient)
        written.append((dense, dense))
        row = [pieces, count, 0, dense.data_ptr(), 0, 0, 0, factors[i] if factors else 0]
        for place, tensors in places:
            tensor = tensors[i]
            dense = _dense(tensor)
            if dense is not tensor:
                written.append((tensor, dense))
            row[place] = dense.data_ptr()
        table.extend(row)
        pieces += -(-count // PIECE_ELEMENTS)
    return table, pieces, written


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    """[E28] in place; `momenta` is empty without momentum."""
    table, pieces, written = _lay_table(gradients, (parameters, momenta), ())
    _sgd(
        pieces,
        table.buffer_info()[0],
        len(table) // _WORDS,
        pieces,
        int(weight_decay != 0),
        int(bool(momenta)),
        int(nesterov),
        int(first),
        pack_float(lr),
        pack_float(weight_decay),
        pack_float(momentum),
        pack_float(1 - dampening),
    )
    _write_back(written)


def _raise_to(base: float, exponent: int) -> float:
    """base^exponent by the squarings of [E29]."""
    result = 1.0
    while exponent > 0:
        if exponent % 2:
            result = result * base
        base = base * base
        exponent //= 2
    return result


def _compute_factors(step: int, lr: float, beta1: float, beta2: float) -> int:
    """a and c2 of [E29] as two float32, a in the low half of a word."""
    rate = lr / (1 - _raise_to(beta1, step))
    correction = math.sqrt(1 - _raise_to(beta2, step))
    return pack_float(correction) << 32 | pack_float(rate) & 0xFFFFFFFF


def adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    averages: Sequence[Tensor],
    squares: Sequence[Tensor],
    maxima: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    decoupled: bool,
) -> None:
    """[E29] in place; `steps` already count this step; `maxima` is empty without amsgrad.

    Decoupled weight decay is AdamW's.
    """
    known: dict[int, int] = {}
    factors = []
    for tensor in steps:
        step = int(tensor.item())
        if step not in known:
            known[step] = _compute_factors(step, lr, beta1, beta2)
        factors.append(known[step])
    changed = (parameters, averages, squares, maxima)
    table, pieces, written = _lay_table(gradients, changed, factors)
    _adam(
        pieces,
        table.buffer_info()[0],
        len(table) // _WORDS,
        pieces,
        int(weight_decay != 0),
        int(decoupled),
        int(bool(maxima)),
        pack_float(1 - lr * weight_decay if decoupled else weight_decay),
        pack_float(eps),
        pack_float(1 - beta1),
        pack_float(beta2),
        pack_float(1 - beta2),
    )
    _write_back(written)
