"""Products of matrices [E9, E10].

One factor gives scalars, the other one `Lanes`: sixteen columns of the right factor or, where that
is less work, sixteen rows of the left one (the product of two numbers does not depend on their
order).  A thread turns or copies a panel of a few `Lanes` into scratch memory where the factor does
not lie that way already, and meets many rows with it.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import torch
from numba import njit
from torch import Tensor

from milepost_ml.arithmetic.cpu.lanes import LANES, load, load_one, store, store_one, take_chunk
from milepost_ml.arithmetic.cpu.launch import get_scratch, kernel
from milepost_ml.arithmetic.cpu.tiles import fit_columns, fit_rows, multiply_matrices, take_slot
from milepost_ml.arithmetic.cpu.turns import turn_in, turn_out

PANEL: Final = 6
"""`Lanes` in a panel at most: what scratch memory holds of a factor, for every thread."""

PANEL_FEW: Final = 24
"""The same where there are at most `FEW` rows, which take long tiles."""

FEW: Final = 2

DISTANT: Final = 512
"""Numbers between two rows that make them fall on each other in caches: copied for `MANY` rows."""

MANY: Final = 128

HEIGHT: Final = 8
"""No tile is higher; pieces hold a multiple of it."""

SMALL: Final = 200_000
"""Multiplications that are not worth waking a second thread for."""

TURNING: Final = 0.4
"""Time to turn a number, in multiplications of `Lanes`."""

_ZEROS: Final = torch.zeros(PANEL_FEW * LANES)
_LINEAR: Final = torch.arange(LANES) * LANES
_ZEROS_AT: Final = _ZEROS.data_ptr()
_LINEAR_AT: Final = _LINEAR.data_ptr()


@njit(error_model="numpy")
def _fill_panel(a: Any, b: Any, first: Any, width: Any, panel: Any) -> None:
    """Put `width` `Lanes` of the factor at `b`, from lane `first` on, into scratch memory."""
    step, lane, lanes, count = a[7], a[8], a[14], a[15]
    for c in range(width):
        here = first + c * LANES
        left = min(lanes - here, LANES)
        out = panel + 4 * c * count * LANES
        if step == 1 and lane != 1 and count >= LANES:
            turn_in(b + 4 * here * lane, lane, left, count, a[25], out, a[26], LANES)
        elif lane == 1 and left == LANES:
            for k in range(count):
                store(out, k * LANES, load(b + 4 * here, k * step))
        else:
            for k in range(count):
                store(out, k * LANES, load(a[25], 0))
                for i in range(left):
                    store_one(out, k * LANES + i, load_one(b, k * step + (here + i) * lane))


@njit(error_model="numpy")
def _copy_edge(rows: Any, columns: Any, edge: Any, out: Any, out_row: Any, lanes: Any) -> None:
    """From a tile in scratch memory the `lanes` numbers of every row that there are."""
    for r in range(rows):
        for c in range(columns):
            left = lanes - c * LANES
            if left >= LANES:
                store(out, r * out_row + c * LANES, load(edge, (r * columns + c) * LANES))
            else:
                for i in range(left):
                    value = load_one(edge, (r * columns + c) * LANES + i)
                    store_one(out, r * out_row + c * LANES + i, value)


@njit(error_model="numpy")
def _multiply_piece(a: Any, piece: Any, panel: Any, edge: Any, bias: Any) -> None:
    """Some rows with one panel of one batch; `panel`, `edge` and `bias` are scratch memory."""
    rows, lanes, count = a[13], a[14], a[15]
    panels, wide, parts, high = a[16], a[17], a[18], a[19]
    out_row, out_lane = a[11], a[12]
    first = (piece // parts % panels) * wide * LANES
    batch = piece // parts // panels
    start = piece % parts * high
    end = min(rows, start + high)
    width = min(wide, (lanes - first + LANES - 1) // LANES)
    whole = first + width * LANES <= lanes
    vectors, column, step = a[5] + 4 * (batch * a[6] + first), LANES, a[7]
    if not (a[22] and whole):
        _fill_panel(a, a[5] + 4 * batch * a[6], first, width, panel)
        vectors, column, step = panel, count * LANES, LANES
    row_bias, bias_step, lane_bias = a[25], 0, a[25]
    if a[21] and a[29]:
        row_bias, bias_step = a[21], 1
    elif a[21]:
        lane_bias = bias
        for i in range(min(lanes - first, width * LANES)):
            store_one(bias, i, load_one(a[21], first + i))
    out = a[9] + 4 * batch * a[10]
    row = start
    while row < end:
        r = fit_rows(end - row)
        c = 0
        while c < width:
            q = fit_columns(r, width - c)
            left = lanes - first - c * LANES
            target = out + 4 * (row * out_row + first + c * LANES)
            place, place_row, place_column = target, out_row, LANES
            if out_lane != 1:
                place = edge + 4 * (c * high + row - start) * LANES
                place_row, place_column = LANES, high * LANES
            elif q * LANES > left:
                place, place_row = edge, q * LANES
            multiply_matrices(
                r, q, count, a[1] + 4 * (batch * a[2] + row * a[3]), a[3], a[4],
                vectors + 4 * c * column, column, step, row_bias + 4 * row * bias_step, bias_step,
                lane_bias + 4 * c * LANES, place, place_row, place_column,
            )  # fmt: skip
            if out_lane == 1 and q * LANES > left:
                _copy_edge(r, q, edge, target, out_row, left)
            c += q
        row += r
    if out_lane != 1:
        for c in range(width):
            here = first + c * LANES
            source = edge + 4 * c * high * LANES
            target = out + 4 * (here * out_lane + start)
            turn_out(source, target, out_lane, min(lanes - here, LANES), end - start, bias)


@kernel
def _multiply(a: Any) -> None:
    """[E9] A piece is some rows with one panel.

    Address, numbers between batches and two strides of: a[1:5] scalars (rows, k), a[5:9] lanes
    (k, lanes), a[9:13] result (rows, lanes); a[13:16] rows, lanes, length of k; a[16:21] panels,
    their `Lanes`, parts of the rows, their rows, pieces; a[21] bias or 0; a[22] whether lanes are
    read where they lie; a[23:25] scratch memory, bytes of it for a thread; a[25:27] zeros and
    multiples of sixteen; a[27] counter of slots; a[28] pieces to take at once; a[29] whether rows
    are columns of the product.
    """
    pieces, grain = a[20], a[28]
    start = take_chunk(a) * grain
    if start >= pieces:
        return
    bias = a[23] + take_slot(a, 27) * a[24]
    panel = bias + 4 * a[17] * LANES
    edge = panel + 4 * a[17] * a[15] * LANES
    while start < pieces:
        for piece in range(start, min(pieces, start + grain)):
            _multiply_piece(a, piece, panel, edge, bias)
        start = take_chunk(a) * grain


class _Plan(NamedTuple):
    """How a product is shared out."""

    swap: bool
    threads: int
    scratch: int
    slot_bytes: int
    copies: bool
    is_direct: int
    grain: int
    sizes: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def _make_plan(
    batches: int, m: int, n: int, count: int, a_step: int, b_step: int, limit: int
) -> _Plan:
    """A step is the numbers from one k to the next where the other dimension lies side by side.

    It is 0 where it does not.  `limit` is the number of threads there are.
    """
    blocks_m, blocks_n = -(-m // LANES), -(-n // LANES)
    plain = m * blocks_n * count + (0 if b_step else TURNING * n * count)
    swapped = n * blocks_m * count + (0 if a_step else TURNING * m * count) + TURNING * m * n
    swap = swapped < plain
    rows, lanes, blocks, step = (n, m, blocks_m, a_step) if swap else (m, n, blocks_n, b_step)
    if batches * m * n * count < SMALL:
        limit = 1
    panels = -(-blocks // (PANEL if rows > FEW else PANEL_FEW))
    if batches < 2 * limit:
        panels = min(-(-panels // limit) * limit, -(-blocks // 2))
    wide = -(-blocks // panels)
    panels = -(-blocks // wide)
    parts, high = 1, rows
    if batches * panels < limit:
        high = -(-rows * batches * panels // limit)
        high = -(-high // HEIGHT) * HEIGHT
        parts = -(-rows // high)
    pieces = batches * panels * parts
    threads = min(limit, pieces)
    is_direct = step > 0 and (step < DISTANT or rows < MANY)
    size = LANES * wide * (1 + count + max(high, HEIGHT))
    copies = swap or not is_direct or lanes % LANES > 0
    if not copies:
        size = LANES * wide  # nothing but a bias is copied
    grain = max(1, pieces // (8 * threads)) if threads > 1 else pieces
    sizes = (rows, lanes, count, panels, wide, parts, high, pieces)
    return _Plan(swap, threads, threads * size, 4 * size, copies, int(is_direct), grain, sizes)


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """[E10] (B, M, K) x (B, K, N) or (M, K) x (K, N); `bias` of shape (N,) is added to D."""
    a_strides, b_strides = a.stride(), b.stride()
    if 1 not in a_strides[-2:]:
        a = a.contiguous()
        a_strides = a.stride()
    if 1 not in b_strides[-2:]:
        b = b.contiguous()
        b_strides = b.stride()
    if len(a_strides) == 2:
        batches, a_batch, b_batch = 1, 0, 0
        (m, count), n = a.shape, b.shape[1]
        (a_row, a_step), (b_step, b_lane) = a_strides, b_strides
        out = torch.empty((m, n))
    else:
        (batches, m, count), n = a.shape, b.shape[2]
        (a_batch, a_row, a_step), (b_batch, b_step, b_lane) = a_strides, b_strides
        out = torch.empty((batches, m, n))
    if not batches * m * n:
        return out
    plan = _make_plan(
        batches, m, n, count, a_step if a_row == 1 else 0, b_step if b_lane == 1 else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    scratch = get_scratch(plan.scratch) if plan.copies or bias is not None else 0
    if plan.swap:
        factors = (b.data_ptr(), b_batch, b_lane, b_step, a.data_ptr(), a_batch, a_step, a_row)
        places = (1, n)
    else:
        factors = (a.data_ptr(), a_batch, a_row, a_step, b.data_ptr(), b_batch, b_step, b_lane)
        places = (n, 1)
    if bias is not None and bias.stride(0) != 1:
        bias = bias.contiguous()
    _multiply(
        plan.threads, *factors, out.data_ptr(), m * n, *places, *plan.sizes,
        0 if bias is None else bias.data_ptr(), plan.is_direct, scratch,
        plan.slot_bytes, _ZEROS_AT, _LINEAR_AT, 0, plan.grain, int(plan.swap),
    )  # fmt: skip
    return out
