"""What kernels share: the fold of sixteen partial sums, selection, and powers of two.

A sum keeps its partial sums as the last dimension of a tile, one column each.  A place past the end
of what is summed counts as +0: partial sums start at +0 and so are never -0, and adding +0 to
anything but -0 changes no bit.
"""

from __future__ import annotations

import triton.language as tl

from milepost_ml.arithmetic.gpu.launch import jit


@jit
def halve(p: tl.tensor, rows: tl.constexpr, half: tl.constexpr) -> tl.tensor:
    """Columns 0 to half - 1 of a (rows, 2 * half) tile, and the others."""
    return tl.split(tl.permute(tl.reshape(p, (rows, 2, half)), (0, 2, 1)))


@jit
def fold(p: tl.tensor, rows: tl.constexpr) -> tl.tensor:
    """[E6] the sums (rows,) of sixteen partial sums (rows, 16)."""
    low, high = halve(p, rows, 8)
    low, high = halve(low + high, rows, 4)
    low, high = halve(low + high, rows, 2)
    low, high = tl.split(low + high)
    return low + high


@jit
def maximum(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """[E15] NaN if either is, else a if a > b, else b."""
    return tl.where((a > b) | (a != a), a, b)


@jit
def minimum(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """[E15] NaN if either is, else a if a < b, else b."""
    return tl.where((a < b) | (a != a), a, b)


@jit
def fold_maximum(p: tl.tensor, rows: tl.constexpr) -> tl.tensor:
    """[E15] the largest (rows,) of (rows, 16), a zero as +0; the order cannot change a bit."""
    low, high = halve(p, rows, 8)
    low, high = halve(maximum(low, high), rows, 4)
    low, high = halve(maximum(low, high), rows, 2)
    low, high = tl.split(maximum(low, high))
    return maximum(low, high) + 0.0
