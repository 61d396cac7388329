"""A vector of eight float64 numbers for kernels compiled with Numba.

As with the sixteen float32 of `lanes`, spelled-out lanes are what makes a loop of fixed order fast.
Every operation rounds each lane by itself, in IEEE-754 binary64, to nearest even.  `add_product`
rounds once; processors without that instruction do it in software, slower, with the same bits.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from milepost_ml.arithmetic.cpu.vectors import (
    INT,
    Address,
    declare,
    load_first,
    locate,
    make_binary,
    make_type,
    make_zeros,
    mask_first,
    sum_lanes,
)

OCTET: Final = 8

_BYTE = ir.IntType(8)
_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, OCTET)
_FLOATS = ir.VectorType(ir.FloatType(), OCTET)


octet = make_type("Octet", _VECTOR)
"""Numba's name for eight float64 numbers."""


def _make_load(vector: Any, name: str, size_bytes: int, doc: str) -> Any:
    def load(typing: Any, base: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = locate(builder, args[0], args[1], vector, size_bytes)
            value = builder.load(place, align=size_bytes)
            return value if vector is _VECTOR else builder.fpext(value, _VECTOR)

        return octet(Address, Address), generate

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


def _make_load_part(vector: Any, name: str, suffix: str, size_bytes: int, doc: str) -> Any:
    def load(typing: Any, base: Any, offset: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = locate(builder, args[0], args[1], vector, size_bytes)
            mask = mask_first(builder, args[2], OCTET)
            value = load_first(builder, place, mask, size_bytes, f"v8{suffix}")
            return value if vector is _VECTOR else builder.fpext(value, _VECTOR)

        return octet(Address, Address, types.int64), generate

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


load_floats = _make_load(_FLOATS, "load_floats", 4, "Eight consecutive float32, widened.")
load_doubles = _make_load(_VECTOR, "load_doubles", 8, "Eight consecutive float64.")
load_some_floats = _make_load_part(
    _FLOATS, "load_some_floats", "f32", 4, "The first `count` of eight; the rest is +0, not read."
)
load_some_doubles = _make_load_part(
    _VECTOR, "load_some_doubles", "f64", 8, "The first `count` of eight; the rest is +0, not read."
)


@intrinsic
def prefetch(typing: Any, place: Any) -> Any:
    """Ask for the cache line at an address, which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _BYTE.as_pointer()
        ask = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, INT, INT, INT])
        # Read, to be kept in all caches, data.
        how = [ir.Constant(INT, number) for number in (0, 3, 1)]
        builder.call(ask, [builder.inttoptr(args[0], pointer), *how])
        return context.get_dummy_value()

    return types.void(Address), generate


zeros = make_zeros(octet, _VECTOR)
"""Eight times +0."""
add = make_binary(octet, "fadd", "Lane by lane left + right.")
subtract = make_binary(octet, "fsub", "Lane by lane left - right.")


@intrinsic(prefer_literal=True)
def shift(typing: Any, value: Any, amount: Any) -> Any:
    """Lane by lane value + 2^amount * 1.5 for a constant amount."""
    number = 1.5 * 2.0**amount.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], ir.Constant(_VECTOR, [number] * OCTET))

    return octet(octet, amount), generate


@intrinsic
def add_product(typing: Any, total: Any, left: Any, right: Any) -> Any:
    """total + left * right, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        fused = declare(builder, "llvm.fma.v8f64", _VECTOR, [_VECTOR] * 3)
        return builder.call(fused, [args[1], args[2], args[0]])

    return octet(octet, octet, octet), generate


@intrinsic
def magnitude(typing: Any, value: Any) -> Any:
    """Lane by lane |value|."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(declare(builder, "llvm.fabs.v8f64", _VECTOR, [_VECTOR]), args)

    return octet(octet), generate


@intrinsic
def add_fold(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Add the lanes' sum to the float64 in memory: l + (l+4), then l + (l+2), then l + (l+1)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = locate(builder, args[0], args[1], _DOUBLE, 8)
        total = sum_lanes(builder, args[2], OCTET)
        builder.store(builder.fadd(builder.load(place), total), place)
        return context.get_dummy_value()

    return types.void(Address, Address, octet), generate
