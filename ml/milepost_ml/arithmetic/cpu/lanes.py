"""A vector of sixteen float32 numbers for kernels compiled with Numba.

Compilers may not reorder floating-point arithmetic, so a loop whose order is fixed is compiled to
vector instructions only where its lanes are spelled out.  `Lanes` spells them out: sixteen
independent numbers that the processor holds in one, two or four registers, whatever it has.  Every
operation rounds each lane by itself, in IEEE-754 binary32, to nearest even; products are rounded
before they are added.  So the same bits come out on SSE2, AVX2, AVX-512 and NEON.

Kernels address memory by number: `base` is an address in bytes, `offset` counts elements.  Nothing
checks them; the functions that call kernels do.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from milepost_ml.arithmetic.cpu.vectors import (
    WORD,
    Address,
    locate,
    make_binary,
    make_type,
    make_zeros,
    spread,
    sum_lanes,
)

LANES: Final = 16
"""How many partial sums a reduction keeps: part of the arithmetic, not a tuning choice."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)

lanes = make_type("Lanes", _VECTOR)
"""Numba's name for sixteen float32 numbers."""


@intrinsic
def load(typing: Any, base: Any, offset: Any) -> Any:
    """Sixteen consecutive numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(locate(builder, args[0], args[1], _VECTOR, 4), align=4)

    return lanes(Address, Address), generate


@intrinsic
def store(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write sixteen consecutive numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], locate(builder, args[0], args[1], _VECTOR, 4), align=4)
        return context.get_dummy_value()

    return types.void(Address, Address, lanes), generate


@intrinsic
def load_one(typing: Any, base: Any, offset: Any) -> Any:
    """One float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(locate(builder, args[0], args[1], _FLOAT, 4), align=4)

    return types.float32(Address, Address), generate


@intrinsic
def store_one(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write one float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], locate(builder, args[0], args[1], _FLOAT, 4), align=4)
        return context.get_dummy_value()

    return types.void(Address, Address, types.float32), generate


@intrinsic
def load_index(typing: Any, base: Any, offset: Any) -> Any:
    """One int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(locate(builder, args[0], args[1], WORD, 8), align=8)

    return types.int64(Address, Address), generate


@intrinsic
def store_index(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write one int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], locate(builder, args[0], args[1], WORD, 8), align=8)
        return context.get_dummy_value()

    return types.void(Address, Address, types.int64), generate


zeros = make_zeros(lanes, _VECTOR)
"""Sixteen times +0."""


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One float32 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return spread(builder, args[0], LANES)

    return lanes(types.float32), generate


add = make_binary(lanes, "fadd", "Lane by lane left + right.")
subtract = make_binary(lanes, "fsub", "Lane by lane left - right.")
multiply = make_binary(lanes, "fmul", "Lane by lane left * right.")
divide = make_binary(lanes, "fdiv", "Lane by lane left / right.")


@intrinsic
def add_product(typing: Any, total: Any, left: Any, right: Any) -> Any:
    """total + left * right, the product rounded first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], builder.fmul(args[1], args[2]))

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def add_scaled(typing: Any, total: Any, factor: Any, value: Any) -> Any:
    """total + factor * value for one float32 factor, the product rounded first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], builder.fmul(spread(builder, args[1], LANES), args[2]))

    return lanes(lanes, types.float32, lanes), generate


@intrinsic
def fold(typing: Any, value: Any) -> Any:
    """The sum of the lanes: l + (l+8), then l + (l+4), l + (l+2), l + (l+1)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return sum_lanes(builder, args[0], LANES)

    return types.float32(lanes), generate


@intrinsic
def take_chunk(typing: Any, arguments: Any) -> Any:
    """The next piece of work: the counter in front of a kernel's arguments, and one onwards."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], ir.Constant(WORD, 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), generate


@intrinsic
def unpack_float(typing: Any, bits: Any) -> Any:
    """The float32 in the low half of a kernel argument."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), _FLOAT)

    return types.float32(types.int64), generate


@intrinsic
def unpack_double(typing: Any, bits: Any) -> Any:
    """The float64 in a kernel argument."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate
