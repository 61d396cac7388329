"""The record of a run while it goes on: what becomes of a step, whichever framework did it.

Training hands over its steps and hears back what a person has to know: that the self-check of the
first interval is made, that the record had to be given up, that it is whole.  A refusal stops the
run; whatever else goes wrong stops the record and never the training.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from milepost_ml.errors import RecordingError
from milepost_ml.rates import validate_rates
from milepost_ml.recipe import Recipe
from milepost_ml.registration import Say, summarize
from milepost_ml.run_folder import Progress, release_folder
from milepost_ml.scribe import Scribe
from milepost_ml.selfcheck import RunningCheck
from milepost_ml.strides import RecordedStep, StepImages


def make_say(*, quiet: bool) -> Say:
    """How a run tells a person one line: on standard error, or not at all."""

    def say(text: str) -> None:
        if not quiet:
            print(f"milepost: {text}", file=sys.stderr, flush=True)

    return say


class Recording:
    """A folder that was begun, until `finish` makes a whole record of it."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        *,
        progress: Progress,
        record_digests: Sequence[bytes],
        about: Mapping[str, object],
        rates: Sequence[tuple[float, ...]],
        check: RunningCheck | None,
        say: Say,
    ) -> None:
        """The arguments of a `Scribe`; `rates`, of every step, if the run is registered."""
        self.folder = folder
        self.steps = progress.steps
        """How many were handed over, by whatever process."""
        self.stopped = False
        """Whether the record was given up, while training may go on."""
        self.finished = False
        self._rates, self._check, self._say = rates, check, say
        self._spent = self._trained = 0.0
        self._scribe = Scribe(
            folder, recipe, progress=progress, record_digests=record_digests, about=about
        )

    def take(self) -> StepImages:
        """Images to fill; waits until some are free."""
        return self._scribe.take()

    def put(self, step: RecordedStep) -> None:
        """A step was done; raises RecordingError if the record cannot hold what training gave."""
        begin = time.perf_counter()
        if self._rates:
            validate_rates(self.steps, step.rates, self._rates[self.steps])
        self._scribe.put(step)
        self.steps += 1
        self._trained += step.seconds
        self._raise_error()
        self._poll_check()
        self._spent += time.perf_counter() - begin

    @property
    def stride_is_open(self) -> bool:
        """Whether the last steps wait for images, as they do where a run ends early."""
        return not self.stopped and self._scribe.stride_is_open

    def end_stride(self, images: StepImages) -> None:
        """The images of the step that was put last, with which the run ends."""
        self._scribe.end_stride(images)

    def finish(self, *, seconds: float) -> None:
        """Write what is left, wait for the self-check, mark the record complete.

        `seconds` is what it took to follow the steps.  Raises RecordingError.
        """
        self.finished = True
        self._scribe.close()
        release_folder(self.folder)
        self._raise_error()
        if not self.steps:
            raise RecordingError("the run ended before its first step; nothing was recorded")
        if not self.stopped:
            self._complete(seconds)

    def _complete(self, seconds: float) -> None:
        try:
            recipe = self._scribe.finish()
            self._poll_check()
            if self._check is not None:
                self._tell(self._check.wait())
            self._scribe.write_complete()
        except OSError as error:
            self._give_up(error)
            return
        share = (self._spent + seconds) / max(self._trained, 1e-9)
        self._say(summarize(recipe, self.folder, planned=len(self._rates), share=share))

    def _raise_error(self) -> None:
        """What the scribe met stops the record; only a refusal stops the run as well."""
        error = self._scribe.error
        if isinstance(error, RecordingError):
            raise error
        if error is not None and not self.stopped:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.stopped = True
        self._say(
            f"warning: the record in {self.folder} is NOT COMPLETE and cannot be submitted:"
            f" {_describe(error)}. Training goes on without it"
        )

    def _poll_check(self) -> None:
        """Start the self-check when interval 0 is on disk; say what it found once it is done."""
        if self._check is None or not self._scribe.intervals:
            return
        try:
            self._tell(self._check.poll(self.folder))
        except OSError as error:
            self._check = None
            self._say(f"warning: the self-check could not be made: {_describe(error)}")

    def _tell(self, text: str | None) -> None:
        if text is not None:
            self._say(text)


def _describe(error: Exception) -> str:
    """An error in words; those of the system as people know them."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"
