"""Follows one training step from its batch to its logged loss, and insists on the declared order.

The optimizer's hooks tell when gradients are ready and when the state is new; `log` tells the loss.
A step is one batch (or as many as it accumulates), one `run.log(loss)` for each, and one
`opt.step()`; whatever else the loop does between two batches must leave weights, buffers, settings
and modes as they were declared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from milepost_ml.errors import RecordingError
from milepost_ml.keyed import Indices
from milepost_ml.optimizing import average
from milepost_ml.preflight import get_settings, read_rates
from milepost_ml.strides import RecordedStep, StepImages
from milepost_ml.watch import StateWatch

FLOAT32_LIMIT: Final = 2.0**128 - 2.0**103
"""What is not below it in size is no finite number once it is rounded to float32."""


class _Pending:
    """The step that is going on: what the hooks and the loop have told so far."""

    def __init__(self, number: int, *, ends_stride: bool) -> None:
        self.number = number
        self.ends_stride = ends_stride
        self.records: list[Indices] = []
        """Of every batch so far."""
        self.batch: tuple[torch.Tensor, ...] = ()
        """The current one."""
        self.losses: list[float] = []
        self.rates: tuple[float, ...] = ()
        self.images: StepImages | None = None
        self.differentiated = self.stepped = False

    @property
    def begun(self) -> int:
        """How many batches the loop got."""
        return len(self.records)


class StepTracker:
    """Attached to an optimizer until `detach`.  `seconds` is the time it took of the training."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        watch: StateWatch,
        take_images: Callable[[], StepImages],
        *,
        accumulate: int = 1,
        loss_dtype: torch.dtype = torch.float32,
        on_refusal: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_refusal` is called before the loop hears that it left what it declared."""
        self._accumulate, self._loss_dtype, self._on_refusal = accumulate, loss_dtype, on_refusal
        self.seconds = 0.0
        self._optimizer, self._watch, self._take_images = optimizer, watch, take_images
        self._settings = get_settings(optimizer)
        self._modules = list(model.modules())
        self._modes = [module.training for module in self._modules]
        self._pending: _Pending | None = None
        self._clock = 0.0
        self._hooks = [
            optimizer.register_step_pre_hook(self._guard(self._before_step)),
            optimizer.register_step_post_hook(self._guard(self._after_step)),
        ]

    @property
    def is_open(self) -> bool:
        """Whether the loop has begun a step's last batch and not only fetched it."""
        pending = self._pending
        return pending is not None and (pending.stepped or len(pending.losses) == self._accumulate)

    def detach(self) -> None:
        """Let the optimizer go; a batch that was fetched and not used is forgotten."""
        for hook in self._hooks:
            hook.remove()
        self._pending = None

    def _guard(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, which tells of a refusal before the loop hears it."""

        def guarded(*args: Any) -> None:
            try:
                hook(*args)
            except RecordingError:
                self._on_refusal()
                raise

        return guarded

    def begin(
        self, step: int, records: Indices, batch: tuple[torch.Tensor, ...], *, ends_stride: bool
    ) -> None:
        """The loop gets a batch of a step."""
        if self._pending is None:
            self._clock = self._clock or time.perf_counter()
            self._pending = _Pending(step, ends_stride=ends_stride)
        self._pending.records.append(records)
        self._pending.batch = batch

    def log(self, loss: torch.Tensor | float) -> None:
        """The loss of the current batch; raises RecordingError (not-finite, one-step-per-batch)."""
        self._guard(self._log)(loss)

    def _log(self, loss: torch.Tensor | float) -> None:
        pending = self._pending
        if pending is None or len(pending.losses) == pending.begun:
            raise RecordingError(
                "run.log(loss) belongs inside the loop over run.batches(), once per batch",
                slug="one-step-per-batch",
            )
        if isinstance(loss, torch.Tensor) and (loss.numel() != 1 or loss.dtype != self._loss_dtype):
            raise RecordingError(
                f"run.log was given {loss.dtype} {list(loss.shape)}; it takes the one"
                f" {self._loss_dtype} number that loss= computes"
            )
        value = loss.item() if isinstance(loss, torch.Tensor) else float(loss)
        if not abs(value) < FLOAT32_LIMIT:  # also true of NaN
            raise RecordingError(
                f"the loss of step {pending.number} is {value}: training diverged. There is nothing"
                " to verify; lower the learning rate and record again",
                slug="not-finite",
            )
        pending.losses.append(value)

    def end(self) -> RecordedStep | None:
        """The loop is done with its batch: the step, or None if that goes on.

        Raises RecordingError: one-step-per-batch, undeclared-change.
        """
        pending = self._pending
        if pending is None:
            return None
        begin = time.perf_counter()
        logged, last = len(pending.losses) == pending.begun, pending.begun == self._accumulate
        if not logged or (last and not pending.stepped):
            missing = "run.log(loss)" if pending.stepped or not last else "opt.step()"
            raise RecordingError(
                f"{missing} was not called for step {pending.number}; the loop must call"
                f" run.log(loss) once for every batch and opt.step() {self._describe_pace()}",
                slug="one-step-per-batch",
            )
        if not last:
            self._validate_declared(pending)
            return None
        self._watch.validate_unchanged()
        seconds, self._clock, self._pending = begin - self._clock, begin, None
        self.seconds += time.perf_counter() - begin
        return RecordedStep(
            pending.images,
            np.concatenate(pending.records) if self._accumulate > 1 else pending.records[0],
            average(pending.losses),
            pending.rates,
            seconds,
        )

    def end_stride(self) -> StepImages:
        """The images of a stride in which the run ends; raises RecordingError (undeclared-change).

        Only between two steps, of which the last did not end its stride.
        """
        self._watch.validate_unchanged()
        images = self._take_images()
        self._watch.copy_last(images)
        return images

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        begin = time.perf_counter()
        pending = self._pending
        if pending is None or pending.differentiated:
            raise RecordingError(
                "opt.step() was called twice for one batch, or outside the loop over"
                " run.batches(). A recorded step is one batch and one opt.step()",
                slug="one-step-per-batch",
            )
        if pending.begun < self._accumulate:
            raise RecordingError(
                f"opt.step() was called after batch {pending.begun} of {self._accumulate} that"
                f" accumulate= says make step {pending.number}",
                slug="one-step-per-batch",
            )
        # The hook gets opt.step's own arguments, the optimizer first.
        if any(value is not None for value in (*args[1:], *kwargs.values())):
            raise RecordingError(
                "opt.step(closure) cannot be recorded; compute loss and gradients in the loop and"
                " call opt.step()",
                slug="closure",
            )
        if getattr(optimizer, "grad_scale", None) is not None:
            raise RecordingError(
                "a GradScaler made this step; its scale is state outside every snapshot. bfloat16"
                " needs none: autocast='bfloat16'",
                slug="grad-scaler",
            )
        self._validate_declared(pending)
        pending.rates = read_rates(optimizer)
        if pending.ends_stride:
            pending.images = self._take_images()
        self._watch.follow_gradients(pending.images)
        pending.differentiated = True
        self.seconds += time.perf_counter() - begin

    def _after_step(self, *_: object) -> None:
        begin = time.perf_counter()
        pending = self._pending
        assert pending is not None
        self._watch.follow_step(pending.images)
        pending.stepped = True
        self.seconds += time.perf_counter() - begin

    def _describe_pace(self) -> str:
        if self._accumulate > 1:
            return f"once for every {self._accumulate} of them"
        return (
            "too (a loop that accumulates gradients says so: accumulate=; a GradScaler skips steps)"
        )

    def _validate_declared(self, pending: _Pending) -> None:
        """Raises RecordingError if something is not as it was declared."""
        if [module.training for module in self._modules] != self._modes:
            raise RecordingError(
                f"the model was switched to another mode at step {pending.number}; call"
                " model.train() again after validation",
                slug="wrong-mode",
            )
        settings = get_settings(self._optimizer)
        if settings != self._settings:
            raise RecordingError(
                f"the optimizer's settings changed at step {pending.number} from"
                f" {self._settings} to {settings}; only the learning rate may change (schedules"
                " that cycle momentum: cycle_momentum=False)",
                slug="undeclared-change",
            )
        if any(tensor._version for tensor in pending.batch):
            raise RecordingError(
                f"the batch of step {pending.number} was changed in place; put the computation into"
                " the model, or change the data before recording",
                slug="undeclared-change",
            )
