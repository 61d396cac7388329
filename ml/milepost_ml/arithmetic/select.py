"""The backend that computes a tensor: by where it lies."""

from __future__ import annotations

import functools

import torch

from milepost_ml.arithmetic.backends import Backend
from milepost_ml.arithmetic.cpu.backend import CPU
from milepost_ml.arithmetic.table import refuse


@functools.cache
def _get_gpu() -> Backend:
    from milepost_ml.arithmetic.gpu.backend import GPU

    return GPU


def get_backend(tensor: torch.Tensor) -> Backend:
    """Raises RefusedOperator for devices that have no kernels."""
    if tensor.is_cpu:
        return CPU
    if tensor.is_cuda:
        return _get_gpu()
    raise refuse(f"tensors on {tensor.device.type}", "there are kernels for cpu and cuda only")
