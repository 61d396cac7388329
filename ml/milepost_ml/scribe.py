"""Writes a record while training goes on: digests, steps, snapshots, journal, in one thread.

Training hands over each step as a `StepImages` with a copy of the state; the thread hashes it and,
at the end of an interval, writes the interval's files.  The queue is as short as there are images,
so a slow disk slows training down instead of filling the memory.  An error of the disk stops the
record, not the training: it is kept in `error` and the run stays incomplete.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from milepost_consensus.payloads import CLASS
from milepost_consensus.step_digests import compute_gradient_commitment, compute_state_digest
from milepost_ml.digests import MODEL_PREFIX, OPTIMIZER_PREFIX, compute_batch_digest
from milepost_ml.distance import compute_distances
from milepost_ml.errors import RecordingError
from milepost_ml.files import (
    GRADIENTS,
    JOURNAL,
    MODEL,
    RECIPE,
    RUN,
    get_snapshot_name,
    get_steps_name,
    write_bytes,
)
from milepost_ml.images import ContentImage
from milepost_ml.recipe import (
    Recipe,
    compute_mean_rate,
    compute_rate_sum,
    count_elements,
    encode_recipe,
    get_model_specs,
    get_optimizer_specs,
    set_rates,
)
from milepost_ml.snapshots import TensorSpec, write_tensors

if TYPE_CHECKING:
    from milepost_ml.digests import Array

MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Copies of state that the thread may hold, but never fewer than MIN_IMAGES."""
MAX_IMAGES: Final = 4
MIN_IMAGES: Final = 2
"""The state of the last step is kept, because a run may end there; training fills the other."""


class StepImages:
    """Copies of what one step's digests cover."""

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

    def get_state(self) -> dict[str, Array]:
        """A snapshot's tensors, as views."""
        model, optimizer = self.model.get_arrays(), self.optimizer.get_arrays()
        return {MODEL_PREFIX + name: array for name, array in model.items()} | {
            OPTIMIZER_PREFIX + name: array for name, array in optimizer.items()
        }


class RecordedStep(NamedTuple):
    """One step as training hands it over."""

    images: StepImages
    records: Sequence[int]
    """Which records the batch held, in order."""
    loss: float
    rates: tuple[float, ...]
    """The learning rate of every parameter group."""
    seconds: float
    """Since the step before."""


