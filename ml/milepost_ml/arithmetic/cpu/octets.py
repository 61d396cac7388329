"""A vector of eight float64 numbers for kernels compiled with Numba.

As with the sixteen float32 of `lanes`, spelled-out lanes are what makes a loop of fixed order fast.
Every operation rounds each lane by itself, in IEEE-754 binary64, to nearest even.  `add_product`
rounds once; processors without that instruction do it in software, slower, with the same bits.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from milepost_ml.arithmetic.cpu.lanes import Address

OCTET: Final = 8

_INT = ir.IntType(32)
_WORD = ir.IntType(64)
_BYTE = ir.IntType(8)
_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, OCTET)
_FLOATS = ir.VectorType(ir.FloatType(), OCTET)
_MASK = ir.VectorType(ir.IntType(1), OCTET)


class OctetType(types.Type):
    """Numba's name for eight float64 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Octet")


octet = OctetType()


@register_model(OctetType)
class _OctetModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _locate(builder: Any, base: Any, offset: Any, item: Any, size_bytes: int) -> Any:
    place = builder.add(base, builder.mul(offset, ir.Constant(_WORD, size_bytes)))
    return builder.inttoptr(place, item.as_pointer())


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _make_load(vector: Any, name: str, size_bytes: int, doc: str) -> Any:
    def load(typing: Any, base: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _locate(builder, args[0], args[1], vector, size_bytes)
            value = builder.load(place, align=size_bytes)
            return value if vector is _VECTOR else builder.fpext(value, _VECTOR)

        return octet(Address, Address), generate

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


def _make_load_part(vector: Any, name: str, suffix: str, size_bytes: int, doc: str) -> Any:
    def load(typing: Any, base: Any, offset: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            counts = ir.VectorType(_INT, OCTET)
            empty = ir.Constant(counts, ir.Undefined)
            count = builder.trunc(args[2], _INT)
            first = builder.insert_element(empty, count, ir.Constant(_INT, 0))
            spread = builder.shuffle_vector(first, empty, ir.Constant(counts, [0] * OCTET))
            mask = builder.icmp_signed("<", ir.Constant(counts, list(range(OCTET))), spread)
            place = _locate(builder, args[0], args[1], vector, size_bytes)
            masked = _declare(
                builder,
                f"llvm.masked.load.v8{suffix}.p0",
                vector,
                [vector.as_pointer(), _INT, _MASK, vector],
            )
            zeros = ir.Constant(vector, [0.0] * OCTET)
            value = builder.call(masked, [place, ir.Constant(_INT, size_bytes), mask, zeros])
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
        ask = _declare(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, _INT, _INT, _INT])
        # Read, to be kept in all caches, data.
        how = [ir.Constant(_INT, number) for number in (0, 3, 1)]
        builder.call(ask, [builder.inttoptr(args[0], pointer), *how])
        return context.get_dummy_value()

    return types.void(Address), generate


@intrinsic
def zeros(typing: Any) -> Any:
    """Eight times +0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * OCTET)

    return octet(), generate


@intrinsic
def add(typing: Any, left: Any, right: Any) -> Any:
    """Lane by lane left + right."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return octet(octet, octet), generate


@intrinsic
def subtract(typing: Any, left: Any, right: Any) -> Any:
    """Lane by lane left - right."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(*args)

    return octet(octet, octet), generate


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
        fused = _declare(builder, "llvm.fma.v8f64", _VECTOR, [_VECTOR] * 3)
        return builder.call(fused, [args[1], args[2], args[0]])

    return octet(octet, octet, octet), generate


@intrinsic
def magnitude(typing: Any, value: Any) -> Any:
    """Lane by lane |value|."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(_declare(builder, "llvm.fabs.v8f64", _VECTOR, [_VECTOR]), args)

    return octet(octet), generate


@intrinsic
def add_fold(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Add the lanes' sum to the float64 in memory: l + (l+4), then l + (l+2), then l + (l+1)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, half = args[2], OCTET // 2
        while half:
            kind = ir.VectorType(_INT, half)
            low = ir.Constant(kind, list(range(half)))
            high = ir.Constant(kind, list(range(half, 2 * half)))
            vector = builder.fadd(
                builder.shuffle_vector(vector, vector, low),
                builder.shuffle_vector(vector, vector, high),
            )
            half //= 2
        place = _locate(builder, args[0], args[1], _DOUBLE, 8)
        total = builder.extract_element(vector, ir.Constant(_INT, 0))
        builder.store(builder.fadd(builder.load(place), total), place)
        return context.get_dummy_value()

    return types.void(Address, Address, octet), generate
