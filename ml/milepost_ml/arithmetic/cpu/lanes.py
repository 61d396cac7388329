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
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANES: Final = 16
"""How many partial sums a reduction keeps: part of the arithmetic, not a tuning choice."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_WORD = ir.IntType(64)

Address = types.int64


class LanesType(types.Type):
    """Numba's name for sixteen float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _locate(builder: Any, base: Any, offset: Any, item: Any, size_bytes: int) -> Any:
    place = builder.add(base, builder.mul(offset, ir.Constant(_WORD, size_bytes)))
    return builder.inttoptr(place, item.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, empty, zeros)


@intrinsic
def load(typing: Any, base: Any, offset: Any) -> Any:
    """Sixteen consecutive numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_locate(builder, args[0], args[1], _VECTOR, 4), align=4)

    return lanes(Address, Address), generate


@intrinsic
def store(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write sixteen consecutive numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _locate(builder, args[0], args[1], _VECTOR, 4), align=4)
        return context.get_dummy_value()

    return types.void(Address, Address, lanes), generate


@intrinsic
def load_one(typing: Any, base: Any, offset: Any) -> Any:
    """One float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_locate(builder, args[0], args[1], _FLOAT, 4), align=4)

    return types.float32(Address, Address), generate


@intrinsic
def store_one(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write one float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _locate(builder, args[0], args[1], _FLOAT, 4), align=4)
        return context.get_dummy_value()

    return types.void(Address, Address, types.float32), generate


@intrinsic
def load_index(typing: Any, base: Any, offset: Any) -> Any:
    """One int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_locate(builder, args[0], args[1], _WORD, 8), align=8)

    return types.int64(Address, Address), generate


@intrinsic
def store_index(typing: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write one int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _locate(builder, args[0], args[1], _WORD, 8), align=8)
        return context.get_dummy_value()

    return types.void(Address, Address, types.int64), generate


@intrinsic
def zeros(typing: Any) -> Any:
    """Sixteen times +0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return lanes(), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One float32 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return lanes(types.float32), generate


def _make_binary(name: str, doc: str) -> Any:
    def operation(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return lanes(lanes, lanes), generate

    operation.__doc__ = doc
    return intrinsic(operation)


add = _make_binary("fadd", "Lane by lane left + right.")
subtract = _make_binary("fsub", "Lane by lane left - right.")
multiply = _make_binary("fmul", "Lane by lane left * right.")
divide = _make_binary("fdiv", "Lane by lane left / right.")


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
        return builder.fadd(args[0], builder.fmul(_splat(builder, args[1]), args[2]))

    return lanes(lanes, types.float32, lanes), generate


@intrinsic
def fold(typing: Any, value: Any) -> Any:
    """The sum of the lanes: l + (l+8), then l + (l+4), l + (l+2), l + (l+1)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (vector,) = args
        half = LANES // 2
        while half:
            kind = ir.VectorType(ir.IntType(32), half)
            low = ir.Constant(kind, list(range(half)))
            high = ir.Constant(kind, list(range(half, 2 * half)))
            vector = builder.fadd(
                builder.shuffle_vector(vector, vector, low),
                builder.shuffle_vector(vector, vector, high),
            )
            half //= 2
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(lanes), generate


@intrinsic
def take_chunk(typing: Any, arguments: Any) -> Any:
    """The next piece of work: the counter in front of a kernel's arguments, and one onwards."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], ir.Constant(_WORD, 1), "monotonic")

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
