"""The functions of section 5 in float64, before their rounding to float32 [E16-E20].

Kernels call these for single numbers; the compiler makes vectors of them.  There are no branches
and no calls into a mathematical library, whose last bits differ from one to the next.
"""

from __future__ import annotations

import math
from typing import Final

import numba

from milepost_ml.arithmetic.cpu.scalars import choose, from_bits, to_bits

_inline = numba.njit(error_model="numpy", forceinline=True)

_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 0.6931471803691238
_LN2_LOW: Final = 1.9082149292705877e-10
_INF: Final = math.inf
_NAN: Final = math.nan

_ROUNDER: Final = 6755399441055744.0
"""1.5 * 2^52.  Adding it to a smaller number rounds that number to an integer, ties to even, and
leaves the integer in the low bits."""

_MANTISSA: Final = 0x000FFFFFFFFFFFFF
_EXPONENT_ONE: Final = 0x3FF0000000000000


@_inline
def _clamp(x: float, limit: float) -> float:
    """x between -limit and limit; NaN stays NaN."""
    x = choose(x > limit, limit, x)
    return choose(x < -limit, -limit, x)


@_inline
def exp64(x: float) -> float:
    """[E16] the function E."""
    u = _clamp(x, 700.0)
    shifted = u * _LOG2_E + _ROUNDER
    k = shifted - _ROUNDER
    r = (u - k * _LN2_HIGH) - k * _LN2_LOW
    y = 0.00019790324225452572
    y = y * r + 0.0013944682238115351
    y = y * r + 0.008333497203352042
    y = y * r + 0.04166629464548649
    y = y * r + 0.1666666586796788
    y = y * r + 0.5000000067764616
    y = y * r + 1.0
    y = y * r + 1.0
    # Times 2^k: y lies between 0.7 and 1.5, so its exponent can be moved by k.  A NaN that came
    # from float32 numbers ends in zeros, also in `shifted`, and stays as it is.
    return from_bits(to_bits(y) + (to_bits(shifted) << 52))


@_inline
def log64(x: float) -> float:
    """[E17] of a float32."""
    bits = to_bits(x)
    m = from_bits((bits & _MANTISSA) | _EXPONENT_ONE)
    high = m >= 1.4142135623730951
    m = choose(high, m * 0.5, m)
    # The exponent's field below 2^52 in a float64 whose unit is 1: no conversion of integers.
    field = from_bits(((bits >> 52) & 0x7FF) | 0x4330000000000000) - 4503599627370496.0
    k = field - choose(high, 1022.0, 1023.0)
    f = (m - 1.0) / (m + 1.0)
    z = f * f
    y = 1 / 21
    y = y * z + 1 / 19
    y = y * z + 1 / 17
    y = y * z + 1 / 15
    y = y * z + 1 / 13
    y = y * z + 1 / 11
    y = y * z + 1 / 9
    y = y * z + 1 / 7
    y = y * z + 1 / 5
    y = y * z + 1 / 3
    y = y * z + 1.0
    y = (2.0 * f) * y
    result = k * _LN2_HIGH + (y + k * _LN2_LOW)
    result = choose(x == _INF, _INF, result)
    result = choose(x == 0.0, -_INF, result)
    return choose(x >= 0.0, result, _NAN)


@_inline
def sigmoid64(x: float) -> float:
    """[E18]"""
    return 1.0 / (1.0 + exp64(-x))


@_inline
def tanh64(x: float) -> float:
    """[E18]"""
    a = abs(x)
    e = exp64(-2.0 * a)
    large = math.copysign((1.0 - e) / (1.0 + e), x)
    small = x - ((x * x) * x) * 0.3333333333333333
    return choose(a < 0.000244140625, small, large)


@_inline
def erf64(x: float) -> float:
    """[E19]"""
    u = _clamp(x, 5.75)
    y = u * u
    p = 4.05763382963803e-11
    p = p * y + 2.9676061782041165e-08
    p = p * y + 1.920371000741992e-06
    p = p * y + 3.602426891617857e-05
    p = p * y + 0.0006827423663746767
    p = p * y + 0.005987445280896016
    p = p * y + 0.06262405319006124
    p = p * y + 0.21271783156707386
    p = p * y + 1.1283791670997083
    q = 1.6660203151037444e-09
    q = q * y + 2.9998757238855493e-07
    q = q * y + 8.742607123028455e-06
    q = q * y + 0.00016396319382875398
    q = q * y + 0.002148992211647121
    q = q * y + 0.020080474658579723
    q = q * y + 0.12944898619532585
    q = q * y + 0.5218496035677019
    q = q * y + 1.0
    return _clamp((u * p) / q, 1.0)
