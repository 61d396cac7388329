"""What training hands over to be recorded: its steps, and copies of what their digests cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost_ml.digests import MODEL_PREFIX, OPTIMIZER_PREFIX
from milepost_ml.images import ContentImage
from milepost_ml.keyed import Indices
from milepost_ml.recipe import Recipe, get_model_specs, get_optimizer_specs
from milepost_ml.snapshots import TensorSpec

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class StepImages:
    """Copies of what one step digest covers."""

    def __init__(self, recipe: Recipe) -> None:
        gradients = [
            TensorSpec(item.name, "F32", item.shape) for item in recipe.parameters if item.trained
        ]
        self.model = ContentImage(get_model_specs(recipe))
        self.optimizer = ContentImage(get_optimizer_specs(recipe, step=1))
        self.gradient = ContentImage(gradients)

    @property
    def size_bytes(self) -> int:
        return self.model.size_bytes + self.optimizer.size_bytes + self.gradient.size_bytes

    def unify_nans(self) -> None:
        """Make all NaNs in them one value."""
        for image in (self.gradient, self.model, self.optimizer):
            image.unify_nans()

    def get_state(self) -> dict[str, Array]:
        """A snapshot's tensors, as views."""
        model, optimizer = self.model.get_arrays(), self.optimizer.get_arrays()
        return {MODEL_PREFIX + name: array for name, array in model.items()} | {
            OPTIMIZER_PREFIX + name: array for name, array in optimizer.items()
        }


class RecordedStep(NamedTuple):
    """One step as training hands it over."""

    images: StepImages | None
    """State and gradient after the last step of a stride; None for the steps before it."""
    records: Indices
    """Which records its batches held, in order."""
    loss: float
    rates: tuple[float, ...]
    """The learning rate of every parameter group."""
    seconds: float
    """Since the step before."""


def ends_stride(recipe: Recipe, step: int) -> bool:
    """Whether a step is the last of a stride or of an interval."""
    place = step % recipe.steps_per_interval
    return (place + 1) % recipe.steps_per_digest == 0 or place + 1 == recipe.steps_per_interval
