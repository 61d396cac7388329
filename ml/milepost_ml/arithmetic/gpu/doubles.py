"""Exponential, logarithm, tanh and erf of float64 numbers before their last rounding: E16 to E19.

Written with nothing but additions, products, divisions and the bits of numbers, because the
functions that come with a GPU are not specified to the last bit.
"""

from __future__ import annotations

from typing import Final

import triton.language as tl

from milepost_ml.arithmetic.gpu.launch import jit

_EXP: Final = tl.constexpr(
    (
        1.0,
        1.0,
        0.5000000067764616,
        0.1666666586796788,
        0.04166629464548649,
        0.008333497203352042,
        0.0013944682238115351,
        0.00019790324225452572,
    )
)
_LOG: Final = tl.constexpr(tuple(1.0 / (2 * i + 1) for i in range(11)))
_ERF_P: Final = tl.constexpr(
    (
        1.1283791670997083,
        0.21271783156707386,
        0.06262405319006124,
        0.005987445280896016,
        0.0006827423663746767,
        3.602426891617857e-05,
        1.920371000741992e-06,
        2.9676061782041165e-08,
        4.05763382963803e-11,
    )
)
_ERF_Q: Final = tl.constexpr(
    (
        1.0,
        0.5218496035677019,
        0.12944898619532585,
        0.020080474658579723,
        0.002148992211647121,
        0.00016396319382875398,
        8.742607123028455e-06,
        2.9998757238855493e-07,
        1.6660203151037444e-09,
    )
)
_LOG2_E: Final = tl.constexpr(1.4426950408889634)
_LN2_HIGH: Final = tl.constexpr(0.6931471803691238)
_LN2_LOW: Final = tl.constexpr(1.9082149292705877e-10)
_SQRT_2: Final = tl.constexpr(1.4142135623730951)
_ROUNDER: Final = tl.constexpr(6755399441055744.0)
"""1.5 * 2^52: adding and subtracting it rounds to an integer, ties to even."""


@jit
def evaluate(x: tl.tensor, coefficients: tl.constexpr, degree: tl.constexpr) -> tl.tensor:
    """Horner's scheme P(coefficients; x), two roundings a step."""
    y = coefficients[degree] * x + coefficients[degree - 1]
    for i in tl.static_range(1, degree):
        y = y * x + coefficients[degree - 1 - i]
    return y


@jit
def clamp(x: tl.tensor, limit: tl.constexpr) -> tl.tensor:
    """To [-limit, limit]; a NaN stays NaN."""
    above = tl.where(x < -limit, -limit, x)
    return tl.where(above > limit, limit, above)


@jit
def exp64(x: tl.tensor) -> tl.tensor:
    """[E16] E(x)."""
    u = tl.where(x == x, clamp(x, 700.0), 0.0)  # a NaN has no integer k
    k = (u * _LOG2_E + _ROUNDER) - _ROUNDER
    r = (u - k * _LN2_HIGH) - k * _LN2_LOW
    power = ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.where(x == x, evaluate(r, _EXP, 7) * power, x)


@jit
def exp32(x: tl.tensor) -> tl.tensor:
    """[E16] of float32."""
    return exp64(x.to(tl.float64)).to(tl.float32)


@jit
def log64(x: tl.tensor) -> tl.tensor:
    """[E17] without the last rounding."""
    finite = (x > 0.0) & (x < float("inf"))
    bits = tl.where(finite, x, 1.0).to(tl.int64, bitcast=True)
    exponent = (bits >> 52) - 1023
    mantissa = ((bits & 0xFFFFFFFFFFFFF) | (1023 << 52)).to(tl.float64, bitcast=True)
    above = mantissa >= _SQRT_2
    m = tl.where(above, mantissa * 0.5, mantissa)
    k = (exponent + above.to(tl.int64)).to(tl.float64)
    f = (m - 1.0) / (m + 1.0)
    y = (2.0 * f) * evaluate(f * f, _LOG, 10)
    result = k * _LN2_HIGH + (y + k * _LN2_LOW)
    special = tl.where(x == 0.0, float("-inf"), tl.where(x > 0.0, x, float("nan")))
    return tl.where(finite, result, special)


@jit
def tanh64(x: tl.tensor) -> tl.tensor:
    """[E18] without the last rounding."""
    a = tl.abs(x)
    e = exp64(-2.0 * a)
    large = (1.0 - e) / (1.0 + e)
    small = x - ((x * x) * x) * 0.3333333333333333
    return tl.where(a < 0.000244140625, small, tl.where(x < 0.0, large * -1.0, large))


@jit
def erf64(x: tl.tensor) -> tl.tensor:
    """[E19] without the last rounding."""
    u = clamp(x, 5.75)
    y = u * u
    return clamp((u * evaluate(y, _ERF_P, 8)) / evaluate(y, _ERF_Q, 8), 1.0)
