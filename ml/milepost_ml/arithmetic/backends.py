"""What exact arithmetic needs of a device: one function for every rule of docs/spec/arithmetic.md.

`exact` turns PyTorch's operators into calls of these.  Tensors are float32 unless said otherwise,
of any strides, on the backend's device and checked by the caller to fit together; results are new
and contiguous.  None stands for an optional tensor that is absent.  The rule in brackets says what
is computed, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

Pair = tuple[int, int]


class Convolution(NamedTuple):
    """Geometry of a convolution over two dimensions."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


class Pooling(NamedTuple):
    """Geometry of a pooling over two dimensions."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


class Backend(Protocol):
    """Every operation with a rule of its own."""

    # Sums and products ---------------------------------------------------------------------------

    def sum(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        """[E7] over the given dimensions (not negative, ascending, at least one), which go."""
        ...

    def matmul(self, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        """[E10] (B, M, K) x (B, K, N) or (M, K) x (K, N); `bias` of shape (N,) is added to D."""
        ...

    def convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Convolution
    ) -> Tensor:
        """[E11] (N, C, H, W) with (O, C/G, KH, KW): (N, O, OH, OW)."""
        ...

    def convolution_input(
        self, gradient: Tensor, weight: Tensor, size: Sequence[int], shape: Convolution
    ) -> Tensor:
        """[E12] the gradient of an input of shape `size` = (N, C, H, W)."""
        ...

    def convolution_weight(
        self, gradient: Tensor, x: Tensor, size: Sequence[int], shape: Convolution
    ) -> Tensor:
        """[E13] the gradient of a weight of shape `size` = (O, C/G, KH, KW)."""
        ...

    # Elementwise ---------------------------------------------------------------------------------

    def add_scaled(self, a: Tensor, b: Tensor, alpha: float) -> Tensor:
        """[E14] a + alpha * b of tensors that broadcast; alpha is not 1."""
        ...

    def addcmul(self, a: Tensor, b: Tensor, c: Tensor, value: float) -> Tensor:
        """[E14]"""
        ...

    def addcdiv(self, a: Tensor, b: Tensor, c: Tensor, value: float) -> Tensor:
        """[E14]"""
        ...

    def lerp(self, start: Tensor, end: Tensor, weight: float) -> Tensor:
        """[E14]"""
        ...

    def sqrt(self, x: Tensor) -> Tensor:
        """[E14]"""
        ...

    def rsqrt(self, x: Tensor) -> Tensor:
        """[E14]"""
        ...

    def relu(self, x: Tensor) -> Tensor:
        """[E15]"""
        ...

    def threshold_backward(self, gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
        """[E15]"""
        ...

    def maximum(self, a: Tensor, b: Tensor) -> Tensor:
        """[E15] of tensors that broadcast."""
        ...

    def minimum(self, a: Tensor, b: Tensor) -> Tensor:
        """[E15] of tensors that broadcast."""
        ...

    def amax(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        """[E15] over the given dimensions, as in `sum`."""
        ...

    def leaky_relu(self, x: Tensor, slope: float) -> Tensor:
        """[E15]"""
        ...

    def leaky_relu_backward(self, gradient: Tensor, x: Tensor, slope: float) -> Tensor:
        """[E15]"""
        ...

    def hardtanh_backward(self, gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
        """[E15]"""
        ...

    # Functions -----------------------------------------------------------------------------------

    def exp(self, x: Tensor) -> Tensor:
        """[E16]"""
        ...

    def log(self, x: Tensor) -> Tensor:
        """[E17]"""
        ...

    def sigmoid(self, x: Tensor) -> Tensor:
        """[E18]"""
        ...

    def sigmoid_backward(self, gradient: Tensor, result: Tensor) -> Tensor:
        """[E18]"""
        ...

    def tanh(self, x: Tensor) -> Tensor:
        """[E18]"""
        ...

    def tanh_backward(self, gradient: Tensor, result: Tensor) -> Tensor:
        """[E18]"""
        ...

    def silu(self, x: Tensor) -> Tensor:
        """[E18]"""
        ...

    def silu_backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """[E18]"""
        ...

    def erf(self, x: Tensor) -> Tensor:
        """[E19]"""
        ...

    def gelu(self, x: Tensor, approximate: str) -> Tensor:
        """[E20] approximate is "none" or "tanh"."""
        ...

    def gelu_backward(self, gradient: Tensor, x: Tensor, approximate: str) -> Tensor:
        """[E20]"""
        ...

    # Layers --------------------------------------------------------------------------------------

    def softmax(self, x: Tensor, dim: int) -> Tensor:
        """[E21]"""
        ...

    def softmax_backward(self, gradient: Tensor, result: Tensor, dim: int) -> Tensor:
        """[E21]"""
        ...

    def log_softmax(self, x: Tensor, dim: int) -> Tensor:
        """[E21]"""
        ...

    def log_softmax_backward(self, gradient: Tensor, result: Tensor, dim: int) -> Tensor:
        """[E21]"""
        ...

    def nll_loss(
        self, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        """[E22] loss and total weight of x (N, C) and int64 target (N,).

        Reduction 0 none, 1 mean, 2 sum.  Raises IndexError for a target outside.
        """
        ...

    def nll_loss_backward(
        self,
        gradient: Tensor,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: int,
        ignore_index: int,
        total: Tensor,
    ) -> Tensor:
        """[E22]"""
        ...

    def layer_norm(
        self, x: Tensor, count: int, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[E23] y, m, r; rows of `count` elements; m and r have one element a row, flat."""
        ...

    def layer_norm_backward(
        self, gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[E23] gradients of x, weight and bias (the last two flat)."""
        ...

    def batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[E24] y, m, r of x (N, C, ...); running values are changed in place in training."""
        ...

    def batch_norm_backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        rstd: Tensor,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[E24] gradients of x, weight and bias; mean and rstd as `batch_norm` used them."""
        ...

    def max_pool2d(self, x: Tensor, shape: Pooling) -> tuple[Tensor, Tensor]:
        """[E25] values and int64 indices into the plane, of x (N, C, H, W)."""
        ...

    def max_pool2d_backward(self, gradient: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
        """[E25] the gradient of an input of shape `size` = (N, C, H, W)."""
        ...

    def avg_pool2d(
        self, x: Tensor, shape: Pooling, count_include_pad: bool, divisor: int | None
    ) -> Tensor:
        """[E25]"""
        ...

    def avg_pool2d_backward(
        self,
        gradient: Tensor,
        size: Sequence[int],
        shape: Pooling,
        count_include_pad: bool,
        divisor: int | None,
    ) -> Tensor:
        """[E25]"""
        ...

    def adaptive_avg_pool2d(self, x: Tensor, size: Pair) -> Tensor:
        """[E25]"""
        ...

    def adaptive_avg_pool2d_backward(self, gradient: Tensor, size: Sequence[int]) -> Tensor:
        """[E25]"""
        ...

    def index_add(self, base: Tensor, index: Tensor, rows: Tensor, skip: int) -> Tensor:
        """[E26] base (R, D) plus rows (I, D) at int64 index (I,); index `skip` is left out.

        A base of zeros gives the gradient of an embedding.  Raises IndexError outside [0, R).
        """
        ...

    # Optimizers ----------------------------------------------------------------------------------

    def sgd(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        momenta: Sequence[Tensor],
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        first: bool,
    ) -> None:
        """[E28] in place; `momenta` is empty without momentum."""
        ...

    def adam(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        averages: Sequence[Tensor],
        squares: Sequence[Tensor],
        maxima: Sequence[Tensor],
        steps: Sequence[Tensor],
        *,
        lr: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
        eps: float,
        decoupled: bool,
    ) -> None:
        """[E29] in place; `steps` already count this step; `maxima` is empty without amsgrad.

        Decoupled weight decay is AdamW's.
        """
        ...
