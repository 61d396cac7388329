"""Functions of one number, computed in float64 [E16-E20]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LOG2_HIGH: Final = 0.6931471803691238
_LOG2_LOW: Final = 1.9082149292705877e-10
_LOG: Final = [1 / i for i in range(1, 22, 2)]
"""[E17]"""
_EXP: Final = [
    1.0,
    1.0,
    0.5000000067764616,
    0.1666666586796788,
    0.04166629464548649,
    0.008333497203352042,
    0.0013944682238115351,
    0.00019790324225452572,
]
_ERF_P: Final = [
    1.1283791670997083,
    0.21271783156707386,
    0.06262405319006124,
    0.005987445280896016,
    0.0006827423663746767,
    3.602426891617857e-05,
    1.920371000741992e-06,
    2.9676061782041165e-08,
    4.05763382963803e-11,
]
_ERF_Q: Final = [
    1.0,
    0.5218496035677019,
    0.12944898619532585,
    0.020080474658579723,
    0.002148992211647121,
    0.00016396319382875398,
    8.742607123028455e-06,
    2.9998757238855493e-07,
    1.6660203151037444e-09,
]
"""Section 9."""


def evaluate(coefficients: Sequence[float], x: Array) -> Array:
    """P of section 5: Horner's scheme, two roundings a step."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def widen(x: Array) -> Array:
    """[E3] exactly to float64."""
    return x.astype(np.float64)


def narrow(x: Array) -> Array:
    """[E3] one rounding to float32."""
    return x.astype(np.float32)


def _scale(exponent: Array) -> Array:
    """2^k for whole numbers k within the range of normal float64 numbers."""
    whole = np.where(np.isnan(exponent), 0, exponent).astype(np.int64)
    result: Array = ((whole + 1023) << 52).view(np.float64)
    return result


def _clamp(x: Array, limit: float) -> Array:
    """Between -limit and limit; NaN stays."""
    return np.where(x < -limit, -limit, np.where(x > limit, limit, x))


def exp64(x: Array) -> Array:
    """[E16] E, in float64."""
    u = _clamp(x, 700.0)
    k = np.rint(u * 1.4426950408889634)
    r = (u - k * _LOG2_HIGH) - k * _LOG2_LOW
    return evaluate(_EXP, r) * _scale(k)


def exp(x: Array) -> Array:
    """[E16]"""
    return narrow(exp64(widen(x)))


def log(x: Array) -> Array:
    """[E17]"""
    wide = widen(x)
    fraction, exponent = np.frexp(np.where((wide > 0) & (wide < np.inf), wide, 1.0))
    low = fraction < 0.7071067811865476
    m = np.where(low, 2 * fraction, fraction)
    k = np.where(low, exponent - 1, exponent).astype(np.float64)
    f = (m - 1) / (m + 1)
    y = 2 * f * evaluate(_LOG, f * f)
    y = k * _LOG2_HIGH + (y + k * _LOG2_LOW)
    y = np.where(wide == 0, -np.inf, np.where(wide == np.inf, np.inf, y))
    return narrow(np.where(np.isnan(wide) | (wide < 0), np.nan, y))


def sigmoid(x: Array) -> Array:
    """[E18]"""
    return narrow(1 / (1 + exp64(-widen(x))))


def sigmoid_backward(gradient: Array, result: Array) -> Array:
    """[E18] in float32."""
    answer: Array = gradient * ((np.float32(1) - result) * result)
    return answer


def tanh64(x: Array) -> Array:
    """[E18] before its rounding to float32."""
    a = np.abs(x)
    e = exp64(-2 * a)
    large = np.copysign((1 - e) / (1 + e), x)
    return np.where(a < 2.0**-12, x - ((x * x) * x) * 0.3333333333333333, large)


def tanh(x: Array) -> Array:
    """[E18]"""
    return narrow(tanh64(widen(x)))


def tanh_backward(gradient: Array, result: Array) -> Array:
    """[E18] in float32."""
    answer: Array = gradient * (np.float32(1) - result * result)
    return answer


def silu(x: Array) -> Array:
    """[E18]"""
    wide = widen(x)
    return narrow(wide / (1 + exp64(-wide)))


def silu_backward(gradient: Array, x: Array) -> Array:
    """[E18]"""
    wide = widen(x)
    s = 1 / (1 + exp64(-wide))
    return narrow(widen(gradient) * (s * (1 + wide * (1 - s))))


def erf64(x: Array) -> Array:
    """[E19] before its rounding to float32."""
    u = _clamp(x, 5.75)
    y = u * u
    q = (u * evaluate(_ERF_P, y)) / evaluate(_ERF_Q, y)
    return _clamp(q, 1.0)


def erf(x: Array) -> Array:
    """[E19]"""
    return narrow(erf64(widen(x)))


def gelu(x: Array, approximate: str) -> Array:
    """[E20]"""
    wide = widen(x)
    if approximate == "none":
        return narrow((0.5 * wide) * (1 + erf64(wide * 0.7071067811865476)))
    u = 0.7978845608028654 * (wide + 0.044715 * ((wide * wide) * wide))
    return narrow((0.5 * wide) * (1 + tanh64(u)))


def gelu_backward(gradient: Array, x: Array, approximate: str) -> Array:
    """[E20]"""
    g, wide = widen(gradient), widen(x)
    square = wide * wide
    if approximate == "none":
        density = 0.3989422804014327 * exp64(-0.5 * square)
        return narrow(g * (0.5 * (1 + erf64(wide * 0.7071067811865476)) + wide * density))
    t = tanh64(0.7978845608028654 * (wide + 0.044715 * (square * wide)))
    slope = 0.7978845608028654 * (1 + 0.134145 * square)
    return narrow(g * (0.5 * (1 + t) + (0.5 * wide) * ((1 - t * t) * slope)))
