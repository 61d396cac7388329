"""Layers with their gradients, as PyTorch's formulas put the rules together [E31]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.losses import (
    log_softmax,
    log_softmax_backward,
    nll_loss,
    nll_loss_backward,
)
from tests.reference.normalization import batch_norm, batch_norm_backward
from tests.reference.products import (
    compute_sum,
    convolution,
    convolution_input,
    convolution_weight,
    matmul,
)

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

NO_INDEX = -100
"""The target that PyTorch ignores when nothing is said."""


def linear(x: Array, tensors: Arrays, name: str) -> Array:
    """Rows of x times the weight's rows, and bias."""
    return matmul(x, tensors[f"{name}.weight"].T, tensors[f"{name}.bias"])


def linear_backward(
    gradient: Array, x: Array, tensors: Arrays, name: str, gradients: Arrays
) -> Array:
    """The gradient of x; those of weight and bias go into `gradients`."""
    gradients[f"{name}.weight"] = matmul(gradient.T, x)
    gradients[f"{name}.bias"] = compute_sum(gradient, [0])
    return matmul(gradient, tensors[f"{name}.weight"])


def make_geometry(stride: int, padding: int) -> dict[str, Any]:
    """The same in both directions, one group."""
    return {
        "stride": (stride, stride),
        "padding": (padding, padding),
        "dilation": (1, 1),
        "groups": 1,
    }


def convolve(x: Array, tensors: Arrays, name: str, stride: int, padding: int) -> Array:
    """A convolution with the bias that there is."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    return convolution(x, weight, bias, make_geometry(stride, padding))


def convolve_backward(
    gradient: Array,
    x: Array,
    tensors: Arrays,
    name: str,
    stride: int,
    padding: int,
    gradients: Arrays,
) -> None:
    """Gradients of weight and bias."""
    weight, geometry = tensors[f"{name}.weight"], make_geometry(stride, padding)
    gradients[f"{name}.weight"] = convolution_weight(gradient, x, weight.shape, geometry)
    if f"{name}.bias" in tensors:
        gradients[f"{name}.bias"] = compute_sum(gradient, [0, 2, 3])


def convolve_input(
    gradient: Array, x: Array, tensors: Arrays, name: str, stride: int, padding: int
) -> Array:
    """The gradient of x."""
    weight, geometry = tensors[f"{name}.weight"], make_geometry(stride, padding)
    return convolution_input(gradient, weight, x.shape, geometry)


class BatchNorm:
    """A batch normalization in training, with what its gradient needs."""

    def __init__(self, x: Array, tensors: Arrays, name: str) -> None:
        self._x, self._name, self._weight = x, name, tensors[f"{name}.weight"]
        self.y, self._mean, self._rstd = batch_norm(
            x,
            self._weight,
            tensors[f"{name}.bias"],
            tensors[f"{name}.running_mean"],
            tensors[f"{name}.running_var"],
            training=True,
            momentum=0.1,
            eps=1e-5,
        )
        tensors[f"{name}.num_batches_tracked"] += 1

    def differentiate(self, gradient: Array, gradients: Arrays) -> Array:
        """The gradient of x; those of weight and bias go into `gradients`."""
        gx, weight, bias = batch_norm_backward(
            gradient, self._x, self._weight, self._mean, self._rstd, training=True
        )
        gradients[f"{self._name}.weight"], gradients[f"{self._name}.bias"] = weight, bias
        return gx


def cross_entropy(x: Array, target: Array) -> tuple[Array, Array]:
    """The mean loss of rows of logits, and its gradient for x."""
    y = log_softmax(x, 1)
    loss, total = nll_loss(y, target, None, 1, NO_INDEX)
    gradient = np.ones((), np.float32)
    gy = nll_loss_backward(gradient, y, target, None, 1, NO_INDEX, total)
    return loss, log_softmax_backward(gy, y, 1)
