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

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milepost_consensus.payloads import CLASS
from milepost_ml.beginning import Beginning
from milepost_ml.digests import compute_record_digests
from milepost_ml.errors import MissingFramework, RecordingError
from milepost_ml.frameworks.keras_data import make_arrays, make_dataset, validate_batch
from milepost_ml.frameworks.keras_declaration import declare, describe_environment, foresee_rates
from milepost_ml.frameworks.keras_reading import Described, describe_compiled
from milepost_ml.frameworks.keras_tracker import KerasTracker
from milepost_ml.initial import Distribution
from milepost_ml.keras_training.device import configure_tensorflow, load_keras
from milepost_ml.keyed import Indices, Order
from milepost_ml.recording import Recording, make_say
from milepost_ml.registration import ParentModel, Register
from milepost_ml.run_settings import validate_plan
from milepost_ml.selfcheck import RunningCheck

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class KerasRun:
    """One training run of a Keras model and its record.

    `every` is the number of steps in an interval; the record goes to a new folder
    `folder`/`name`-0001 (or the next number).  `seed` (32 bytes or an integer below 2^256) fixes
    the order of the data and dropout; drawn if left out.  With `selfcheck`, the first interval is
    retraced in a process of its own as soon as it is recorded.

    The model starts as it is, unless `initial` (distributions by tensor name; the others follow the
    initializer of their layer) derives its weights from the seed, or `parent` continues a judged
    model.  `register` fixes everything about the run before the network gives its seed, and derives
    the weights if there is no parent.  A registered run keeps to the learning rates of its
    optimizer, or to those of `schedule`, one for every step, where callbacks set them.

    With `resume`, the last run of this name goes on at its last snapshot if it was not finished,
    with the batches and bits it would have had: `fit` begins with the epoch of that snapshot, and
    passes over the steps of it that are done, whose logs are empty.  A run with `resume` or
    `register` is one call of `fit`.

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
        initial: Mapping[str, Distribution] | None = None,
        parent: ParentModel | None = None,
        register: Register | None = None,
        schedule: Sequence[float] | None = None,
        resume: bool = False,
        selfcheck: bool = True,
        quiet: bool = False,
    ) -> None:
        self._say = make_say(quiet=quiet)
        self._beginning = Beginning(
            name,
            every=every,
            folder=folder,
            seed=seed,
            profile=profile,
            initial=initial,
            parent=parent,
            register=register,
            resume=resume,
            selfcheck=RunningCheck() if selfcheck else None,
            say=self._say,
        )
        if profile not in (None, CLASS):
            raise RecordingError(
                f"profile={profile!r} computes in PyTorch; Keras models are recorded with"
                f" profile={CLASS!r}",
                slug="bad-profile",
            )
        _prepare()
        self.folder: Path | None = None
        """Where the record is written; known, like `first_step`, once `fit` has begun."""
        self.first_step = 0
        self._every, self._resume, self._schedule = every, resume, schedule
        self._arrays: tuple[Array, ...] = ()
        self._batch_size = self._epoch_steps = 0
        self._orders: tuple[Order, Order] | None = None
        """For `fit` and for the thread that fetches its batches."""
        self._record: tuple[Recording, KerasTracker] | None = None
        self._steps = 0
        """At which step `fit` stands, recorded or not."""
        self._spent = 0.0

    @property
    def seed(self) -> bytes:
        """What order and randomness follow from; of a registered run once `fit` has begun."""
        return self._beginning.seed

    def dataset(self, x: Any, y: Any, *, batch_size: int) -> Any:
        """The data for `fit`: batches in the order of the run, an epoch after the other.

        `x` is an array, or a tuple of arrays in the order of the model's inputs; all have as many
        rows as `y`.  What does not fill a batch is left out of its epoch.
        """
        if self._orders is not None:
            raise RecordingError("run.dataset() was called twice; a run has one data set")
        self._arrays = make_arrays(x, y)
        records = len(self._arrays[0])
        validate_plan(records=records, batch_size=batch_size, steps=1, every=self._every)
        self._batch_size, self._epoch_steps = batch_size, records // batch_size
        # Keras looks at a few batches for their shapes before `fit` begins, and the seed is known.
        self._set_orders()
        return make_dataset(self._arrays, self._epoch_steps, self._get_records)

    def _set_orders(self) -> None:
        def make() -> Order:
            records = len(self._arrays[0])
            return Order(seed=self.seed, records=records, batch_size=self._batch_size)

        self._orders = make(), make()

    def _get_records(self, place: int) -> Indices:
        """Of a batch of the present epoch: Keras announces more epochs than it goes through."""
        assert self._orders is not None
        epoch = self._steps // self._epoch_steps
        return self._orders[1].get_indices(epoch * self._epoch_steps + place)

    def keras(self) -> Any:
        """The callback that records, for `fit`; it may go on over several calls of `fit`."""
        keras, run = load_keras().keras, self

        class RunCallback(keras.callbacks.Callback):  # type: ignore[name-defined]
            """Takes over the training function while `fit` runs."""

            def on_train_begin(self, logs: Any = None) -> None:
                run._begin(self.model, self.params)

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                run._validate_epoch(epoch)

            def on_train_end(self, logs: Any = None) -> None:
                _let_go(self.model)

        return RunCallback()

    def finish(self) -> Path:
        """End the run: write what is left, wait for the self-check, mark the record complete.

        Returns the run's folder.
        """
        if self._record is None:
            raise RecordingError("run.finish() before model.fit(): nothing was recorded")
        recording, tracker = self._record
        if not recording.finished:
            _let_go(tracker.model)
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
        if self._orders is None:
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
            tracker = KerasTracker(model, described)
            self._record = self._open(tracker, described, planned), tracker
            self._set_orders()
            # As Keras's own BackupAndRestore says where to begin.
            model._initial_epoch = self.first_step // self._epoch_steps
            self._steps = model._initial_epoch * self._epoch_steps
            tracker.pass_over(self._steps - 1)
        else:
            self._validate_again(self._record[1], model, described)
        model.train_function = self._train

    def _validate_again(self, before: KerasTracker, model: Any, described: Described) -> None:
        """Raises RecordingError if a further `fit` cannot be a part of the same run."""
        if self._is_one_fit:
            raise RecordingError(
                "fit was called again; a run with resume= or register= is one call of fit",
                slug="bad-plan",
            )
        same = (described.graph, described.optimizer) == before.described[:2]
        if not same or model is not before.model or model.optimizer is not before.optimizer:
            raise RecordingError(
                "the model was changed or compiled anew since the run began; make another run",
                slug="undeclared-change",
            )

    @property
    def _is_one_fit(self) -> bool:
        return self._resume or self._beginning.is_registered

    def _validate_epoch(self, epoch: int) -> None:
        """Raises RecordingError (bad-plan) if `fit` does not go through the epochs of the run."""
        if self._is_one_fit and epoch * self._epoch_steps != self._steps:
            raise RecordingError(
                f"fit begins epoch {epoch} at step {self._steps} of epochs of {self._epoch_steps}"
                " steps. Leave initial_epoch= and steps_per_epoch= out: a run with resume= or"
                " register= knows where it stands",
                slug="bad-plan",
            )

    def _open(self, tracker: KerasTracker, described: Described, planned: int) -> Recording:
        """Settle what the run is, and open its folder; raises OSError."""
        data = {f"data.{place}": array for place, array in enumerate(self._arrays)}
        record_digests = compute_record_digests(data)
        beginning = self._beginning
        beginning.look_for_unfinished()
        recipe = declare(
            described,
            self._arrays,
            seed=beginning.seed,
            batch_size=self._batch_size,
            every=self._every,
            initial=beginning.initial,
        )
        recipe = beginning.settle(
            recipe,
            record_digests,
            planned,
            lambda: foresee_rates(tracker.optimizer, self._schedule, planned),
        )
        weights = beginning.find_weights(recipe, tracker.get_model)
        tracker.start(beginning.seed, weights, beginning.progress)
        recording = beginning.open(
            tracker.get_start,
            data,
            environment=describe_environment(recipe.device_class),
            note="TensorFlow computes on one thread with deterministic operators",
        )
        self.folder, self.first_step = recording.folder, recording.steps
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
            _let_go(tracker.model)
            raise

    def _do_step(self, given: Any, recording: Recording, tracker: KerasTracker) -> dict[str, Any]:
        assert self._orders is not None
        begin = time.perf_counter()
        records = self._orders[0].get_indices(self._steps)
        rows = [array[records] for array in self._arrays]
        validate_batch(given, rows, self._steps)
        if self._steps < self.first_step:
            tracker.pass_over(self._steps)
            self._steps += 1
            return {}
        if (self._ends_epoch or self._steps == self.first_step) and not tracker.is_unchanged():
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


def _let_go(model: Any) -> None:
    """Have a later `fit` be Keras's own."""
    model.train_function = model._initial_epoch = None


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
