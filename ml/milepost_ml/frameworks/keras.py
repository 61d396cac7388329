"""Records what `model.fit` of Keras trains on TensorFlow: the lines a script adds.

    run = milepost.Run("mnist", every=100)
    model.fit(run.dataset(x, y, batch_size=64), epochs=5, shuffle=False, callbacks=[run.keras()])
    run.finish()

The run owns the order of the data.  A callback sees logs only, so the one that `keras` gives puts
the run's own training function into the model: `fit` asks for a step, and gets the very function
that a verifier traces, with gradient, loss and state of every step in the record.  Learning rates
may follow any schedule or callback; whatever else changes weights between two steps is refused.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from milepost_consensus.payloads import CLASS
from milepost_ml.digests import compute_dataset_root, compute_record_digests, get_dtype_name
from milepost_ml.errors import InvalidRecord, MissingFramework, RecordingError
from milepost_ml.frameworks.keras_data import make_arrays, make_dataset, validate_batch
from milepost_ml.frameworks.keras_reading import describe_compiled
from milepost_ml.frameworks.keras_tracker import KerasTracker
from milepost_ml.initial import Given
from milepost_ml.keras_graph import Outline
from milepost_ml.keras_training.device import configure_tensorflow, load_keras
from milepost_ml.keras_training.device_class import compute_device_class
from milepost_ml.keyed import Order, make_seed
from milepost_ml.recipe import Parameter, Recipe, set_rates, validate_recipe
from milepost_ml.recording import Recording, make_say
from milepost_ml.run_folder import (
    Begun,
    Progress,
    begin_folder,
    claim_folder,
    get_now,
    make_folder,
)
from milepost_ml.run_settings import validate_name, validate_plan, validate_settings
from milepost_ml.selfcheck import RunningCheck
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import Group

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class KerasRun:
    """One training run of a Keras model and its record.

    `every` is the number of steps in an interval; the record goes to a new folder
    `folder`/`name`-0001 (or the next number).  `seed` (32 bytes or an integer below 2^256) fixes
    the order of the data and dropout; drawn if left out.  With `selfcheck`, the first interval is
    retraced in a process of its own as soon as it is recorded.

    Puts TensorFlow on one thread and deterministic operators for the rest of the process, so it
    belongs before the first layer.  Raises RecordingError for whatever cannot be recorded.
    """

    def __init__(
        self,
        name: str,
        *,
        every: int,
        folder: str | Path = "runs",
        seed: bytes | int | None = None,
        profile: str | None = None,
        selfcheck: bool = True,
        quiet: bool = False,
    ) -> None:
        validate_name(name)
        validate_settings(every=every, profile=profile)
        if profile not in (None, CLASS):
            raise RecordingError(
                f"profile={profile!r} computes in PyTorch; Keras models are recorded with"
                f" profile={CLASS!r}",
                slug="bad-profile",
            )
        try:
            self.seed = make_seed(seed)
        except ValueError as error:
            raise RecordingError(str(error), slug="bad-plan") from error
        _prepare()
        self.folder: Path | None = None
        """Where the record is written; known once `fit` has begun."""
        self._name, self._every, self._parent = name, every, Path(folder)
        self._say = make_say(quiet=quiet)
        self._arrays: tuple[Array, ...] = ()
        self._batch_size = self._epoch_steps = 0
        self._order: Order | None = None
        self._record: tuple[Recording, KerasTracker] | None = None
        self._check = RunningCheck() if selfcheck else None
        self._steps = 0
        """At which step `fit` stands, recorded or not."""
        self._spent = 0.0

    def dataset(self, x: Any, y: Any, *, batch_size: int) -> Any:
        """The data for `fit`: batches in the order of the run, an epoch after the other.

        `x` is an array, or a tuple of arrays in the order of the model's inputs; all have as many
        rows as `y`.  What does not fill a batch is left out of its epoch.
        """
        if self._order is not None:
            raise RecordingError("run.dataset() was called twice; a run has one data set")
        self._arrays = make_arrays(x, y)
        records = len(self._arrays[0])
        validate_plan(records=records, batch_size=batch_size, steps=1, every=self._every)
        self._batch_size, self._epoch_steps = batch_size, records // batch_size
        self._order = Order(seed=self.seed, records=records, batch_size=batch_size)
        own = Order(seed=self.seed, records=records, batch_size=batch_size)
        return make_dataset(
            self._arrays, own, self._epoch_steps, lambda: self._steps // self._epoch_steps
        )

    def keras(self) -> Any:
        """The callback that records, for `fit`; it may go on over several calls of `fit`."""
        keras, run = load_keras().keras, self

        class Recording(keras.callbacks.Callback):  # type: ignore[name-defined]
            """Takes over the training function while `fit` runs."""

            def on_train_begin(self, logs: Any = None) -> None:
                run._begin(self.model, self.params)

            def on_train_end(self, logs: Any = None) -> None:
                self.model.train_function = None

        return Recording()

    def finish(self) -> Path:
        """End the run: write what is left, wait for the self-check, mark the record complete.

        Returns the run's folder.
        """
        if self._record is None:
            raise RecordingError("run.finish() before model.fit(): nothing was recorded")
        recording, tracker = self._record
        if not recording.finished:
            tracker.model.train_function = None
            if self._ends_epoch and not (recording.stopped or tracker.is_unchanged()):
                self._say(
                    "warning: the model was changed after its last step (restore_best_weights?);"
                    " the record ends with the weights of the last step"
                )
            recording.finish(seconds=self._spent + tracker.seconds)
        return recording.folder

    # Before the first step -----------------------------------------------------------------------

    def _begin(self, model: Any, plan: dict[str, Any]) -> None:
        """`fit` begins, for the first time or again."""
        if self._order is None:
            raise RecordingError("fit needs the run's own data: model.fit(run.dataset(x, y, ...))")
        if self._record is not None and self._record[0].finished:
            raise RecordingError("the run is finished; make another for another fit")
        planned = self._steps + self._epoch_steps * int(plan.get("epochs") or 1)
        validate_plan(
            records=len(self._arrays[0]),
            batch_size=self._batch_size,
            steps=planned,
            every=self._every,
        )
        described = describe_compiled(model)
        if self._record is None:
            tracker = KerasTracker(model, described, seed=self.seed)
            self._record = self._open_record(tracker, planned), tracker
        else:
            before = self._record[1]
            same = (described.graph, described.optimizer) == before.described[:2]
            if not same or model is not before.model or model.optimizer is not before.optimizer:
                raise RecordingError(
                    "the model was changed or compiled anew since the run began; make another run",
                    slug="undeclared-change",
                )
        model.train_function = self._train

    def _declare(self, tracker: KerasTracker) -> Recipe:
        graph, optimizer, _ = tracker.described
        try:
            tensors = list(Outline(graph).iterate_weights())
            trained = tuple(name for name, _, trained in tensors if trained)
            recipe = Recipe(
                device_class=compute_device_class(),
                seed=self.seed.hex(),
                data=tuple(
                    TensorSpec(f"data.{place}", get_dtype_name(array.dtype), array.shape)
                    for place, array in enumerate(self._arrays)
                ),
                batch_size=self._batch_size,
                steps=0,
                steps_per_interval=self._every,
                steps_per_digest=1,
                parameters=tuple(
                    Parameter(name, weight.shape, trained)
                    for name, weight, trained in tensors
                    if not weight.moving
                ),
                buffers=tuple(
                    TensorSpec(name, "F32", weight.shape)
                    for name, weight, _ in tensors
                    if weight.moving
                ),
                initial=tuple(Given() for _ in tensors),
                groups=(Group(trained, optimizer, ()),),
                graph=graph,
                profile=CLASS,
            )
            validate_recipe(set_rates(recipe, 1, [((1, 0.0),)]))
        except InvalidRecord as error:
            raise RecordingError(str(error), slug=error.slug) from error
        return recipe

    def _open_record(self, tracker: KerasTracker, planned: int) -> Recording:
        """Make the folder and write what is known so far; raises OSError."""
        recipe = self._declare(tracker)
        start = tracker.get_start()
        for name, array in start.items():
            if not np.isfinite(array).all():
                raise RecordingError(
                    f"{name} holds NaN or infinity before training", slug="not-finite"
                )
        data = {f"data.{place}": array for place, array in enumerate(self._arrays)}
        record_digests = compute_record_digests(data)
        tf, keras = load_keras()
        about = {
            "name": self._name,
            "created": get_now(),
            "batch_size": recipe.batch_size,
            "records": recipe.records,
            "every": self._every,
            "seed": recipe.seed,
            "profile": recipe.profile,
            "environment": {
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "python": platform.python_version(),
                "system": platform.system(),
                "processors": os.cpu_count() or 0,
                "threads": 1,
                "device_class": recipe.device_class,
            },
        }
        root = compute_dataset_root(record_digests).hex()
        begun = Begun(recipe, planned, rates=(), dataset_root=root, registration="", parent="")
        self.folder = make_folder(self._parent, self._name)
        claim_folder(self.folder)
        begin_folder(self.folder, begun, data=data, start=start, about=about)
        recording = Recording(
            self.folder,
            recipe,
            progress=Progress(start),
            record_digests=record_digests,
            about=about,
            planned=0,
            check=self._check,
            say=self._say,
        )
        self._say(
            f"recording {self._name} to {self.folder}, a milepost every {self._every} steps, with"
            f" profile {CLASS}: TensorFlow computes on one thread with deterministic operators"
        )
        return recording

    # During training -----------------------------------------------------------------------------

    def _train(self, iterator: Any) -> dict[str, Any]:
        """What `fit` calls for every step."""
        given = next(iterator)
        assert self._record is not None
        recording, tracker = self._record
        try:
            return self._do_step(given, recording, tracker)
        except RecordingError:
            tracker.model.train_function = None
            raise

    def _do_step(self, given: Any, recording: Recording, tracker: KerasTracker) -> dict[str, Any]:
        assert self._order is not None
        begin = time.perf_counter()
        records = self._order.get_indices(self._steps)
        rows = [array[records] for array in self._arrays]
        validate_batch(given, rows, self._steps)
        if self._ends_epoch and not tracker.is_unchanged():
            raise RecordingError(
                f"weights, buffers or the optimizer's state were changed before step {self._steps}"
                " by something other than the optimizer (another callback, load_weights?). A"
                " verifier would not repeat that",
                slug="undeclared-change",
            )
        self._spent += time.perf_counter() - begin
        take = None if recording.stopped else recording.take
        step, logs = tracker.run(self._steps, records, rows, take)
        begin = time.perf_counter()
        self._steps += 1
        if self._ends_epoch:
            tracker.remember()
        self._spent += time.perf_counter() - begin
        if step is not None:
            recording.put(step)
        return logs

    @property
    def _ends_epoch(self) -> bool:
        """Whether `fit` stands between two epochs, where its callbacks may have done anything."""
        return self._steps % self._epoch_steps == 0


def _prepare() -> None:
    """Set TensorFlow up; raises RecordingError where that is not possible any more."""
    try:
        policy = load_keras().keras.config.dtype_policy().name
    except MissingFramework as error:
        raise RecordingError(str(error), slug="unsupported-framework") from error
    if policy != "float32":
        raise RecordingError(
            f"Keras computes in {policy}; mixed precision cannot be recorded, use float32",
            slug="unsupported-model",
        )
    try:
        configure_tensorflow()
    except RuntimeError as error:
        raise RecordingError(
            "TensorFlow has computed on several threads already, which cannot be taken back. Make"
            " the run, milepost.Run(...), before the first layer or tensor of the script",
            slug="unsupported-framework",
        ) from error
