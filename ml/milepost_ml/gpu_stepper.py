"""Trains a recipe on a GPU, and where that fails, on the processor.

A GPU has less memory than the machine, computes operators that PyTorch makes repeatable on a
processor alone not at all, and finds an index outside a tensor too late to say so.  None of this is
the record's fault.  So what a step cannot do on a GPU is tried on the processor, from the state
before its stride: only that a step fails there says something of the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from milepost_ml.errors import MissingGpu
from milepost_ml.gpus import is_gpu_class
from milepost_ml.recipe import Recipe
from milepost_ml.stepper import Stepper
from milepost_ml.steps import StepFailed, StepResult

if TYPE_CHECKING:
    from milepost_ml.digests import Array

_FAILURES: Final = (StepFailed, MemoryError, RuntimeError)


class GpuStepper:
    """A training in progress on `device`; call `load` before anything else.

    Under profile `exact` the processor takes over, because its bits are the same.  A run of the
    GPU's own device class cannot go on there, which is MissingGpu.
    """

    def __init__(self, recipe: Recipe, data: Path, device: torch.device) -> None:
        """Raises InvalidRecord for a data file that does not fit the recipe."""
        self._recipe, self._data = recipe, data
        self._stepper = Stepper(recipe, data, device)
        self._is_on_gpu = True

    def load(self, step: int, tensors: Mapping[str, Array]) -> None:
        """Continue from the state after `step` steps, given as a snapshot's checked tensors."""
        try:
            self._stepper.load(step, tensors)
        except _FAILURES as error:
            self._take_over(step, tensors, error)
            self._require_own_device(error)

    def run_step(self) -> StepResult:
        """A stride of one step."""
        return self.run_stride(1)

    def run_stride(self, count: int) -> StepResult:
        """Do the next steps, and hash what comes out at their end.

        Raises StepFailed where the processor cannot, MissingGpu where only the GPU cannot.
        """
        begin = self._stepper.step
        try:
            return self._stepper.run_stride(count)
        except _FAILURES as error:
            self._take_over(begin, self._stepper.get_state(), error)
            result = self._stepper.run_stride(count)
            self._require_own_device(error)
            return result

    def _take_over(self, step: int, tensors: Mapping[str, Array], error: Exception) -> None:
        """Go on on the processor; raises the error if that is where it happened."""
        if not self._is_on_gpu:
            raise error
        self._is_on_gpu = False
        self._stepper = Stepper(self._recipe, self._data)
        self._stepper.load(step, tensors)

    def _require_own_device(self, error: Exception) -> None:
        if is_gpu_class(self._recipe.device_class):
            raise MissingGpu(
                f"the GPU cannot do what the processor can: {type(error).__name__}: {error}"
            ) from error

    def get_batch_digest(self, step: int) -> bytes:
        """The digest of a step's batch, from the data themselves."""
        return self._stepper.get_batch_digest(step)

    def get_gradients(self) -> dict[str, Array]:
        """Those of the last step, by parameter; views that the next step changes."""
        return self._stepper.get_gradients()

    def get_parameters(self) -> dict[str, Array]:
        """The parameters under their own names; views that the next step changes."""
        return self._stepper.get_parameters()

    def get_state(self) -> dict[str, Array]:
        """The complete state as a snapshot's tensors; views."""
        return self._stepper.get_state()
