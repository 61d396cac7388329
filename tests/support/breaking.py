"""Loops that break in one way, for tests of what finds out in which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from milepost_ml.diagnosis.findings import Diagnosis
from tests.support.training import Cheat, Loop

MLP_TENSORS = ("first.weight", "first.bias", "second.weight", "second.bias")


class SwitchedLoss:
    """The declared loss, until a loop switches to another."""

    def __init__(self, declared: Callable[..., torch.Tensor], other: Callable[..., torch.Tensor]):
        self._declared, self._other = declared, other
        self.is_other = False

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self._other if self.is_other else self._declared)(output, target)

    def switch(self, first: int) -> Cheat:
        """From this batch on."""

        def cheat(number: int, loop: Loop) -> None:
            self.is_other = number >= first

        return cheat


def at(number: int, action: Callable[[Loop], object]) -> Cheat:
    """Do something before one batch's forward pass."""

    def cheat(now: int, loop: Loop) -> None:
        if now == number:
            action(loop)

    return cheat


def poison(loop: Loop) -> None:
    loop.batch[1] = (loop.batch[1] + 1) % 4


def stop_zeroing(loop: Loop) -> None:
    loop.optimizer.zero_grad = lambda *args: None  # type: ignore[method-assign]


def pass_again(loop: Loop) -> None:
    with torch.no_grad():
        loop.model(loop.batch[0])


def evaluate_forward(loop: Loop) -> None:
    """Every forward pass from here on is one in evaluation mode."""
    loop.model.register_forward_pre_hook(lambda model, args: model.eval() and None)
    loop.model.register_forward_hook(lambda model, args, output: model.train() and None)


def confirm(found: Diagnosis, cause: str, step: int) -> None:
    assert not found.repeats
    assert found.cause is not None
    assert (found.cause.name, found.cause.confirmed, found.step) == (cause, True, step)
    assert "{" not in found.cause.text


def hook_step(change: Callable[[nn.Module], None], number: int) -> Cheat:
    """Let the optimizer's step change something more, from a batch on."""

    def cheat(loop: Loop) -> None:
        # Before the recorder's own hook, which copies the state.
        handle = next(iter(loop.optimizer._optimizer_step_post_hooks))
        recorded = loop.optimizer._optimizer_step_post_hooks[handle]

        def changed(*args: Any) -> Any:
            change(loop.model)
            return recorded(*args)

        loop.optimizer._optimizer_step_post_hooks[handle] = changed

    return at(number, cheat)


@torch.no_grad()
def clamp(model: nn.Module) -> None:
    model.get_parameter("first.weight").clamp_(-0.1, 0.1)
