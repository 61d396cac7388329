"""What exact arithmetic costs and how exact it is, beside PyTorch's own.

Steps of the same model on the same data take turns: default PyTorch, profile `exact`, and float64
as profile `rounded` computes it.  All use as many threads as PyTorch takes by default.  Accuracy is
the distance of the state from one trained in float64, as a share of the way it went.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from milepost_ml.arithmetic.profiles import make_profile
from tests.bench.models import LeNet5, ResNet, Transformer, make_mlp

WARM_UP: Final = 10
TURNS: Final = 100
CHECKED: Final = (10, 100)
"""Numbers of steps after which states are compared."""

Batch = tuple[torch.Tensor, torch.Tensor]


class _Case(NamedTuple):
    name: str
    make: Callable[[], nn.Module]
    adam: bool
    limit: float
    """The ratio that this project set out to stay below."""


CASES: Final = (
    _Case("MLP 235k", make_mlp, False, 1.3),
    _Case("LeNet-5", LeNet5, False, 1.6),
    _Case("ResNet 20k", ResNet, False, 2.0),
    _Case("Transformer block", Transformer, True, 2.0),
)


def _make_batches(case: _Case) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    while True:
        if case.adam:
            shape = (32, Transformer.LENGTH + 1)
            text = torch.randint(Transformer.VOCABULARY, shape, generator=generator)
            text[:, 1::2] = text[:, 0:-1:2]  # something to learn
            yield text[:, :-1].contiguous(), text[:, 1:].contiguous()
        else:
            labels = torch.randint(10, (64,), generator=generator)
            images = torch.randn(64, 1, 28, 28, generator=generator)
            images += labels.view(-1, 1, 1, 1) / 10
            yield images, labels


class _Training:
    """One model in training under one arithmetic."""

    def __init__(self, case: _Case, model: nn.Module, arithmetic: str) -> None:
        self.model = copy.deepcopy(model)
        self._dtype = torch.float64 if arithmetic == "float64" else torch.float32
        self.model.to(self._dtype)
        parameters = list(self.model.parameters())
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, lr=1e-3)
            if case.adam
            else torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
        )
        self._mode: AbstractContextManager[object] = nullcontext()
        if arithmetic == "exact":
            profile = make_profile(arithmetic)
            profile.set_options(self._optimizer)
            self._mode = profile.active()

    def step(self, batch: Batch) -> float:
        """Do a step; the seconds it took."""
        x, y = batch
        if x.is_floating_point():
            x = x.to(self._dtype)
        begin = time.perf_counter()
        with self._mode:
            logits = self.model(x)
            loss = functional.cross_entropy(logits.flatten(0, -2), y.flatten())
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return time.perf_counter() - begin

    def get_state(self) -> torch.Tensor:
        return torch.cat([p.detach().double().flatten() for p in self.model.parameters()])


def _bench(case: _Case) -> None:
    torch.manual_seed(0)
    model = case.make()
    names = ("default", "exact", "float64")
    trainings = {name: _Training(case, model, name) for name in names}
    start = trainings["float64"].get_state()
    batches = _make_batches(case)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    distances: dict[str, list[float]] = {"default": [], "exact": []}
    for number in range(1, WARM_UP + TURNS + 1):
        batch = next(batches)
        for name in names:
            seconds[name].append(trainings[name].step(batch))
        if number in CHECKED:
            truth = trainings["float64"].get_state()
            way = (truth - start).norm()
            for name, found in distances.items():
                found.append(float((trainings[name].get_state() - truth).norm() / way))
    taken = {name: sorted(times[WARM_UP:]) for name, times in seconds.items()}
    middle = {name: statistics.median(times) for name, times in taken.items()}
    fast = {name: times[len(times) // 10] for name, times in taken.items()}
    print(
        f"{case.name:18} default {1e3 * middle['default']:7.2f} ms a step;"
        f" exact {middle['exact'] / middle['default']:5.2f}x"
        f" (tenth percentile {fast['exact'] / fast['default']:5.2f}x, limit {case.limit}x);"
        f" float64 {middle['float64'] / middle['default']:5.2f}x"
    )
    accuracy = ", ".join(
        f"{steps} steps: default {default:.1e}, exact {exact:.1e}"
        for steps, default, exact in zip(CHECKED, *distances.values(), strict=True)
    )
    print(f"{'':18} distance from float64 after {accuracy}")


def bench_arithmetic() -> None:
    """Print step times and accuracy for every model."""
    print(f"{torch.get_num_threads()} threads, {TURNS} steps of each in turn, medians")
    for case in CASES:
        _bench(case)
