"""Starts kernels so that they compute as written."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor


def jit(function: Callable[..., Any]) -> Any:
    """Decorator: a function in Triton's language, for launches and for other such functions."""
    return triton.jit(function)


def launch(kernel: Any, programs: int, arguments: Sequence[Any], **constants: Any) -> None:
    """Run `programs` programs of a kernel on the device of its first argument, a tensor [E1].

    Triton may fuse products into sums unless told not to.  No program, no launch.
    """
    if programs > 0:
        with torch.cuda.device(arguments[0].get_device()):
            kernel[(programs,)](*arguments, enable_fp_fusion=False, **constants)


def divide_up(count: int, size: int) -> int:
    """How many blocks of `size` hold `count`."""
    return -(-count // size)


def round_float(value: float) -> float:
    """[E4] the nearest float32: kernels take numbers that are exact in it."""
    return ctypes.c_float(value).value


def make_contiguous(x: Tensor) -> Tensor:
    """Itself, or a copy in row-major order."""
    return x if x.is_contiguous() else x.contiguous()
