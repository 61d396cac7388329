"""What vectors of any length and kind have in common in kernels compiled with Numba.

`lanes` are sixteen float32, `octets` eight float64; here is how LLVM is told of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

Address = types.int64

INT = ir.IntType(32)
WORD = ir.IntType(64)


def make_type(name: str, vector: Any) -> Any:
    """Numba's type for values of a type of LLVM."""
    # A class for each: Numba finds the model of a value by the class of its type.
    kind = type(f"{name}Type", (types.Type,), {})

    @register_model(kind)
    class _Model(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, vector)

    return kind(name=name)


def locate(builder: Any, base: Any, offset: Any, item: Any, size_bytes: int) -> Any:
    """The place of an element: an address in bytes, and how many elements further on."""
    place = builder.add(base, builder.mul(offset, ir.Constant(WORD, size_bytes)))
    return builder.inttoptr(place, item.as_pointer())


def declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """A function that LLVM knows by name."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def spread(builder: Any, value: Any, count: int) -> Any:
    """One number in all of `count` lanes."""
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(INT, count), [0] * count))


def mask_first(builder: Any, number: Any, count: int) -> Any:
    """True in the first `number` (an int64) of `count` lanes."""
    places = ir.Constant(ir.VectorType(INT, count), list(range(count)))
    return builder.icmp_signed("<", places, spread(builder, builder.trunc(number, INT), count))


def load_first(builder: Any, place: Any, mask: Any, size_bytes: int, suffix: str) -> Any:
    """What lies at a place where the mask says so, and +0, not read, elsewhere.

    `size_bytes` is that of an element, `suffix` what LLVM calls the vector.
    """
    vector = place.type.pointee
    operands = [place.type, INT, mask.type, vector]
    load = declare(builder, f"llvm.masked.load.{suffix}.p0", vector, operands)
    zeros = ir.Constant(vector, [0.0] * vector.count)
    return builder.call(load, [place, ir.Constant(INT, size_bytes), mask, zeros])


def store_first(
    builder: Any, value: Any, place: Any, mask: Any, size_bytes: int, suffix: str
) -> None:
    """Write a vector where the mask says so; otherwise like `load_first`."""
    operands = [value.type, place.type, INT, mask.type]
    store = declare(builder, f"llvm.masked.store.{suffix}.p0", ir.VoidType(), operands)
    builder.call(store, [value, place, ir.Constant(INT, size_bytes), mask])


def sum_lanes(builder: Any, vector: Any, count: int) -> Any:
    """Halves are added until one number is left: l + (l + count/2), then of these likewise."""
    half = count // 2
    while half:
        kind = ir.VectorType(INT, half)
        low = ir.Constant(kind, list(range(half)))
        high = ir.Constant(kind, list(range(half, 2 * half)))
        vector = builder.fadd(
            builder.shuffle_vector(vector, vector, low),
            builder.shuffle_vector(vector, vector, high),
        )
        half //= 2
    return builder.extract_element(vector, ir.Constant(INT, 0))


def make_zeros(kind: Any, vector: Any) -> Any:
    """The operation without operands that gives +0 in all lanes."""

    def zeros(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return ir.Constant(vector, [0.0] * vector.count)

        return kind(), generate

    return intrinsic(zeros)


def make_binary(kind: Any, name: str, doc: str) -> Any:
    """The operation of two vectors that LLVM's builder calls `name`."""

    def operation(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return kind(kind, kind), generate

    operation.__doc__ = doc
    return intrinsic(operation)