class Scribe:
    """One record being written.  Everything but `take`, `put` and `close` runs in its thread."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        *,
        start: Mapping[str, Array],
        record_digests: Sequence[bytes],
        about: Mapping[str, object],
    ) -> None:
        """Writes snapshot 0 (`start`, a snapshot's tensors) and run.json; raises OSError.

        `recipe` declares no steps and rates yet; `about` is what run.json says besides progress.
        """
        self.error: Exception | None = None
        self.intervals = 0
        """Intervals wholly on disk; grows while training goes on."""
        self._folder, self._recipe, self._about = folder, recipe, dict(about)
        self._one_nan = recipe.profile != CLASS
        self._record_digests = record_digests
        self._rates: list[list[tuple[int, float]]] = [[] for _ in recipe.groups]
        self._elements = count_elements(recipe)
        self._steps = 0
        self._open: list[RecordedStep] = []
        """Steps of the interval that is not on disk yet."""
        self._entries = bytearray()
        self._gradients = bytearray()
        """What the steps files hold digests of; stays with the submitter."""
        self._last: StepImages | None = None
        self._last_model: dict[str, Array] = {}
        self._before = self._copy_parameters(start)
        (folder / "mileposts").mkdir()
        (folder / "steps").mkdir()
        (folder / JOURNAL).touch()
        (folder / GRADIENTS).touch()
        write_tensors(folder / get_snapshot_name(0), start)
        self._write_about(complete=False)
        self._free: queue.SimpleQueue[StepImages] = queue.SimpleQueue()
        first = StepImages(recipe)
        count = max(MIN_IMAGES, min(MAX_IMAGES, MAX_WAITING_BYTES // first.size_bytes))
        for images in (first, *(StepImages(recipe) for _ in range(count - 1))):
            self._free.put(images)
        self._work: queue.SimpleQueue[RecordedStep | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="milepost-scribe", daemon=True)
        self._thread.start()

    def take(self) -> StepImages:
        """Images to fill; waits until the thread is done with one."""
        return self._free.get()

    def put(self, step: RecordedStep) -> None:
        """Hand over a step; its images are the thread's from here on."""
        self._work.put(step)

    def close(self) -> None:
        """End the run: wait until all of it is on disk, or has failed."""
        self._work.put(None)
        self._thread.join()

    def finish(self) -> Recipe:
        """After `close`: write the recipe of all steps and the model; raises OSError."""
        assert not self._thread.is_alive()
        recipe = self._write_recipe()
        write_tensors(self._folder / MODEL, self._last_model)
        return recipe

    def write_complete(self) -> None:
        """Say in run.json that the record is whole; the last thing that is written."""
        self._write_about(complete=True)

    def _run(self) -> None:
        while (step := self._work.get()) is not None:
            self._attempt(lambda step=step: self._record(step))  # type: ignore[misc]
            if self._last is not None:
                self._free.put(self._last)
            self._last = step.images
        if self._open:
            self._attempt(self._close_interval)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            if self.error is None:
                action()
        except Exception as error:  # handed to the training thread, whatever it is
            self.error = error

    def _record(self, step: RecordedStep) -> None:
        images = step.images
        if self._one_nan:
            for image in (images.gradient, images.model, images.optimizer):
                image.unify_nans()
        digests = self._record_digests
        batch = compute_batch_digest(digests[index] for index in step.records)
        self._steps += 1
        post = compute_state_digest(
            self._steps, images.model.compute_digest(), images.optimizer.compute_digest()
        )
        loss = np.float32(step.loss).astype("<f4").tobytes()
        # Only a digest of the gradient's digest is public: who knows more has done the step.
        gradient = images.gradient.compute_digest()
        self._entries += batch + compute_gradient_commitment(gradient) + loss + post
        self._gradients += gradient
        for runs, rate in zip(self._rates, step.rates, strict=True):
            if runs and runs[-1][1] == rate:
                runs[-1] = (runs[-1][0] + 1, rate)
            else:
                runs.append((1, rate))
        self._open.append(step)
        if len(self._open) == self._recipe.steps_per_interval:
            self._close_interval()

    def _close_interval(self) -> None:
        images = self._open[-1].images
        state = images.get_state()
        for name, array in state.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise RecordingError(
                    f"milepost {self.intervals + 1} holds NaN or infinity in {name}: training"
                    f" diverged at or before step {self._steps - 1}. There is nothing to verify",
                    slug="not-finite",
                )
        write_bytes(self._folder / get_steps_name(self.intervals), bytes(self._entries))
        write_tensors(self._folder / get_snapshot_name(self.intervals + 1), state)
        after = self._copy_parameters(state)
        self._write_journal(after)
        self._last_model = {name: array.copy() for name, array in images.model.get_arrays().items()}
        self._before = after
        self._entries.clear()
        with (self._folder / GRADIENTS).open("ab") as file:
            file.write(self._gradients)
        self._gradients.clear()
        self._open.clear()
        if self.intervals == 0:
            self._write_recipe()  # so that interval 0 can be retraced while training goes on
        self.intervals += 1
        self._write_about(complete=False)

    def _copy_parameters(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return {
            item.name: state[MODEL_PREFIX + item.name].copy() for item in self._recipe.parameters
        }

    def _write_journal(self, after: Mapping[str, Array]) -> None:
        distances = compute_distances(self._before, after)
        line = {
            "interval": self.intervals,
            "steps": len(self._open),
            "loss": sum(step.loss for step in self._open) / len(self._open),
            "rate_sum": compute_rate_sum(
                [compute_mean_rate(step.rates, self._elements) for step in self._open]
            ),
            **distances._asdict(),
            "seconds": round(sum(step.seconds for step in self._open), 6),
        }
        with (self._folder / JOURNAL).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _write_recipe(self) -> Recipe:
        recipe = set_rates(self._recipe, self._steps, [tuple(runs) for runs in self._rates])
        write_bytes(self._folder / RECIPE, encode_recipe(recipe))
        return recipe

    def _write_about(self, *, complete: bool) -> None:
        progress = {"steps": self._steps, "intervals": self.intervals, "complete": complete}
        text = json.dumps({**self._about, **progress}, indent=2)
        write_bytes(self._folder / RUN, text.encode() + b"\n")


def make_folder(parent: Path, name: str) -> Path:
    """A new folder for a run: `parent`/`name`-0001, or the next free number.  Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    taken = [
        int(path.name.removeprefix(f"{name}-"))
        for path in parent.glob(f"{name}-*")
        if path.name.removeprefix(f"{name}-").isdecimal()
    ]
    number = max(taken, default=0) + 1
    while True:
        folder = parent / f"{name}-{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def get_now() -> str:
    """The time for people, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
