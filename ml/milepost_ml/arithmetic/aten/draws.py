"""Random numbers as a function of (seed of the step, number of the draw): rule E30."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from milepost_ml.arithmetic.aten.elementwise import divide
from milepost_ml.arithmetic.table import computes, refuse, require_float32


class Draws:
    """The generator of one mode.  `reseed` comes before the first draw."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._drawn = 0

    def reseed(self, seed: int) -> None:
        """Start the draws of a step."""
        self._seed, self._drawn = seed, 0

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

    def bernoulli(
        self, target: torch.Tensor, p: float = 0.5, *, generator: None = None
    ) -> torch.Tensor:
        words = self._draw("bernoulli_", target.numel()) >> np.uint64(11)
        chosen = words.astype(np.float64) * 2.0**-53 < p
        return target.copy_(torch.from_numpy(chosen).view(target.shape))

    def bernoulli_new(
        self, like: torch.Tensor, p: float, *, generator: None = None
    ) -> torch.Tensor:
        return self.bernoulli(torch.empty_like(like), p)

    def dropout(
        self, x: torch.Tensor, p: float, train: bool | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What PyTorch makes of dropout on a GPU, as it makes it of other operators on a CPU.

        The second result goes to the gradient alone, which on a CPU multiplies with the same.
        """
        require_float32("native_dropout", (x,))
        if not train:
            raise refuse("native_dropout", "outside training")
        noise = divide(self.bernoulli(torch.empty_like(x), 1 - p), 1 - p)
        return x * noise, noise

    def rand(self, size: Sequence[int], *, dtype: Any = None, **options: Any) -> torch.Tensor:
        if dtype not in (None, torch.float32):
            raise refuse("rand", f"it makes {dtype}; exact arithmetic computes float32")
        return self._unit("rand", size).to(options.get("device"))

    def rand_like(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        return self.rand(x.shape, dtype=x.dtype, device=x.device)

    def uniform(
        self, target: torch.Tensor, low: float = 0.0, high: float = 1.0, *, generator: None = None
    ) -> torch.Tensor:
        width = float(np.float32(high - low))
        return target.copy_(self._unit("uniform_", target.shape) * width + low)


_LOCAL = threading.local()


def get_current() -> Draws | None:
    """The generator that this thread draws from."""
    current: Draws | None = getattr(_LOCAL, "current", None)
    return current


def set_current(draws: Draws | None) -> None:
    """Let this thread draw from it."""
    _LOCAL.current = draws


@computes("native_dropout_backward")
def _dropout_backward(gradient: torch.Tensor, noise: torch.Tensor, scale: float) -> torch.Tensor:
    return gradient * noise


def _computes(name: str, method: Callable[..., Any]) -> None:
    def draw(*args: Any, **kwargs: Any) -> Any:
        return method(get_current() or Draws(), *args, **kwargs)

    computes(name)(draw)


_computes("bernoulli.p", Draws.bernoulli_new)
_computes("bernoulli_.float", Draws.bernoulli)
_computes("native_dropout", Draws.dropout)
_computes("rand", Draws.rand)
_computes("rand_like", Draws.rand_like)
_computes("uniform_", Draws.uniform)
