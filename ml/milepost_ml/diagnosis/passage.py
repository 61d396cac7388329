"""One interval of a run folder, laid open to whoever looks for what differs in it.

`find_difference` trains it again up to the first stride that does not repeat, and keeps what is
needed to train that stride once more: in another way, or with a closer look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from milepost_consensus.step_digests import compute_gradient_commitment
from milepost_consensus.tolerance import TOLERANCE
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA, FolderFiles
from milepost_ml.recipe import Recipe, get_steps, get_strides
from milepost_ml.record_files import StepCommitment, read_state, read_steps
from milepost_ml.recorded import read_recorded
from milepost_ml.residual import compute_residual
from milepost_ml.stepping import Stepper, make_stepper
from milepost_ml.steps import StepFailed, StepResult
from milepost_ml.tensor_digests import TensorDigests, read_tensor_digests

if TYPE_CHECKING:
    from milepost_ml.digests import Array

PARTS: Final = ("batch", "gradient", "loss", "state")
"""What a stride commits to, in the order in which one follows from the other."""
FAILED: Final = "failed"
END: Final = "end"
"""What differs under profile `tolerance`, where only the interval's end is compared."""
LOSS_NOISE: Final = 1e-3
"""A share of the loss by which another machine's arithmetic does not move it in a few steps."""


class Passage(NamedTuple):
    """An interval with what was recorded of it."""

    folder: Path
    recipe: Recipe
    interval: int
    rows: Sequence[StepCommitment]
    start: Mapping[str, Array]
    """The snapshot before."""
    end: Mapping[str, Array]
    """The snapshot after."""
    tensors: Sequence[TensorDigests]
    """Digests by tensor of the first strides, where the recorder kept them."""

    @property
    def steps(self) -> range:
        return get_steps(self.recipe, self.interval)

    @property
    def strides(self) -> list[range]:
        return get_strides(self.recipe, self.interval)

    def get_tensors(self, place: int) -> TensorDigests | None:
        """Digests by tensor of a stride, if the recorder kept them."""
        return self.tensors[place] if place < len(self.tensors) else None

    @property
    def data(self) -> Path:
        return self.folder / DATA

    @property
    def has_tolerance(self) -> bool:
        """Whether the interval's end is compared, and not the bits of every stride."""
        return self.recipe.profile == TOLERANCE


def open_passage(folder: Path, interval: int) -> Passage:
    """An interval of a run folder; raises InvalidRecord for files that cannot be read."""
    files, recipe = FolderFiles(folder), read_recorded(folder)
    if not 0 <= interval < recipe.intervals:
        raise InvalidRecord(f"the run has no interval {interval}", slug="incomplete")
    return Passage(
        folder=folder,
        recipe=recipe,
        interval=interval,
        rows=read_steps(files, recipe, interval),
        start=read_state(files, recipe, interval),
        end=read_state(files, recipe, interval + 1),
        tensors=(read_tensor_digests(folder, recipe) or ()) if interval == 0 else (),
    )


class Point(NamedTuple):
    """A state from which training can go on."""

    step: int
    state: Mapping[str, Array]


class Difference(NamedTuple):
    """The first stride that does not repeat; under profile `tolerance` the whole interval."""

    place: int
    """The number of the stride in its interval."""
    steps: range
    parts: tuple[str, ...]
    """What differs in it, of PARTS; or FAILED or END alone."""
    before: Point
    """The state from which it was trained."""
    earlier: Point
    """The state before the stride before, if the interval has one; otherwise the same."""
    result: StepResult | None
    """What came out, also in the next two; None where it failed."""
    gradients: Mapping[str, Array]
    state: Mapping[str, Array]
    failure: str = ""

    @property
    def part(self) -> str:
        return self.parts[0]


def compare(result: StepResult, row: StepCommitment) -> tuple[str, ...]:
    """In which of PARTS a retrained stride differs from the recorded one."""
    mine = (result.batch, compute_gradient_commitment(result.gradient), result.loss, result.post)
    return tuple(part for part, got, said in zip(PARTS, mine, row, strict=True) if got != said)


def find_difference(passage: Passage) -> Difference | None:
    """Train the interval again up to the first difference; None if there is none."""
    if passage.has_tolerance:
        return _measure_whole(passage)
    stepper = make_stepper(passage.recipe, passage.data)
    before = earlier = Point(passage.steps.start, passage.start)
    stepper.load(*before)
    for place, (stride, row) in enumerate(zip(passage.strides, passage.rows, strict=True)):
        try:
            result = stepper.run_stride(len(stride))
        except StepFailed as failure:
            return Difference(
                place, stride, (FAILED,), before, earlier, None, {}, {}, failure=str(failure)
            )
        parts = compare(result, row)
        if parts:
            gradients = _copy(stepper.get_gradients())
            state = _copy(stepper.get_state())
            return Difference(place, stride, parts, before, earlier, result, gradients, state)
        before, earlier = Point(stride.stop, _copy(stepper.get_state())), before
    return None


def _measure_whole(passage: Passage) -> Difference | None:
    """Under profile `tolerance`: the interval, if its end is beyond the bound."""
    stepper = make_stepper(passage.recipe, passage.data)
    start = Point(passage.steps.start, passage.start)
    stepper.load(*start)
    results = []
    for row in passage.rows:
        try:
            results.append(stepper.run_step())
        except StepFailed as failure:
            parts = (FAILED,)
            return Difference(
                0, passage.steps, parts, start, start, None, {}, {}, failure=str(failure)
            )
        if results[-1].batch != row.batch:
            break
    else:
        if is_within(passage, stepper):
            return None
    whole = StepResult(
        b"".join(each.batch for each in results),
        results[-1].gradient,
        b"".join(each.loss for each in results),
        results[-1].post,
    )
    agrees = len(results) == len(passage.rows) and results[-1].batch == passage.rows[-1].batch
    return Difference(
        place=0,
        steps=passage.steps,
        parts=(END,) if agrees else ("batch",),
        before=start,
        earlier=start,
        result=whole,
        gradients=_copy(stepper.get_gradients()),
        state=_copy(stepper.get_state()),
    )


def is_within(passage: Passage, stepper: Stepper) -> bool:
    """Whether a training that reached the interval's end is near enough to the recorded end."""
    recipe = passage.recipe
    found = compute_residual(recipe, stepper.get_state(), end=passage.end, start=passage.start)
    return found.ppb <= recipe.tolerance_ppb


def get_recorded_losses(passage: Passage, difference: Difference) -> Array:
    """The logged losses of the difference's steps, float32."""
    rows = passage.rows if passage.has_tolerance else [passage.rows[difference.place]]
    return np.frombuffer(b"".join(row.loss for row in rows), "<f4")


def find_turn(passage: Passage, difference: Difference) -> int | None:
    """The first step of the difference whose loss is another one; None if no loss is."""
    if difference.result is None:
        return None
    said = get_recorded_losses(passage, difference)
    got = np.frombuffer(difference.result.loss, "<f4")
    said = said[: len(got)]
    noise = LOSS_NOISE * np.abs(said) if passage.has_tolerance else 0
    (places,) = np.nonzero(np.abs(got - said) > noise)
    return difference.steps[int(places[0])] if len(places) else None


def _copy(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in tensors.items()}
