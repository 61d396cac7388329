"""Numbers one by one, for loops over elements that the compiler turns into vector instructions.

A loop over elements that do not meet each other may be vectorised by the compiler as it likes:
every element is still its own sequence of IEEE operations.  For that, memory must be addressed by
pointers (`floats`), and every choice be a `choose`, which has no branch.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from milepost_ml.arithmetic.cpu.lanes import take_chunk
from milepost_ml.arithmetic.cpu.vectors import Address

_WORD = ir.IntType(64)
_DOUBLE = ir.DoubleType()


@intrinsic
def floats(typing: Any, base: Any) -> Any:
    """The float32 numbers at an address, to be indexed."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(Address), generate


@intrinsic(prefer_literal=True)
def stack_bytes(typing: Any, size: Any) -> Any:
    """The address of memory of the given constant size that lasts until the kernel returns."""
    size_bytes = size.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.IntType(8), size_bytes)
        room.align = 64
        return builder.ptrtoint(room, _WORD)

    return Address(size), generate


@intrinsic
def choose(typing: Any, condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`; both are computed."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return yes(types.boolean, yes, yes), generate


@intrinsic
def to_bits(typing: Any, value: Any) -> Any:
    """The bits of a float64 as an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _WORD)

    return types.int64(types.float64), generate


@intrinsic
def from_bits(typing: Any, bits: Any) -> Any:
    """The float64 of an int64's bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _DOUBLE)

    return types.float64(types.int64), generate


@njit(error_model="numpy", forceinline=True)
def take_range(a: Any, count: int, size: int) -> tuple[int, int]:
    """The next `size` of `count` elements as (start, stop); start is not below stop at the end."""
    start = take_chunk(a) * size
    return start, min(start + size, count)


def count_pieces(count: int, size: int) -> int:
    """Pieces of work that `take_range` makes."""
    return -(-count // size)
