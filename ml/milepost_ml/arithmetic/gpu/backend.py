"""All operations for GPUs in one object."""

from __future__ import annotations

from typing import Final

from milepost_ml.arithmetic.backends import Backend
from milepost_ml.arithmetic.gpu import (
    convolution as convolutions,
)
from milepost_ml.arithmetic.gpu import (
    elementwise,
    embedding,
    functions,
    normalization,
    optimizers,
    pooling,
    products,
    sums,
)
from milepost_ml.arithmetic.gpu import (
    softmax as softmaxes,
)


class _GpuBackend:
    sum = staticmethod(sums.sum)
    matmul = staticmethod(products.matmul)
    convolution = staticmethod(convolutions.convolution)
    convolution_input = staticmethod(convolutions.convolution_input)
    convolution_weight = staticmethod(convolutions.convolution_weight)
    add_scaled = staticmethod(elementwise.add_scaled)
    addcmul = staticmethod(elementwise.addcmul)
    addcdiv = staticmethod(elementwise.addcdiv)
    lerp = staticmethod(elementwise.lerp)
    sqrt = staticmethod(elementwise.sqrt)
    rsqrt = staticmethod(elementwise.rsqrt)
    relu = staticmethod(elementwise.relu)
    threshold_backward = staticmethod(elementwise.threshold_backward)
    maximum = staticmethod(elementwise.maximum)
    minimum = staticmethod(elementwise.minimum)
    amax = staticmethod(sums.amax)
    leaky_relu = staticmethod(elementwise.leaky_relu)
    leaky_relu_backward = staticmethod(elementwise.leaky_relu_backward)
    hardtanh_backward = staticmethod(elementwise.hardtanh_backward)
    exp = staticmethod(functions.exp)
    log = staticmethod(functions.log)
    sigmoid = staticmethod(functions.sigmoid)
    sigmoid_backward = staticmethod(functions.sigmoid_backward)
    tanh = staticmethod(functions.tanh)
    tanh_backward = staticmethod(functions.tanh_backward)
    silu = staticmethod(functions.silu)
    silu_backward = staticmethod(functions.silu_backward)
    erf = staticmethod(functions.erf)
    gelu = staticmethod(functions.gelu)
    gelu_backward = staticmethod(functions.gelu_backward)
    softmax = staticmethod(softmaxes.softmax)
    softmax_backward = staticmethod(softmaxes.softmax_backward)
    log_softmax = staticmethod(softmaxes.log_softmax)
    log_softmax_backward = staticmethod(softmaxes.log_softmax_backward)
    nll_loss = staticmethod(softmaxes.nll_loss)
    nll_loss_backward = staticmethod(softmaxes.nll_loss_backward)
    layer_norm = staticmethod(normalization.layer_norm)
    layer_norm_backward = staticmethod(normalization.layer_norm_backward)
    batch_norm = staticmethod(normalization.batch_norm)
    batch_norm_backward = staticmethod(normalization.batch_norm_backward)
    max_pool2d = staticmethod(pooling.max_pool2d)
    max_pool2d_backward = staticmethod(pooling.max_pool2d_backward)
    avg_pool2d = staticmethod(pooling.avg_pool2d)
    avg_pool2d_backward = staticmethod(pooling.avg_pool2d_backward)
    adaptive_avg_pool2d = staticmethod(pooling.adaptive_avg_pool2d)
    adaptive_avg_pool2d_backward = staticmethod(pooling.adaptive_avg_pool2d_backward)
    index_add = staticmethod(embedding.index_add)
    sgd = staticmethod(optimizers.sgd)
    adam = staticmethod(optimizers.adam)


GPU: Final[Backend] = _GpuBackend()
