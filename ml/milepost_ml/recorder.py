"""Records a training run: the five lines a training script adds.

    run = milepost.Run("lenet", model, optimizer, loss=F.cross_entropy, every=25)
    for x, y in run.batches(images, labels, batch_size=64, steps=500):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        run.log(loss)
    run.finish()

The run owns the order of the data and torch's generator, because callbacks alone cannot record a
repeatable run.  It watches the optimizer through its hooks: gradients and learning rate before each
step, the complete state after it.  What the loop does besides what it declared is refused where it
can be noticed at once, and found by the self-check otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import torch

from milepost_ml.arithmetic.session import Session
from milepost_ml.beginning import Beginning
from milepost_ml.budget import set_stride
from milepost_ml.declaration import Schedule, declare, foresee_rates
from milepost_ml.device import describe_environment
from milepost_ml.digests import compute_record_digests
from milepost_ml.errors import RecordingError
from milepost_ml.feed import Feed, Planned
from milepost_ml.initial import Distribution
from milepost_ml.loop import LoopOptions
from milepost_ml.preflight import make_data
from milepost_ml.recording import Recording, make_say
from milepost_ml.registration import ParentModel, Register
from milepost_ml.rehearsal import Loss, WholeStep
from milepost_ml.residual import read_tolerance
from milepost_ml.restoring import advance_schedule, get_arrays, restore_optimizer, set_arrays
from milepost_ml.run_settings import validate_plan
from milepost_ml.selfcheck import RunningCheck
from milepost_ml.subject import make_subject, require_subject
from milepost_ml.tracker import StepTracker
from milepost_ml.watch import StateWatch


class Run:
    """One training run and its record.

    `loss(output, target)` is the loss of one batch, `every` the number of steps in an interval.
    The record goes to a new folder `folder`/`name`-0001 (or the next number).  `seed` (32 bytes or
    an integer below 2^256) fixes the order of the data and dropout; drawn if left out.  With
    `selfcheck`, the first interval is retraced in a process of its own as soon as it is recorded.

    `profile` is the arithmetic (see `arithmetic.profiles`): "exact", "rounded", "class", None for
    the strongest of them, or "tolerance" with `tolerance`, by which share of its movement an
    interval may end off.  It is at work inside the loop over `batches` and nowhere else.  Puts
    torch on deterministic algorithms for the rest of the process, "class" also on one thread.
    Raises RecordingError for whatever cannot be recorded.

    The model starts as it is, unless `initial` (distributions by tensor name; the others follow the
    rule of their layer) derives its weights from the seed, or `parent` continues a judged model.
    `register` fixes everything about the run before the network gives its seed, and derives the
    weights if there is no parent.  A registered run keeps to the learning rates of `schedule`: a
    scheduler that steps once a step, all rates, or the optimizer's own if left out.

    A step digest covers `stride` steps: 1, unless digests would take more than a fortieth of the
    time, or as given.  With `resume`, the last run of this name goes on at its last snapshot if it
    was not finished, with the batches and bits it would have had; the scheduler given as `schedule`
    is brought to that step, and `first_step` tells it to whoever has more to bring there.

    `options` say what the loop does besides (`loop.LoopOptions`).
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        loss: Loss | None = None,
        every: int,
        folder: str | Path = "runs",
        seed: bytes | int | None = None,
        profile: str | None = None,
        tolerance: float | None = None,
        initial: Mapping[str, Distribution] | None = None,
        parent: ParentModel | None = None,
        register: Register | None = None,
        schedule: Schedule | None = None,
        stride: int | None = None,
        resume: bool = False,
        selfcheck: bool = True,
        quiet: bool = False,
        **options: Unpack[LoopOptions],
    ) -> None:
        self._tolerance_ppb = read_tolerance(tolerance, every=every, stride=stride, profile=profile)
        self._say = make_say(quiet=quiet)
        several = self._tolerance_ppb > 0
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
            selfcheck=RunningCheck(other_threads=several) if selfcheck else None,
            say=self._say,
        )
        self._options, self._profile = options, profile
        self._subject = make_subject(model, optimizer, loss, options, profile)
        self.folder: Path | None = None
        """Where the record is written; known, like `first_step`, once `batches` was called."""
        self.first_step = 0
        self._every, self._stride, self._schedule = every, stride, schedule
        self.arithmetic: Session | None = None
        """At work inside the loop's body; for adapters, which know when that is over."""
        self._record: tuple[Recording, StepTracker] | None = None

    @property
    def seed(self) -> bytes:
        """What order and randomness follow from; of a registered run once `batches` was called."""
        return self._beginning.seed

    def bind(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss | WholeStep,
        **options: Unpack[LoopOptions],
    ) -> None:
        """What a run without a model records, as the adapter of a framework found it.

        Raises RecordingError.
        """
        if self._subject is not None:
            raise RecordingError(
                "this run has a model already; a run that an adapter records gets none",
                slug="bad-plan",
            )
        chosen: LoopOptions = {**self._options, **options}
        self._subject = make_subject(model, optimizer, loss, chosen, self._profile)

    def batches(
        self, *data: Any, batch_size: int, steps: int
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """The batches of the run: tuples of tensors, inputs first, target last.

        `data` are tensors with equally many rows, or one map-style data set of such tuples.  The
        loop must do one `log` for every batch and one optimizer step for every batch, or for every
        `accumulate` of them.  Raises RecordingError, and OSError if the record cannot be begun.
        """
        if self._record is not None:
            raise RecordingError("run.batches() was called twice; a run is one loop")
        model, optimizer, loss, loop, profiles = require_subject(self._subject)
        tensors = make_data(data)
        validate_plan(
            records=len(tensors[0]), batch_size=batch_size, steps=steps, every=self._every
        )
        arrays = {f"data.{index}": tensor.numpy() for index, tensor in enumerate(tensors)}
        record_digests = compute_record_digests(arrays)
        beginning = self._beginning
        beginning.look_for_unfinished()
        profile, recipe = declare(
            model,
            optimizer,
            loss,
            tensors,
            profiles=beginning.choose_profiles(profiles),
            seed=beginning.seed,
            batch_size=batch_size,
            every=self._every,
            initial=beginning.initial,
            loop=loop,
            say=self._say,
            tolerance_ppb=self._tolerance_ppb,
        )
        stride = beginning.choose_stride(self._stride, every=self._every)
        recipe = set_stride(recipe, stride, model=model, loss=loss, data=tensors, profile=profile)
        recipe = beginning.settle(
            recipe,
            record_digests,
            steps,
            lambda: foresee_rates(self._schedule, optimizer, steps),
        )
        set_arrays(model, beginning.find_weights(recipe, lambda: get_arrays(model)))
        arithmetic = Session(profile, model, optimizer, loop.ema)
        try:
            watch = StateWatch(recipe, model, optimizer, profile, loop.ema)
            if beginning.progress is not None:
                # After the watch, which begins the averages.
                restore_optimizer(optimizer, model, beginning.progress, profile, loop.ema)
                advance_schedule(self._schedule, optimizer, beginning.progress)
            recording = beginning.open(
                watch.get_start,
                arrays,
                environment=describe_environment(recipe.device_class),
                note=profile.note,
            )
            self.folder, self.first_step = recording.folder, recording.steps
        except BaseException:
            arithmetic.release()
            raise
        tracker = StepTracker(
            model,
            optimizer,
            watch,
            recording.take,
            accumulate=recipe.accumulate,
            loss_dtype=profile.dtype,
            on_refusal=arithmetic.leave,
        )
        self._record, self.arithmetic = (recording, tracker), arithmetic
        feed = Feed(recipe, tensors, loop.augment)
        planned = feed.plan(range(self.first_step, steps))
        return self._iterate(feed, planned, arithmetic)

    def log(self, loss: torch.Tensor | float) -> None:
        """The loss of the current batch, once a batch.

        Raises RecordingError: not-finite, one-step-per-batch.
        """
        if self._record is None or self._record[0].finished:
            what = "run.log(loss) belongs inside the loop over run.batches()"
            raise RecordingError(what, slug="one-step-per-batch")
        recording, tracker = self._record
        if not recording.stopped:
            tracker.log(loss)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the loop, around code that is not part of the run, such as an evaluation.

        PyTorch computes there as it does without a run, with any operator; whatever happens to the
        model's values is not part of the record.
        """
        if self.arithmetic is None:
            raise RecordingError("run.paused() belongs inside the loop over run.batches()")
        with self.arithmetic.paused():
            yield

    def finish(self) -> Path:
        """End the run: write what is left, wait for the self-check, mark the record complete.

        A run may end before its planned steps; the record then holds the steps that were done.
        Returns the run's folder.
        """
        if self._record is None:
            raise RecordingError("run.finish() before run.batches(): nothing was recorded")
        recording, tracker = self._record
        if not recording.finished:
            assert self.arithmetic is not None
            self.arithmetic.leave()
            if tracker.is_open:
                self._settle()
            if recording.stride_is_open:
                recording.end_stride(tracker.end_stride())
            tracker.detach()
            self.arithmetic.release()
            recording.finish(seconds=tracker.seconds)
        return recording.folder

    # During training -----------------------------------------------------------------------------

    def _iterate(
        self, feed: Feed, planned: Iterable[Planned], arithmetic: Session
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        assert self._record is not None
        recording, tracker = self._record
        for each in planned:
            self._settle()
            records, rows, generator_seed = feed.get_batch(each.number)
            batch = arithmetic.convert(rows)
            if not recording.stopped:
                tracker.begin(each.step, records, batch, ends_stride=each.ends_stride)
            arithmetic.enter(generator_seed)
            try:
                yield batch
            finally:
                arithmetic.leave()
        self._settle()

    def _settle(self) -> None:
        """The loop is done with a batch: hand the step over."""
        assert self._record is not None
        recording, tracker = self._record
        step = None if recording.stopped else tracker.end()
        if step is None:
            return
        recording.put(step)
        if recording.stopped:
            tracker.detach()
