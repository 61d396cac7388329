"""Writes a record while training goes on: digests, steps, snapshots, journal, in one thread.

Training hands over its steps, the last of each stride with a copy of the state; the thread hashes
it and, at the end of an interval, writes the interval's files, the snapshot last (`run_folder`
tells why).  The queue is as short as there are images, so a slow disk slows training down instead
of filling the memory.  Whatever goes wrong stops the record and not the training: it is kept in
`error`, and the run stays incomplete.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from milepost_consensus.payloads import CLASS
from milepost_consensus.step_digests import compute_gradient_commitment, compute_state_digest
from milepost_ml.digests import MODEL_PREFIX, compute_batch_digest, split_state
from milepost_ml.distance import compute_distances
from milepost_ml.errors import RecordingError
from milepost_ml.files import (
    BEGUN,
    GRADIENTS,
    JOURNAL,
    MODEL,
    RECIPE,
    TENSORS,
    get_snapshot_name,
    get_steps_name,
    sync_folder,
    write_bytes,
)
from milepost_ml.recipe import (
    Recipe,
    compute_mean_rate,
    compute_rate_sum,
    count_elements,
    encode_recipe,
    get_frozen_names,
    set_rates,
)
from milepost_ml.run_folder import Progress, append_synced, write_about
from milepost_ml.snapshots import write_tensors
from milepost_ml.strides import RecordedStep, StepImages
from milepost_ml.tensor_digests import MAX_BYTES, encode_row
from milepost_ml.updates import append_rate

if TYPE_CHECKING:
    from milepost_ml.digests import Array

MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Copies of state that the thread may hold, but never fewer than MIN_IMAGES."""
MAX_IMAGES: Final = 4
MIN_IMAGES: Final = 2
"""The state of the last step is kept, because a run may end there; training fills the other."""


