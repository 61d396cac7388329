"""Does and follows the steps of one compiled Keras model: what `fit` calls instead of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milepost_ml.digests import MODEL_PREFIX, compute_content_digest, split_state
from milepost_ml.errors import RecordingError
from milepost_ml.frameworks.keras_declaration import read_recorded_rates, set_rate
from milepost_ml.frameworks.keras_reading import Described
from milepost_ml.images import ContentImage
from milepost_ml.keras_training.device import load_keras
from milepost_ml.keras_training.training_step import StepOutput, TrainingStep, assign_values
from milepost_ml.keyed import Indices
from milepost_ml.run_folder import Progress
from milepost_ml.strides import RecordedStep, StepImages

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class KerasTracker:
    """The steps of a model whose optimizer is fresh, after `start`.

    `seconds` is what recording took of them.
    """

    def __init__(self, model: Any, described: Described) -> None:
        """Raises RecordingError: used-optimizer, unsupported-optimizer."""
        self.model, self.described = model, described
        self.optimizer = model.optimizer
        self.seconds = 0.0
        self._seed = b""
        self._rates: tuple[float, ...] = ()
        """Of the steps that an earlier process did."""
        if int(self.optimizer.iterations):
            raise RecordingError(
                "the optimizer has already taken steps, so its state at the start is not that of a"
                " fresh one. Compile the model anew before recording",
                slug="used-optimizer",
            )
        self._training = TrainingStep(
            described.graph, described.optimizer, described.layers, self.optimizer
        )
        held = len(self._training.trained)
        if held != len(self.optimizer._trainable_variables):
            raise RecordingError(
                f"the model trains {held} tensors, its optimizer was made for"
                f" {len(self.optimizer._trainable_variables)}. Compile the model after freezing or"
                " unfreezing layers",
                slug="unsupported-optimizer",
            )
        self._report = load_keras().tf.function(self._update_metrics, autograph=False)
        self._digest = self._compute_digest()
        self._clock = time.perf_counter()

    def get_model(self) -> dict[str, Array]:
        """The tensors of the model, as views."""
        return self._training.read_state()[0]

    def start(self, seed: bytes, weights: Mapping[str, Array], progress: Progress | None) -> None:
        """Give model and optimizer the state with which a run starts, or goes on.

        `weights` are those that the model does not have already.  Raises RecordingError
        (cannot-resume).
        """
        self._seed = seed
        variables = self._training.variables
        assign_values({name: variables[name] for name in weights}, weights)
        if progress is not None:
            self._rates = read_recorded_rates(self.optimizer, progress)
            assign_values(self._training.slots, split_state(progress.state)[1])
            self.optimizer.iterations.assign(progress.steps)
        self.remember()

    def pass_over(self, step: int) -> None:
        """Have the optimizer's learning rate as it was after a step of an earlier process.

        A callback may have set it then, and sets it anew at the beginning of an epoch.
        """
        if step >= 0:
            set_rate(self.optimizer, self._rates[step])

    def get_start(self) -> dict[str, Array]:
        """The tensors of snapshot 0; raises RecordingError (not-finite)."""
        for name, array in self.get_model().items():
            if not np.isfinite(array).all():
                raise RecordingError(
                    f"{name} holds NaN or infinity before training", slug="not-finite"
                )
        return {MODEL_PREFIX + name: array.copy() for name, array in self.get_model().items()}

    def is_unchanged(self) -> bool:
        """Whether the state is still what it was when `remember` was called."""
        return self._digest == self._compute_digest()

    def remember(self) -> None:
        """Note the state, at the end of an epoch or of all training."""
        self._digest = self._compute_digest()

    def run(
        self,
        step: int,
        records: Indices,
        rows: Sequence[Array],
        take_images: Callable[[], StepImages] | None,
    ) -> tuple[RecordedStep | None, dict[str, Any]]:
        """Do a step on a batch: what is recorded of it, and what `fit` tells its callbacks.

        Without `take_images` nothing is recorded.  Raises RecordingError (not-finite).
        """
        begin = time.perf_counter()
        images = take_images() if take_images is not None else None
        waited = time.perf_counter() - begin
        self._training.reseed(self._seed, step)
        output = self._training.run(rows[:-1], rows[-1])
        done = time.perf_counter()
        recorded = None
        if images is not None:
            recorded = self._record(step, records, output, images)
        self.seconds += waited + time.perf_counter() - done
        return recorded, dict(self._report(list(rows[:-1]), rows[-1], output.output, output.loss))

    def _record(
        self, step: int, records: Indices, output: StepOutput, images: StepImages
    ) -> RecordedStep:
        loss = float(output.loss)
        if not np.isfinite(loss):
            raise RecordingError(
                f"the loss of step {step} is {loss}: training diverged. There is nothing to verify;"
                " lower the learning rate and record again",
                slug="not-finite",
            )
        gradients = map(np.asarray, output.gradients)
        _fill(images.gradient, dict(zip(self._training.trained, gradients, strict=True)))
        model, slots = self._training.read_state()
        _fill(images.model, model)
        _fill(images.optimizer, slots)
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        return RecordedStep(images, records, loss, (float(output.rate),), seconds)

    def _update_metrics(
        self, inputs: Sequence[Any], target: Any, output: Any, loss: Any
    ) -> dict[str, Any]:
        """What Keras's own training function does beside the step."""
        tf = load_keras().tf
        given = inputs[0] if len(inputs) == 1 else tuple(inputs)
        self.model._loss_tracker.update_state(loss, sample_weight=tf.shape(inputs[0])[0])
        metrics: dict[str, Any] = self.model.compute_metrics(given, target, output, None)
        return metrics

    def _compute_digest(self) -> tuple[bytes, bytes, int]:
        model, slots = self._training.read_state()
        iterations = int(self.optimizer.iterations)
        return compute_content_digest(model), compute_content_digest(slots), iterations


def _fill(image: ContentImage, arrays: dict[str, Array]) -> None:
    image.fill(arrays[name].__array_interface__["data"][0] for name in image.names)
