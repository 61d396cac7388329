"""Tensors that are computed in one type and recorded in another, as profile `rounded` has them.

While a run lasts, the model and the optimizer's state are float64 in place; after every step each
value is rounded to the type that it is recorded in, and kept in float64.  Restoring is exact,
because a rounded value is a float32.

Values half way between two float32 are common: a rate such as 0.05 times a short gradient is nearly
a short number itself.  Which way such a value goes would hang on the last bit of a float64, and so
on whether a processor fuses product and sum.  `AWAY` moves all values off the middle, all the same
way and far more than float64 errs, and leaves what is a float32 already where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch

from milepost_ml.arithmetic.profiles import Profile

AWAY: Final = 1 + 2.0**-36
"""What a value is multiplied by before it is rounded."""


def convert(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Give a tensor, and its gradient if it has one, another type in place."""
    gradient = tensor.grad
    if tensor.dtype is not dtype:
        tensor.grad = None
        tensor.data = tensor.data.to(dtype)
        if gradient is not None:
            tensor.grad = gradient.to(dtype)


class Widened:
    """Tensors that a profile computes in its own types, until `restore`."""

    def __init__(self, tensors: Iterable[torch.Tensor], profile: Profile) -> None:
        self._tensors = [
            (tensor, tensor.dtype)
            for tensor in tensors
            if profile.get_dtype(tensor.dtype) is not tensor.dtype
        ]
        for tensor, dtype in self._tensors:
            convert(tensor, profile.get_dtype(dtype))

    def restore(self) -> None:
        """Give all of them their recorded types back."""
        for tensor, dtype in self._tensors:
            convert(tensor, dtype)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Recorded types for a while; afterwards all values are as they were."""
        kept = [(tensor, tensor.data, tensor.grad) for tensor, _ in self._tensors]
        self.restore()
        try:
            yield
        finally:
            for tensor, data, gradient in kept:
                tensor.grad = None
                tensor.data = data
                tensor.grad = gradient


def round_tensors(
    tensors: Sequence[torch.Tensor], recorded: Sequence[torch.dtype]
) -> list[torch.Tensor]:
    """Round every value to its recorded type, in place; returns the tensors in those types.

    A tensor that is computed in its recorded type is its own result.
    """
    results = []
    with torch.no_grad():
        for tensor, dtype in zip(tensors, recorded, strict=True):
            result = tensor
            if tensor.dtype is not dtype:
                result = (tensor.detach() * AWAY).to(dtype)
                tensor.copy_(result)
            results.append(result)
    return results
