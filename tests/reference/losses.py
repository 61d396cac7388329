"""Softmax, its logarithm, the loss of classes and attention [E21, E22, E27]."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.reference.elementwise import find_largest
from tests.reference.functions import exp, log
from tests.reference.products import add_up, matmul

Array = npt.NDArray[Any]


def softmax(x: Array, dim: int) -> Array:
    """[E21]"""
    rows = np.moveaxis(x, dim, 0)
    e = exp(rows - find_largest(rows))
    return np.moveaxis(e / add_up(e), 0, dim)


def softmax_backward(gradient: Array, result: Array, dim: int) -> Array:
    """[E21]"""
    g, y = np.moveaxis(gradient, dim, 0), np.moveaxis(result, dim, 0)
    t = add_up(g * y)
    return np.moveaxis(y * (g - t), 0, dim)


def log_softmax(x: Array, dim: int) -> Array:
    """[E21]"""
    rows = np.moveaxis(x, dim, 0)
    shifted = rows - find_largest(rows)
    return np.moveaxis(shifted - log(add_up(exp(shifted))), 0, dim)


def log_softmax_backward(gradient: Array, result: Array, dim: int) -> Array:
    """[E21]"""
    g, y = np.moveaxis(gradient, dim, 0), np.moveaxis(result, dim, 0)
    t = add_up(g)
    return np.moveaxis(g - exp(y) * t, 0, dim)


class Attention(NamedTuple):
    """What the gradient of attention needs of the way there."""

    result: Array
    q: Array
    k: Array
    v: Array
    weights: Array
    factor: Any


def attend(q: Array, k: Array, v: Array, causal: bool, scale: float | None = None) -> Attention:
    """[E27] without dropout."""
    factor = np.float32(math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale))
    q, k = q * factor, k * factor
    scores = matmul(q, np.swapaxes(k, -1, -2))
    if causal:
        seen = np.tril(np.ones(scores.shape[-2:], bool))
        scores = scores + np.where(seen, np.float32(0), np.float32(-np.inf))
    weights = softmax(scores, scores.ndim - 1)
    return Attention(matmul(weights, v), q, k, v, weights, factor)


def attend_backward(gradient: Array, past: Attention) -> tuple[Array, Array, Array]:
    """[E27, E31] gradients of q, k and v."""
    gv = matmul(np.swapaxes(past.weights, -1, -2), gradient)
    weights = matmul(gradient, np.swapaxes(past.v, -1, -2))
    scores = softmax_backward(weights, past.weights, weights.ndim - 1)
    gq = matmul(scores, past.k) * past.factor
    gk = matmul(np.swapaxes(scores, -1, -2), past.q) * past.factor
    return gq, gk, gv


def attention(q: Array, k: Array, v: Array, causal: bool, scale: float | None) -> Array:
    """[E27] the result alone."""
    return attend(q, k, v, causal, scale).result


def attention_backward(
    gradient: Array, q: Array, k: Array, v: Array, causal: bool, scale: float | None
) -> tuple[Array, Array, Array]:
    """[E27, E31] from the inputs."""
    return attend_backward(gradient, attend(q, k, v, causal, scale))


def nll_loss(
    x: Array, target: Array, weight: Array | None, reduction: int, ignore_index: int
) -> tuple[Array, Array]:
    """[E22] loss and total weight of x (N, C); reduction 0 none, 1 mean, 2 sum."""
    kept = target != ignore_index
    places = np.where(kept, target, 0)
    v = -x[np.arange(len(x)), places]
    weights = np.ones(len(x), np.float32) if weight is None else weight[places]
    if weight is not None:
        v = v * weights
    v = np.where(kept, v, np.float32(0))
    weights = np.where(kept, weights, np.float32(0))
    if reduction == 0:
        return v, np.zeros((), np.float32)
    total = np.float32(kept.sum()) if weight is None else add_up(weights)
    loss = add_up(v)
    return np.asarray(loss / total if reduction == 1 else loss), np.asarray(total)


def nll_loss_backward(
    gradient: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    reduction: int,
    ignore_index: int,
    total: Array,
) -> Array:
    """[E22]"""
    kept = target != ignore_index
    places = np.where(kept, target, 0)
    g = -(gradient / total) if reduction == 1 else -gradient
    value = np.broadcast_to(g, target.shape)
    if weight is not None:
        value = value * weight[places]
    result = np.zeros(x.shape, np.float32)
    rows = np.flatnonzero(kept)
    result[rows, places[rows]] = value[rows]
    return result
