"""Layer and batch normalization [E23, E24]."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.products import add_up, compute_sum

Array = npt.NDArray[Any]

_ONE = np.float32(1)


def layer_norm(
    x: Array, count: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """[E23] y, m, r of rows of `count` numbers."""
    n = np.float32(count)
    rows = x.reshape(-1, count).T
    m = add_up(rows) / n
    d = rows - m
    v = add_up(d * d) / n
    r = _ONE / np.sqrt(v + np.float32(eps))
    y = (d * r).T
    if weight is not None:
        y = y * weight.reshape(-1)
    if bias is not None:
        y = y + bias.reshape(-1)
    return y.reshape(x.shape), m, r


def layer_norm_backward(
    gradient: Array, x: Array, mean: Array, rstd: Array, weight: Array | None
) -> tuple[Array, Array, Array]:
    """[E23] gradients of x, weight and bias; statistics are flat, one number a row."""
    count = x.size // mean.size
    n = np.float32(count)
    g, rows = gradient.reshape(-1, count), x.reshape(-1, count)
    h = ((rows.T - mean) * rstd).T
    q = g if weight is None else g * weight.reshape(-1)
    c1 = add_up(q.T) / n
    c2 = add_up((q * h).T) / n
    gx = ((q.T - c1) - (h.T * c2)) * rstd
    return gx.T.reshape(x.shape), add_up(g * h), add_up(g)


def _sum_channels(x: Array) -> Array:
    return compute_sum(x, [dim for dim in range(x.ndim) if dim != 1])


def _spread(value: Array, x: Array) -> Array:
    return value.reshape(1, -1, *(1 for _ in x.shape[2:]))


def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Array, Array, Array]:
    """[E24] y, m, r; running values are changed in place in training."""
    count = prod(x.shape) // x.shape[1]
    if training:
        m = _sum_channels(x) / np.float32(count)
        d = x - _spread(m, x)
        q = _sum_channels(d * d)
        v = q / np.float32(count)
        old, new = np.float32(1 - momentum), np.float32(momentum)
        if running_mean is not None:
            running_mean[...] = old * running_mean + new * m
        if running_var is not None:
            running_var[...] = old * running_var + new * (q / np.float32(count - 1))
    else:
        assert running_mean is not None
        assert running_var is not None
        m, v = running_mean, running_var
        d = x - _spread(m, x)
    r = _ONE / np.sqrt(v + np.float32(eps))
    y = d * _spread(r, x)
    if weight is not None:
        y = y * _spread(weight, x)
    if bias is not None:
        y = y + _spread(bias, x)
    return y, m, r


def batch_norm_backward(
    gradient: Array, x: Array, weight: Array | None, mean: Array, rstd: Array, training: bool
) -> tuple[Array, Array, Array]:
    """[E24] gradients of x, weight and bias."""
    count = np.float32(prod(x.shape) // x.shape[1])
    h = (x - _spread(mean, x)) * _spread(rstd, x)
    b = _sum_channels(gradient)
    a = _sum_channels(gradient * h)
    factor = _spread(rstd if weight is None else weight * rstd, x)
    if not training:
        return gradient * factor, a, b
    gx = ((gradient - _spread(b / count, x)) - (h * _spread(a / count, x))) * factor
    return gx, a, b
