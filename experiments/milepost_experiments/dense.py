"""A dense network with its own backward pass, for training many small ones quickly.

At these sizes autograd and the optimizers of torch spend most of a step in Python.  Here all
parameters, and all gradients, are views of one vector each, so that an update is a handful of
operations.  The arithmetic is torch's, on one thread; tests compare it with autograd.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

MOMENTUM: Final = 0.9
ADAM: Final = (0.9, 0.999, 1e-8)
OPTIMIZERS: Final = ("sgd", "momentum", "adam")


class DenseNetwork:
    """Hidden layers with ReLU and a softmax output; starts as torch's own layers do."""

    def __init__(self, sizes: tuple[int, ...], seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        shapes: list[tuple[int, ...]] = []
        for size, out in itertools.pairwise(sizes):
            shapes += [(out, size), (out,)]
        self._weights = torch.empty(sum(math.prod(shape) for shape in shapes))
        self._gradients = torch.zeros_like(self._weights)
        self._moments = [torch.zeros_like(self._weights) for _ in range(2)]
        self._steps = 0
        self._parameters = self._make_views(self._weights, shapes)
        self._slopes = self._make_views(self._gradients, shapes)
        for size, pair in zip(sizes, self._pair(self._parameters), strict=False):
            for each in pair:
                each.uniform_(-1 / math.sqrt(size), 1 / math.sqrt(size), generator=chance)

    def copy_parameters(self) -> dict[str, NDArray[np.float32]]:
        """The parameters as `torch.nn.Sequential` names them, layer by layer."""
        names = [f"{k}.{part}" for k in range(len(self._parameters) // 2) for part in _PARTS]
        return {
            name: each.numpy().copy() for name, each in zip(names, self._parameters, strict=True)
        }

    def set_parameters(self, values: dict[str, NDArray[np.float32]]) -> None:
        """Put these in their place."""
        for target, source in zip(self._parameters, values.values(), strict=True):
            target.copy_(torch.from_numpy(source))

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class of each record."""
        outputs = self._forward(torch.from_numpy(inputs.reshape(len(inputs), -1)))[-1]
        classes: NDArray[np.int64] = outputs.argmax(dim=1).numpy()
        return classes

    def compute_gradients(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The gradient of the mean cross entropy, as one vector that the next call overwrites."""
        layers = self._forward(inputs)
        error = torch.softmax(layers[-1], dim=1)
        error[torch.arange(len(labels)), labels] -= 1
        error /= len(labels)
        for k in range(len(layers) - 2, -1, -1):
            weight, bias = self._slopes[2 * k], self._slopes[2 * k + 1]
            torch.mm(error.t(), layers[k], out=weight)
            torch.sum(error, dim=0, out=bias)
            if k:
                error = error @ self._parameters[2 * k]
                error *= layers[k] > 0
        return self._gradients

    def take_step(
        self, inputs: torch.Tensor, labels: torch.Tensor, *, rate: float, optimizer: str
    ) -> None:
        """One update by the named optimizer, with torch's formulas and defaults."""
        slope = self.compute_gradients(inputs, labels)
        first, second = self._moments
        self._steps += 1
        if optimizer == "adam":
            fade, fade_2, small = ADAM
            first.lerp_(slope, 1 - fade)
            second.mul_(fade_2).addcmul_(slope, slope, value=1 - fade_2)
            scale = second.sqrt().div_(math.sqrt(1 - fade_2**self._steps)).add_(small)
            self._weights.addcdiv_(first, scale, value=-rate / (1 - fade**self._steps))
        elif optimizer == "momentum":
            first.mul_(MOMENTUM).add_(slope)
            self._weights.add_(first, alpha=-rate)
        else:
            assert optimizer == "sgd", optimizer
            self._weights.add_(slope, alpha=-rate)

    def _forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        layers = [inputs]
        pairs = self._pair(self._parameters)
        for k, (weight, bias) in enumerate(pairs):
            output = torch.addmm(bias, layers[-1], weight.t())
            layers.append(output.relu_() if k < len(pairs) - 1 else output)
        return layers

    @staticmethod
    def _pair(tensors: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    @staticmethod
    def _make_views(vector: torch.Tensor, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
        parts = torch.split(vector, [math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


_PARTS: Final = ("weight", "bias")
