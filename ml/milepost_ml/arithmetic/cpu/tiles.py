"""Register tiles: the inner loops of matrix products and convolutions [E9, E13].

A tile keeps a few rows and columns of `Lanes` in registers and runs through the whole inner
dimension once.  Every lane is one result (or one partial sum) with its own additions in their
order, so the shape of a tile is a choice of speed that no bit depends on; it follows from the
registers of the processor the code is compiled for.

As in `lanes`, memory is addressed by number: addresses count bytes, everything else float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from milepost_ml.arithmetic.cpu.lanes import LANES

_FLOAT: Final = ir.FloatType()
_VECTOR: Final = ir.VectorType(_FLOAT, LANES)
_WORD: Final = ir.IntType(64)

_Values = list[Any]
_Shapes = dict[int, tuple[int, ...]]

# Rows of a tile: how many columns it may have.  32 registers that hold one `Lanes` each, or fewer
# and smaller ones; three quarters of them accumulate.
_WIDE: Final[_Shapes] = {8: (3, 2, 1), 6: (4, 2, 1), 4: (6, 3, 1), 2: (8, 4, 1), 1: (8, 4, 1)}
_NARROW: Final[_Shapes] = {6: (1,), 3: (2, 1), 2: (3, 1), 1: (6, 3, 1)}


def _get_shapes(context: Any) -> _Shapes:
    """Shapes for the processor that is compiled for; the largest comes first."""
    _triple, _name, features = context.codegen().magic_tuple()
    return _WIDE if "+avx512f" in features else _NARROW


def _constant(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _scale(builder: Any, value: Any, factor: int) -> Any:
    return builder.mul(value, _constant(factor))


def _read(builder: Any, address: Any, kind: Any) -> Any:
    pointer = builder.inttoptr(address, kind.as_pointer())
    return builder.load(pointer, align=8 if kind is _WORD else 4)


def _write(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _spread(builder: Any, value: Any) -> Any:
    """One number in all lanes."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, order)


def _step_many(builder: Any, base: Any, step: Any, count: int) -> _Values:
    """The addresses base, base + step, ... with a step in float32."""
    size = _scale(builder, step, 4)
    return [builder.add(base, _scale(builder, size, i)) if i else base for i in range(count)]


