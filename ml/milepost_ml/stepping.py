"""Whoever retrains a recipe: one interface, with a framework behind it that the recipe chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from milepost_ml.keras_graph import KerasGraph
from milepost_ml.recipe import Recipe
from milepost_ml.steps import StepResult

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class Stepper(Protocol):
    """A training in progress; call `load` before anything else."""

    def load(self, step: int, tensors: Mapping[str, Array]) -> None:
        """Continue from the state after `step` steps, given as a snapshot's checked tensors."""

    def run_stride(self, count: int) -> StepResult:
        """Do the next steps, and hash what comes out at their end.

        Raises StepFailed where the framework cannot.
        """

    def run_step(self) -> StepResult:
        """A stride of one step."""

    def get_batch_digest(self, step: int) -> bytes:
        """The digest of a step's batch, from the data themselves."""

    def get_gradients(self) -> dict[str, Array]:
        """Those of the last step, by parameter; views that the next step changes."""

    def get_parameters(self) -> dict[str, Array]:
        """The parameters under their own names; views that the next step changes."""

    def get_state(self) -> dict[str, Array]:
        """The complete state as a snapshot's tensors; views."""


def make_stepper(recipe: Recipe, data: Path) -> Stepper:
    """A training of the recipe on its data file; loads the framework.

    Raises InvalidRecord for data that do not fit, MissingFramework where it is not installed,
    MissingGpu where the recipe's device class needs one.
    """
    if isinstance(recipe.graph, KerasGraph):
        from milepost_ml.keras_training.stepper import KerasStepper

        return KerasStepper(recipe, data)
    from milepost_ml import stepper
    from milepost_ml.arithmetic.known_answer import choose_device

    device = choose_device(recipe.device_class)
    if device.type == "cpu":
        return stepper.Stepper(recipe, data)
    from milepost_ml.gpu_stepper import GpuStepper

    return GpuStepper(recipe, data, device)
