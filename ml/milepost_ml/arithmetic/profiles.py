"""The arithmetic profiles, as recorder, capture and retracing use them.

    exact     every operator in the order of docs/spec/arithmetic.md: equal bits on every processor
    rounded   PyTorch's kernels in float64, gradients and state rounded in every step: equal bits
              nearly always, for operators that exact arithmetic does not know
    class     PyTorch's kernels in float32 on one thread: equal bits on machines of one class
    tolerance PyTorch's kernels in float32 on any machine: ends of intervals within a bound

A profile says how PyTorch is set up, on what device and in what types tensors are computed, what
surrounds forward, backward and the optimizer's step, and what happens to the state afterwards.  The
formats of a record do not depend on it.  A `Profile` belongs to one training, because it holds its
generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Final

import torch

from milepost_consensus.payloads import CLASS, EXACT, ROUNDED
from milepost_consensus.tolerance import TOLERANCE
from milepost_ml.device import compute_device_class, configure_torch
from milepost_ml.gpus import CPU, seed_generators


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """The type of what is made from nothing."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Profile:
    """Profile `class`, and what the others have in common with it."""

    name: ClassVar[str] = CLASS
    dtype: ClassVar[torch.dtype] = torch.float32
    """What losses and gradients are computed in."""
    one_nan: ClassVar[bool] = False
    """Whether all NaNs are one value wherever bytes are hashed or written [E2]."""
    note: ClassVar[str] = "torch now computes on one thread with deterministic algorithms"
    """For people who record with it."""
    on_gpus: ClassVar[bool] = True
    """Whether it may be computed on a GPU, whose own random numbers are others than a CPU's."""

    autocast = False
    """Whether forward and loss are computed under PyTorch's autocast, in bfloat16."""
    device = CPU
    """Where parameters, state and batches lie while they are computed with."""

    def configure(self) -> None:
        """Set up PyTorch for the whole process."""
        configure_torch()

    def get_device_class(self) -> str:
        """Who repeats this arithmetic."""
        return compute_device_class(autocast=self.autocast, device=self.device)

    def casting(self) -> AbstractContextManager[Any]:
        """Around forward and loss alone, within `active`."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16) if self.autocast else nullcontext()

    def reseed(self, seed: int) -> None:
        """Key the random numbers of the next step."""
        seed_generators(self.device, seed)

    def active(self) -> AbstractContextManager[Any]:
        """Around forward, backward and the optimizer's step; may be entered many times."""
        return nullcontext()

    def get_dtype(self, recorded: torch.dtype) -> torch.dtype:
        """The type in which a tensor recorded as another is computed."""
        return recorded

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """A recorded tensor as it is computed with: its type, on the device."""
        return tensor.to(self.device, self.get_dtype(tensor.dtype))

    def set_options(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Choose the optimizer's implementation; returns what undoes it."""
        return _set_group_options(optimizer, fused=False, foreach=False)

    def round_gradients(self, gradients: Iterable[torch.Tensor]) -> None:
        """Make of gradients, in place, what is recorded and what the optimizer gets."""


class ExactProfile(Profile):
    """Profile `exact`."""

    name = EXACT
    one_nan = True
    note = "the same bits on every processor and with any number of threads"

    def __init__(self) -> None:
        # Loads the compiler of the kernels, which the other profiles do without.
        from milepost_ml.arithmetic.exact import VERSION, ExactMode

        self._version = VERSION
        self._mode = ExactMode()

    def configure(self) -> None:
        configure_torch(threads=None)

    def get_device_class(self) -> str:
        return self._version

    def reseed(self, seed: int) -> None:
        self._mode.reseed(seed)

    def active(self) -> AbstractContextManager[Any]:
        return self._mode

    def set_options(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        # Fused: a step is one operator, which has a rule of its own [E28, E29].
        return _set_group_options(optimizer, fused=True, foreach=False)


class RoundedProfile(Profile):
    """Profile `rounded`: a difference in the last bits of a float64 rarely survives rounding.

    Gradients are rounded to the eight significant bits of bfloat16, because they are sums in which
    much cancels: rounded to float32 they would differ between two kinds of processor in one step
    of a perceptron in ten.  What cancels wholly, such as the gradient of a bias before a
    normalisation, is noise without one reliable bit; below `NOISE` it becomes zero.
    """

    name = ROUNDED
    dtype = torch.float64
    one_nan = True
    on_gpus = False
    note = "computed in float64, gradients and state rounded in every step"

    VERSION: Final = "rounded/1"
    NOISE: Final = 2.0**-40

    def configure(self) -> None:
        configure_torch(threads=None)

    def get_device_class(self) -> str:
        return self.VERSION

    def active(self) -> AbstractContextManager[Any]:
        # What a model makes from nothing, such as a mask of ones, is float64 too.
        return default_dtype(self.dtype)

    def get_dtype(self, recorded: torch.dtype) -> torch.dtype:
        return torch.float64 if recorded.is_floating_point else recorded

    @torch.no_grad()
    def round_gradients(self, gradients: Iterable[torch.Tensor]) -> None:
        for gradient in gradients:
            noise = gradient.abs() < self.NOISE
            gradient.copy_(gradient.to(torch.bfloat16)).masked_fill_(noise, 0.0)


class ToleranceProfile(Profile):
    """Profile `tolerance`: PyTorch as it is on this machine, with as many threads as it has.

    Another machine gets other last bits, so its verifier compares where intervals end.
    """

    name = TOLERANCE
    one_nan = True
    on_gpus = False
    note = "intervals are compared within a bound, which the verdict names"

    VERSION: Final = "tolerance/1"

    def configure(self) -> None:
        configure_torch(threads=None)

    def get_device_class(self) -> str:
        return self.VERSION


_PROFILES: Final[dict[str, type[Profile]]] = {
    EXACT: ExactProfile,
    ROUNDED: RoundedProfile,
    CLASS: Profile,
    TOLERANCE: ToleranceProfile,
}


def make_profile(name: str, *, autocast: bool = False, device: torch.device = CPU) -> Profile:
    """The profile of a name, for one training on a device; KeyError for an unknown one.

    Only profile `class` knows `autocast`.
    """
    profile = _PROFILES[name]()
    profile.autocast, profile.device = autocast, device
    return profile


def _set_group_options(optimizer: torch.optim.Optimizer, **options: bool) -> Callable[[], None]:
    groups = optimizer.param_groups
    before = [{name: group[name] for name in options} for group in groups]
    for group in groups:
        group.update(options)

    def undo() -> None:
        for group, chosen in zip(groups, before, strict=True):
            group.update(chosen)

    return undo