class Scribe:
    """One record being written.  Everything but `take`, `put` and `close` runs in its thread.

    The folder was begun (`run_folder.begin_folder`), perhaps by another process.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        *,
        progress: Progress,
        record_digests: Sequence[bytes],
        about: Mapping[str, object],
    ) -> None:
        """Goes on where `progress` says.

        `recipe` declares no steps and rates yet; `about` is what run.json says besides progress.
        """
        self.error: Exception | None = None
        self.intervals = progress.intervals
        """Intervals wholly on disk; grows while training goes on."""
        self._folder, self._recipe, self._about = folder, recipe, dict(about)
        self._frozen = get_frozen_names(recipe)
        self._one_nan = recipe.profile != CLASS
        self._record_digests = np.frombuffer(b"".join(record_digests), np.uint8).reshape(-1, 32)
        self._rates = [list(runs) for runs in progress.rates] or [[] for _ in recipe.groups]
        self._elements = count_elements(recipe)
        self._steps = progress.steps
        self._collected: list[RecordedStep] = []
        """Steps of the stride that is not handed over yet."""
        self._open: list[RecordedStep] = []
        """Steps of the interval that is not on disk yet."""
        self._entries = bytearray()
        self._gradients = bytearray()
        """What the steps files hold digests of; stays with the submitter."""
        self._tensors = bytearray()
        """The first interval's digests by tensor; likewise."""
        self._last: StepImages | None = None
        self._last_model = {
            name: array.copy() for name, array in split_state(progress.state)[0].items()
        }
        self._before = self._copy_parameters(progress.state)
        self._free: queue.SimpleQueue[StepImages] = queue.SimpleQueue()
        first = StepImages(recipe)
        count = max(MIN_IMAGES, min(MAX_IMAGES, MAX_WAITING_BYTES // first.size_bytes))
        for images in (first, *(StepImages(recipe) for _ in range(count - 1))):
            self._free.put(images)
        self._work: queue.SimpleQueue[list[RecordedStep]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="milepost-scribe", daemon=True)
        self._thread.start()

    def take(self) -> StepImages:
        """Images to fill; waits until the thread is done with one."""
        return self._free.get()

    def put(self, step: RecordedStep) -> None:
        """Hand over a step; its images, if it has some, are the thread's from here on."""
        self._collected.append(step)
        if step.images is not None:
            self._work.put(self._collected)
            self._collected = []

    @property
    def stride_is_open(self) -> bool:
        """Whether the last steps wait for images, as they do where a run ends early."""
        return bool(self._collected)

    def end_stride(self, images: StepImages) -> None:
        """The images of the step that was put last, with which the run ends."""
        self.put(self._collected.pop()._replace(images=images))

    def close(self) -> None:
        """End the run: wait until all of it is on disk, or has failed."""
        self._work.put([])
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
        (self._folder / BEGUN).unlink(missing_ok=True)

    def _run(self) -> None:
        while stride := self._work.get():
            images = stride[-1].images
            assert images is not None
            self._attempt(lambda s=stride, i=images: self._record(s, i))  # type: ignore[misc]
            if self._last is not None:
                self._free.put(self._last)
            self._last = images
        if self._open:
            self._attempt(self._close_interval)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            if self.error is None:
                action()
        except Exception as error:  # handed to the training thread, whatever it is
            self.error = error

    def _record(self, stride: Sequence[RecordedStep], images: StepImages) -> None:
        if self._one_nan:
            images.unify_nans()
        for step in stride:
            self._entries += compute_batch_digest([self._record_digests[step.records].tobytes()])
            for runs, rate in zip(self._rates, step.rates, strict=True):
                append_rate(runs, 1, rate)
        self._steps += len(stride)
        post = compute_state_digest(
            self._steps, images.model.compute_digest(), images.optimizer.compute_digest()
        )
        losses = np.array([step.loss for step in stride], "<f4").tobytes()
        # Only a digest of the gradient's digest is public: who knows more has done the step.
        gradient = images.gradient.compute_digest()
        self._entries += compute_gradient_commitment(gradient) + losses + post
        self._gradients += gradient
        if self.intervals == 0 and len(self._tensors) < MAX_BYTES:
            self._tensors += encode_row(images)
        self._open += stride
        if len(self._open) == self._recipe.steps_per_interval:
            self._close_interval()

    def _close_interval(self) -> None:
        images = self._open[-1].images
        assert images is not None
        state = images.get_state()
        for name, array in state.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise RecordingError(
                    f"milepost {self.intervals + 1} holds NaN or infinity in {name}: training"
                    f" diverged at or before step {self._steps - 1}. There is nothing to verify",
                    slug="not-finite",
                )
        after = self._copy_parameters(state)
        append_synced(self._folder / JOURNAL, self._make_journal_line(after))
        append_synced(self._folder / GRADIENTS, self._gradients)
        write_bytes(self._folder / get_steps_name(self.intervals), self._entries)
        sync_folder(self._folder / "steps")
        if self.intervals == 0:
            write_bytes(self._folder / TENSORS, self._tensors)
            self._tensors.clear()
            self._write_recipe()  # so that interval 0 can be retraced while training goes on
        moving = {name: array for name, array in state.items() if name not in self._frozen}
        write_tensors(self._folder / get_snapshot_name(self.intervals + 1), moving)
        sync_folder(self._folder / "mileposts")
        self._last_model = {name: array.copy() for name, array in images.model.get_arrays().items()}
        self._before = after
        self._entries.clear()
        self._gradients.clear()
        self._open.clear()
        self.intervals += 1
        self._write_about(complete=False)

    def _copy_parameters(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return {
            item.name: state[MODEL_PREFIX + item.name].copy() for item in self._recipe.parameters
        }

    def _make_journal_line(self, after: Mapping[str, Array]) -> bytes:
        distances = compute_distances(self._before, after)
        line = {
            "interval": self.intervals,
            "steps": len(self._open),
            "loss": sum(step.loss for step in self._open) / len(self._open),
            "rate_sum": compute_rate_sum(
                [compute_mean_rate(step.rates, self._elements) for step in self._open]
            ),
            "rates": [
                (len(list(group)), rates)
                for rates, group in groupby(step.rates for step in self._open)
            ],
            **distances._asdict(),
            "seconds": round(sum(step.seconds for step in self._open), 6),
        }
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"

    def _write_recipe(self) -> Recipe:
        recipe = set_rates(self._recipe, self._steps, [tuple(runs) for runs in self._rates])
        write_bytes(self._folder / RECIPE, encode_recipe(recipe))
        return recipe

    def _write_about(self, *, complete: bool) -> None:
        write_about(
            self._folder,
            self._about,
            steps=self._steps,
            intervals=self.intervals,
            complete=complete,
        )
