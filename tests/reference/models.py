"""Four models with hand-written gradients, for the vectors of training [E31].

A model is a function of its tensors (parameters and buffers by name) and of a batch; it gives the
loss and the gradients of all parameters, and changes buffers in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.elementwise import relu, threshold_backward
from tests.reference.functions import gelu, gelu_backward
from tests.reference.layers import (
    BatchNorm,
    convolve,
    convolve_backward,
    convolve_input,
    cross_entropy,
    linear,
    linear_backward,
)
from tests.reference.losses import attend, attend_backward
from tests.reference.normalization import layer_norm, layer_norm_backward
from tests.reference.pooling import index_add, max_pool2d, max_pool2d_backward
from tests.reference.products import compute_mean, compute_sum

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Outcome = tuple[Array, Arrays]

HALVING = {
    "kernel": (2, 2),
    "stride": (2, 2),
    "padding": (0, 0),
    "dilation": (1, 1),
    "ceil_mode": False,
}
HEADS = 4
EPS = 1e-5


def _run_head(x: Array, target: Array, tensors: Arrays) -> tuple[Array, Arrays, Array]:
    """fc1, relu, fc2, relu, fc3 and cross entropy; also the gradient of x."""
    gradients: Arrays = {}
    first = relu(linear(x, tensors, "fc1"))
    second = relu(linear(first, tensors, "fc2"))
    loss, g = cross_entropy(linear(second, tensors, "fc3"), target)
    g = threshold_backward(linear_backward(g, second, tensors, "fc3", gradients), second, 0)
    g = threshold_backward(linear_backward(g, first, tensors, "fc2", gradients), first, 0)
    return loss, gradients, linear_backward(g, x, tensors, "fc1", gradients)


def run_mlp(tensors: Arrays, batch: Arrays) -> Outcome:
    """784-256-128-10 with relu."""
    loss, gradients, _ = _run_head(batch["x"], batch["target"], tensors)
    return loss, gradients


def run_lenet(tensors: Arrays, batch: Arrays) -> Outcome:
    """LeNet-5 with relu and max-pooling."""
    x = batch["x"]
    first = relu(convolve(x, tensors, "conv1", 1, 2))
    pooled, places = max_pool2d(first, HALVING)
    second = relu(convolve(pooled, tensors, "conv2", 1, 0))
    features, indices = max_pool2d(second, HALVING)
    loss, gradients, g = _run_head(features.reshape(len(x), -1), batch["target"], tensors)
    g = max_pool2d_backward(g.reshape(features.shape), indices, second.shape)
    g = threshold_backward(g, second, 0)
    convolve_backward(g, pooled, tensors, "conv2", 1, 0, gradients)
    g = convolve_input(g, pooled, tensors, "conv2", 1, 0)
    g = threshold_backward(max_pool2d_backward(g, places, first.shape), first, 0)
    convolve_backward(g, x, tensors, "conv1", 1, 2, gradients)
    return loss, gradients


class _Block:
    """Two convolutions, normalized, and a way around them; `stride` 2 has a 1x1 shortcut."""

    def __init__(self, x: Array, tensors: Arrays, name: str, stride: int) -> None:
        self._x, self._tensors, self._name, self._stride = x, tensors, name, stride
        self._norm1 = BatchNorm(
            convolve(x, tensors, f"{name}.conv1", stride, 1), tensors, f"{name}.norm1"
        )
        self._inner = relu(self._norm1.y)
        self._norm2 = BatchNorm(
            convolve(self._inner, tensors, f"{name}.conv2", 1, 1), tensors, f"{name}.norm2"
        )
        around = x
        if stride != 1:
            self._norm3 = BatchNorm(
                convolve(x, tensors, f"{name}.conv3", stride, 0), tensors, f"{name}.norm3"
            )
            around = self._norm3.y
        self.y = relu(self._norm2.y + around)

    def differentiate(self, gradient: Array, gradients: Arrays) -> Array:
        """The gradient of x: two contributions."""
        name, tensors = self._name, self._tensors
        gradient = threshold_backward(gradient, self.y, 0)
        around = gradient
        if self._stride != 1:
            around = self._norm3.differentiate(gradient, gradients)
            args = (around, self._x, tensors, f"{name}.conv3", self._stride, 0)
            convolve_backward(*args, gradients)
            around = convolve_input(*args)
        g = self._norm2.differentiate(gradient, gradients)
        convolve_backward(g, self._inner, tensors, f"{name}.conv2", 1, 1, gradients)
        g = convolve_input(g, self._inner, tensors, f"{name}.conv2", 1, 1)
        g = self._norm1.differentiate(threshold_backward(g, self._inner, 0), gradients)
        args = (g, self._x, tensors, f"{name}.conv1", self._stride, 1)
        convolve_backward(*args, gradients)
        result: Array = around + convolve_input(*args)
        return result


def run_resnet(tensors: Arrays, batch: Arrays) -> Outcome:
    """Convolution, two residual blocks, mean over pixels."""
    gradients: Arrays = {}
    x = batch["x"]
    norm = BatchNorm(convolve(x, tensors, "conv", 1, 1), tensors, "norm")
    stem = relu(norm.y)
    one = _Block(stem, tensors, "one", 1)
    two = _Block(one.y, tensors, "two", 2)
    features = compute_mean(two.y, [2, 3])
    loss, g = cross_entropy(linear(features, tensors, "fc"), batch["target"])
    g = linear_backward(g, features, tensors, "fc", gradients)
    pixels = np.float32(two.y.shape[2] * two.y.shape[3])
    g = np.broadcast_to(g[:, :, None, None], two.y.shape) / pixels
    g = one.differentiate(two.differentiate(g, gradients), gradients)
    g = norm.differentiate(threshold_backward(g, stem, 0), gradients)
    convolve_backward(g, x, tensors, "conv", 1, 1, gradients)
    return loss, gradients


def _split_heads(qkv: Array, sequences: int) -> Array:
    """(N T, 3 C) as (3, N, heads, T, C / heads)."""
    parts = qkv.reshape(sequences, -1, 3, HEADS, qkv.shape[1] // (3 * HEADS))
    return parts.transpose(2, 0, 3, 1, 4)


def run_transformer(tensors: Arrays, batch: Arrays) -> Outcome:
    """One block of a causal transformer over tokens (N, T)."""
    gradients: Arrays = {}
    tokens = batch["x"]
    n, t = tokens.shape
    table, positions = tensors["tokens.weight"], tensors["positions"]
    width = table.shape[1]
    x = (table[tokens] + positions).reshape(n * t, width)
    w1, w2 = tensors["norm1.weight"], tensors["norm2.weight"]
    normed1, m1, r1 = layer_norm(x, width, w1, tensors["norm1.bias"], EPS)
    q, k, v = _split_heads(linear(normed1, tensors, "qkv"), n)
    past = attend(q, k, v, causal=True)
    mixed = past.result.transpose(0, 2, 1, 3).reshape(n * t, width)
    middle = x + linear(mixed, tensors, "out")
    normed2, m2, r2 = layer_norm(middle, width, w2, tensors["norm2.bias"], EPS)
    inner = linear(normed2, tensors, "fc1")
    active = gelu(inner, "none")
    end = middle + linear(active, tensors, "fc2")
    loss, g = cross_entropy(linear(end, tensors, "head"), batch["target"].reshape(-1))

    g_end = linear_backward(g, end, tensors, "head", gradients)
    g = linear_backward(g_end, active, tensors, "fc2", gradients)
    g = linear_backward(gelu_backward(g, inner, "none"), normed2, tensors, "fc1", gradients)
    g, gw, gb = layer_norm_backward(g, middle, m2, r2, w2)
    gradients["norm2.weight"], gradients["norm2.bias"] = gw, gb
    g_middle = g_end + g
    g = linear_backward(g_middle, mixed, tensors, "out", gradients)
    g = g.reshape(n, t, HEADS, width // HEADS).transpose(0, 2, 1, 3)
    g = np.stack(attend_backward(g, past)).transpose(1, 3, 0, 2, 4).reshape(n * t, 3 * width)
    g = linear_backward(g, normed1, tensors, "qkv", gradients)
    g, gw, gb = layer_norm_backward(g, x, m1, r1, w1)
    gradients["norm1.weight"], gradients["norm1.bias"] = gw, gb
    g = g_middle + g
    gradients["positions"] = compute_sum(g.reshape(n, t, width), [0])
    gradients["tokens.weight"] = index_add(np.zeros_like(table), tokens.reshape(-1), g, -1)
    return loss, gradients
