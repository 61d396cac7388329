"""Random numbers as a function of (seed of the step, number of the draw): rule E30."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from milepost_ml.arithmetic.table import refuse


class Draws:
    """The generator of one mode.  `reseed` comes before the first draw."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._drawn = 0

    def reseed(self, seed: int) -> None:
        """Start the draws of a step."""
        self._seed, self._drawn = seed, 0

    def get_handlers(self) -> dict[str, Callable[..., Any]]:
        """The operators that draw."""
        return {
            "bernoulli.p": self._bernoulli_new,
            "bernoulli_.float": self._bernoulli,
            "rand": self._rand,
            "rand_like": self._rand_like,
            "uniform_": self._uniform,
        }

    def _draw(self, name: str, count: int) -> npt.NDArray[np.uint64]:
        if self._seed is None:
            raise refuse(name, "no seed was set: call reseed() before every step")
        key = np.array([self._seed, self._drawn], dtype=np.uint64)
        self._drawn += 1
        return np.random.Philox(key=key).random_raw(count)

    def _unit(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Multiples of 2^-24 in [0, 1)."""
        words = self._draw(name, int(np.prod(shape, dtype=np.int64))) >> np.uint64(40)
        numbers = words.astype(np.float32) * np.float32(2.0**-24)
        return torch.from_numpy(numbers).view(*shape)

    def _bernoulli(
        self, target: torch.Tensor, p: float = 0.5, *, generator: None = None
    ) -> torch.Tensor:
        words = self._draw("bernoulli_", target.numel()) >> np.uint64(11)
        chosen = words.astype(np.float64) * 2.0**-53 < p
        return target.copy_(torch.from_numpy(chosen).view(target.shape))

    def _bernoulli_new(
        self, like: torch.Tensor, p: float, *, generator: None = None
    ) -> torch.Tensor:
        return self._bernoulli(torch.empty_like(like), p)

    def _rand(self, size: Sequence[int], *, dtype: Any = None, **options: Any) -> torch.Tensor:
        if dtype not in (None, torch.float32):
            raise refuse("rand", f"it makes {dtype}; exact arithmetic computes float32")
        return self._unit("rand", size).to(options.get("device"))

    def _rand_like(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        return self._rand(x.shape, dtype=x.dtype, device=x.device)

    def _uniform(
        self, target: torch.Tensor, low: float = 0.0, high: float = 1.0, *, generator: None = None
    ) -> torch.Tensor:
        width = float(np.float32(high - low))
        return target.copy_(self._unit("uniform_", target.shape) * width + low)
