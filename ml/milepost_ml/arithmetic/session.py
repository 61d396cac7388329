"""A profile at work on the model and optimizer of one recorded run, entered and left with its loop.

The loop is the user's: it may break off, raise, pause, or never come back.  Whatever it does, what
is entered here is left once, and `release` leaves model and optimizer as training without a run
would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.arithmetic.rounded import Widened, convert
from milepost_ml.averages import EMA


class Session:
    """A profile at work on the model and optimizer of one run, from here to `release`."""

    def __init__(
        self,
        profile: Profile,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMA | None = None,
    ) -> None:
        self._profile, self._model, self._optimizer, self._ema = profile, model, optimizer, ema
        self._widened = Widened((*model.parameters(), *model.buffers()), profile)
        self._reset_options = profile.set_options(optimizer)
        self._active: AbstractContextManager[Any] | None = None

    def convert(self, batch: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """A batch as it is computed with."""
        return tuple(map(self._profile.take, batch))

    def enter(self, seed: int) -> None:
        """The loop gets its batch."""
        self._profile.reseed(seed)
        self._active = self._profile.active()
        self._active.__enter__()

    def leave(self) -> None:
        """The loop's body is over, in whatever way; does nothing the second time."""
        active, self._active = self._active, None
        if active is not None:
            active.__exit__(None, None, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Plain PyTorch on the recorded types, inside the loop's body."""
        with self.aside(), self._widened.paused():
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Plain PyTorch in the middle of a step; the model stays as it is computed with."""
        inside = self._active is not None
        self.leave()
        try:
            yield
        finally:
            if inside:
                self._active = self._profile.active()
                self._active.__enter__()

    def release(self) -> None:
        """Leave model and optimizer as a training without a run would."""
        self.leave()
        self._widened.restore()
        for state in self._optimizer.state.values():
            for slot in state.values():
                if isinstance(slot, torch.Tensor):
                    convert(slot, torch.float32)
        if self._ema is not None:
            self._ema.release()
        self._reset_options()