def _repeat(
    builder: Any, count: Any, totals: _Values, step: Callable[[Any, _Values], _Values]
) -> _Values:
    """A loop over 0 <= k < count that carries `totals` in registers."""
    before = builder.block
    body = builder.append_basic_block("tile")
    after = builder.append_basic_block("tile.end")
    builder.cbranch(builder.icmp_signed("<", _constant(0), count), body, after)
    builder.position_at_end(body)
    index = builder.phi(_WORD)
    index.add_incoming(_constant(0), before)
    carried = [builder.phi(_VECTOR) for _ in totals]
    news = step(index, list(carried))
    following = builder.add(index, _constant(1))
    index.add_incoming(following, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    builder.position_at_end(after)
    results = []
    for start, phi, new in zip(totals, carried, news, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(new, body)
        result = builder.phi(_VECTOR)
        result.add_incoming(start, before)
        result.add_incoming(new, body)
        results.append(result)
    return results


def _for_each_shape(
    context: Any, builder: Any, rows: Any, columns: Any, emit: Callable[[int, int], None]
) -> None:
    """Code for every shape, and a branch to the one at hand."""
    done = builder.append_basic_block("tile.done")
    chosen = builder.add(_scale(builder, rows, LANES), columns)
    switch = builder.switch(chosen, done)
    for height, widths in _get_shapes(context).items():
        for width in widths:
            block = builder.append_basic_block(f"tile.{height}x{width}")
            switch.add_case(_constant(height * LANES + width), block)
            builder.position_at_end(block)
            emit(height, width)
            builder.branch(done)
    builder.position_at_end(done)


def _multiply(builder: Any, totals: _Values, scalars: _Values, vectors: _Values) -> _Values:
    """totals + scalars x vectors, every product rounded first."""
    news = []
    for r, scalar in enumerate(scalars):
        factor = _spread(builder, scalar)
        for c, vector in enumerate(vectors):
            total = totals[r * len(vectors) + c]
            news.append(builder.fadd(total, builder.fmul(factor, vector)))
    return news


def _plan_widths(height: int, widths: tuple[int, ...]) -> list[int]:
    """The first tile's columns, for 0 to 15 columns that are left: the sum of times is least.

    In a step a tile is as slow as its products or, where these are few, as one addition.
    """
    first, time = [widths[-1]], [0]
    for left in range(1, LANES):
        options = [(max(height * w, 4) + 1 + time[left - w], -w) for w in widths if w <= left]
        best, width = min(options)
        first.append(-width)
        time.append(best)
    return first


@intrinsic
def fit_rows(typing: Any, left: Any) -> Any:
    """How many rows the next tile takes when `left` of them are left."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = _constant(1)
        for height in sorted(_get_shapes(context)):
            fits = builder.icmp_signed("<=", _constant(height), args[0])
            result = builder.select(fits, _constant(height), result)
        return result

    return types.int64(types.int64), generate


@intrinsic
def fit_columns(typing: Any, rows: Any, left: Any) -> Any:
    """How many columns the next tile of `rows` rows takes when `left` of them are left."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        plan, widest = _constant(0), _constant(1)  # the plan has four bits for every `left`
        for height, widths in _get_shapes(context).items():
            firsts = _plan_widths(height, widths)
            packed = sum(width << (4 * i) for i, width in enumerate(firsts))
            same = builder.icmp_signed("==", args[0], _constant(height))
            plan = builder.select(same, _constant(packed), plan)
            widest = builder.select(same, _constant(widths[0]), widest)
        entry = builder.lshr(plan, _scale(builder, args[1], 4))
        few = builder.icmp_signed("<", args[1], _constant(LANES))
        return builder.select(few, builder.and_(entry, _constant(15)), widest)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def multiply_matrices(
    typing: Any, rows: Any, columns: Any, count: Any,
    a: Any, a_row: Any, a_step: Any, b: Any, b_column: Any, b_step: Any,
    row_bias: Any, bias_step: Any, lane_bias: Any, out: Any, out_row: Any, out_column: Any,
) -> Any:  # fmt: skip
    """[E9] out = D(a, b) + row_bias + lane_bias for scalars of a and `Lanes` of b.

    `a_step` and `b_step` lead from one k to the next; `bias_step` from the bias of one row to that
    of the next.  (D is never -0, so a bias of +0 changes nothing.)
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, columns, count, a, a_row, a_step, b, b_column, b_step = args[:9]
        row_bias, bias_step, lane_bias, out, out_row, out_column = args[9:]

        def emit(height: int, width: int) -> None:
            lefts = _step_many(builder, a, a_row, height)
            rights = _step_many(builder, b, b_column, width)
            forward_a, forward_b = _scale(builder, a_step, 4), _scale(builder, b_step, 4)

            def step(k: Any, totals: _Values) -> _Values:
                at = builder.mul(k, forward_b)
                vectors = [_read(builder, builder.add(x, at), _VECTOR) for x in rights]
                at = builder.mul(k, forward_a)
                scalars = [_read(builder, builder.add(x, at), _FLOAT) for x in lefts]
                return _multiply(builder, totals, scalars, vectors)

            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            totals = _repeat(builder, count, [zero] * (height * width), step)
            places = _step_many(builder, out, out_row, height)
            biases = _step_many(builder, row_bias, bias_step, height)
            lane_biases = _step_many(builder, lane_bias, _constant(LANES), width)
            for r in range(height):
                each = _spread(builder, _read(builder, biases[r], _FLOAT))
                for c, place in enumerate(_step_many(builder, places[r], out_column, width)):
                    total = builder.fadd(totals[r * width + c], each)
                    lane = _read(builder, lane_biases[c], _VECTOR)
                    _write(builder, place, builder.fadd(total, lane))

        _for_each_shape(context, builder, rows, columns, emit)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), generate


@intrinsic
def multiply_taps(
    typing: Any, rows: Any, columns: Any, taps: Any, count: Any,
    weight: Any, weight_row: Any, images: Any, pixels: Any,
    bias: Any, bias_step: Any, out: Any, out_row: Any,
) -> Any:  # fmt: skip
    """[E11, E12] D over the taps for rows of channels and columns of pixels, then + bias.

    `taps` points at `count` pairs of int64 (offset into the weight, offset into the images),
    `pixels` at a pair for every column (offset into the images, offset into the result).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, columns, taps, count, weight, weight_row, images, pixels = args[:8]
        bias, bias_step, out, out_row = args[8:]

        def emit(height: int, width: int) -> None:
            lefts = _step_many(builder, weight, weight_row, height)
            rights, targets = [], []
            for c in range(width):
                place = builder.add(pixels, _constant(16 * c))
                offset = _read(builder, place, _WORD)
                rights.append(builder.add(images, _scale(builder, offset, 4)))
                offset = _read(builder, builder.add(place, _constant(8)), _WORD)
                targets.append(builder.add(out, _scale(builder, offset, 4)))

            def step(k: Any, totals: _Values) -> _Values:
                tap = builder.add(taps, _scale(builder, k, 16))
                at = _scale(builder, _read(builder, tap, _WORD), 4)
                scalars = [_read(builder, builder.add(x, at), _FLOAT) for x in lefts]
                tap = builder.add(tap, _constant(8))
                at = _scale(builder, _read(builder, tap, _WORD), 4)
                vectors = [_read(builder, builder.add(x, at), _VECTOR) for x in rights]
                return _multiply(builder, totals, scalars, vectors)

            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            totals = _repeat(builder, count, [zero] * (height * width), step)
            biases = _step_many(builder, bias, bias_step, height)
            for r, row in enumerate(_step_many(builder, _constant(0), out_row, height)):
                each = _spread(builder, _read(builder, biases[r], _FLOAT))
                for c, target in enumerate(targets):
                    total = builder.fadd(totals[r * width + c], each)
                    _write(builder, builder.add(target, row), total)

        _for_each_shape(context, builder, rows, columns, emit)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), generate


@intrinsic
def multiply_pixels(
    typing: Any, rows: Any, columns: Any, pixels: Any, count: Any,
    gradient: Any, gradient_row: Any, images: Any, taps: Any, sums: Any, sums_row: Any,
) -> Any:  # fmt: skip
    """[E13] sums += gradient * images, lane by lane, for rows of channels and columns of taps.

    `taps` and `pixels` are as in `multiply_taps`: a tap for every column, of which the offset into
    the images counts, and `count` pixels, likewise.  The gradient's pixels follow each other.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, columns, pixels, count, gradient, gradient_row, images, taps, sums, sums_row = args

        def emit(height: int, width: int) -> None:
            lefts = _step_many(builder, gradient, gradient_row, height)
            rights = []
            for c in range(width):
                offset = _read(builder, builder.add(taps, _constant(16 * c + 8)), _WORD)
                rights.append(builder.add(images, _scale(builder, offset, 4)))
            places = [
                place
                for row in _step_many(builder, sums, sums_row, height)
                for place in _step_many(builder, row, _constant(LANES), width)
            ]

            def step(k: Any, totals: _Values) -> _Values:
                pixel = builder.add(pixels, _scale(builder, k, 16))
                at = _scale(builder, _read(builder, pixel, _WORD), 4)
                vectors = [_read(builder, builder.add(x, at), _VECTOR) for x in rights]
                at = _scale(builder, k, 4 * LANES)
                factors = [_read(builder, builder.add(x, at), _VECTOR) for x in lefts]
                products = [builder.fmul(f, x) for f in factors for x in vectors]
                return [builder.fadd(t, p) for t, p in zip(totals, products, strict=True)]

            starts = [_read(builder, place, _VECTOR) for place in places]
            for place, total in zip(places, _repeat(builder, count, starts, step), strict=True):
                _write(builder, place, total)

        _for_each_shape(context, builder, rows, columns, emit)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), generate


@intrinsic
def take_slot(typing: Any, arguments: Any, place: Any) -> Any:
    """A number that no other thread of this run has: counts up the argument at `place`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counter = builder.gep(args[0], [args[1]])
        return builder.atomic_rmw("add", counter, _constant(1), "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), generate
