"""Trains a recipe of Keras layers step by step in TensorFlow, exactly as it was recorded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.batches import Batches
from milepost_ml.digests import (
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    compute_content_digest,
    split_state,
)
from milepost_ml.keras_graph import KerasGraph
from milepost_ml.keras_optimizers import KerasOptimizer
from milepost_ml.keras_training.building import build_layers, make_optimizer
from milepost_ml.keras_training.device import configure_tensorflow, load_keras
from milepost_ml.keras_training.training_step import TrainingStep, assign_values
from milepost_ml.recipe import Recipe, get_rates
from milepost_ml.steps import StepFailed, StepResult

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class _Built:
    """Layers, optimizer and traced step of a recipe, which only the stepper made last may use."""

    def __init__(self, graph: KerasGraph, declared: KerasOptimizer) -> None:
        self.optimizer: Any = make_optimizer(declared)
        self.training = TrainingStep(graph, declared, build_layers(graph), self.optimizer)
        self.user = object()


@functools.lru_cache(maxsize=1)
def _build(graph: KerasGraph, declared: KerasOptimizer, encoded: bytes) -> _Built:
    """What the intervals of a run share: TensorFlow keeps most of the memory that tracing takes.

    `encoded` tells apart what compares equal, such as 0.0 and -0.0.
    """
    return _Built(graph, declared)


class KerasStepper:
    """A training in progress.  `step` counts the steps done; call `load` before anything else.

    Another one made for the same recipe ends its use.  Sets TensorFlow up for the whole process, as
    the recorder does.
    """

    def __init__(self, recipe: Recipe, data: Path) -> None:
        """Raises InvalidRecord for a data file that does not fit the recipe."""
        assert isinstance(recipe.graph, KerasGraph)
        (group,) = recipe.groups
        assert isinstance(group.optimizer, KerasOptimizer)
        # As records are made; a worker may see a GPU, because PyTorch computes on it.
        load_keras().tf.config.set_visible_devices([], "GPU")
        configure_tensorflow()
        self._recipe = recipe
        self._batches = Batches(recipe, data)
        self._unfit: str | None = None
        encoded = msgspec.json.encode((recipe.graph, group.optimizer))
        try:
            self._built = _build(recipe.graph, group.optimizer, encoded)
            self._built.user = self._me = object()
        except _get_failures() as error:
            self._unfit = _describe(error)
        self._gradients: dict[str, Array] = {}
        self.step = 0

    def load(self, step: int, tensors: Mapping[str, Array]) -> None:
        """Continue from the state after `step` steps, given as a snapshot's checked tensors."""
        self.step = step
        if self._unfit is None:
            model, slots = split_state(dict(tensors))
            assign_values(self._training.variables, model)
            assign_values(self._training.slots, slots)
            self._optimizer.iterations.assign(step)

    @property
    def _training(self) -> TrainingStep:
        assert self._built.user is self._me, "another stepper has taken over"
        return self._built.training

    @property
    def _optimizer(self) -> Any:
        return self._built.optimizer

    def get_batch_digest(self, step: int) -> bytes:
        """The digest of a step's batch, from the data themselves."""
        return self._batches.compute_digest(step)

    def run_step(self) -> StepResult:
        """A stride of one step; see `run_stride`."""
        return self.run_stride(1)

    def run_stride(self, count: int) -> StepResult:
        """Do the next steps, and hash what comes out at their end.

        Raises StepFailed where TensorFlow cannot.
        """
        stride = range(self.step, self.step + count)
        batch = b"".join(self.get_batch_digest(step) for step in stride)
        if self._unfit is not None:
            raise StepFailed(self._unfit, batch)
        losses = []
        for _ in stride:
            try:
                found = self._advance()
            except _get_failures() as error:
                raise StepFailed(_describe(error), batch) from error
            losses.append(np.asarray(found.loss, dtype="<f4").tobytes())
        values = map(np.asarray, found.gradients)
        self._gradients = dict(zip(self._training.trained, values, strict=True))
        model, slots = self._training.read_state()
        post = compute_state_digest(
            self.step, compute_content_digest(model), compute_content_digest(slots)
        )
        return StepResult(batch, compute_content_digest(self._gradients), b"".join(losses), post)

    def _advance(self) -> Any:
        """Loss and gradients of one more step."""
        rows = self._batches.get_rows(self.step)
        (rate,) = get_rates(self._recipe, range(self.step, self.step + 1))
        self._optimizer.learning_rate.assign(rate)
        self._training.reseed(self._recipe.seed_bytes, self.step)
        arrays = [rows[spec.name] for spec in self._recipe.data]
        found = self._training.run(arrays[:-1], arrays[-1])
        self.step += 1
        return found

    def get_gradients(self) -> dict[str, Array]:
        """Those of the last step, by parameter; views."""
        return self._gradients

    def get_parameters(self) -> dict[str, Array]:
        """The parameters under their own names; views that the next step changes."""
        model, _ = self._training.read_state()
        return {item.name: model[item.name] for item in self._recipe.parameters}

    def get_state(self) -> dict[str, Array]:
        """The complete state as a snapshot's tensors; views."""
        model, slots = self._training.read_state()
        return {MODEL_PREFIX + name: array for name, array in model.items()} | {
            OPTIMIZER_PREFIX + name: array for name, array in slots.items() if self.step
        }


def _get_failures() -> tuple[type[Exception], ...]:
    """What TensorFlow raises when a step cannot be computed on any machine."""
    errors = load_keras().tf.errors
    return (
        *(RuntimeError, IndexError, TypeError, ValueError, NotImplementedError, ArithmeticError),
        *(errors.InvalidArgumentError, errors.OutOfRangeError, errors.UnimplementedError),
    )


def _describe(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
