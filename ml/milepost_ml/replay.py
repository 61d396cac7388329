"""Retraces an interval of a record: trains it again and compares every step with its commitment.

The pre-state of a stride is, by induction, the one the submitter committed: as long as all strides
before it agreed, so did their states.  So the first that differs is the submitter's own
contradiction.  One with a step that the framework cannot compute at all (shapes that do not fit, an
index out of range) has the digest "step-failed" over its pre-state and batches, which every
verifier gets alike.  A stride is named by its first step, and is that step unless the recipe says
otherwise.  Under profile `tolerance` only the interval's end is compared (residual.py), and the
answer about its last step stands for the whole.

Importing this module loads no framework; retracing does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost_consensus.crypto import ZERO_DIGEST, compute_digest
from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_consensus.merkle import compute_path, compute_root
from milepost_consensus.payloads import Submit
from milepost_consensus.step_digests import (
    compute_beyond_digest,
    compute_gradient_commitment,
    compute_step_digest,
    compute_work_digest,
)
from milepost_consensus.tolerance import TOLERANCE
from milepost_ml.digests import compute_snapshot_digest
from milepost_ml.distance import compute_distance_ppb
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA, FolderFiles, RecordFiles, get_snapshot_name, get_steps_name
from milepost_ml.recipe import (
    Recipe,
    compute_recipe_digest,
    get_snapshot_specs,
    get_steps,
    get_strides,
)
from milepost_ml.record_files import (
    StepCommitment,
    compute_step_digests,
    get_parameters,
    read_recipe,
    read_state,
    read_steps,
)
from milepost_ml.recorded import read_recorded
from milepost_ml.residual import Residual, repeat_interval
from milepost_ml.snapshots import encode_tensors, read_tensors
from milepost_ml.stepping import Stepper, make_stepper
from milepost_ml.steps import StepFailed

if TYPE_CHECKING:
    from milepost_ml.digests import Array

AGREES: Final = ""
FAILED: Final = "failed"


class Retraced(NamedTuple):
    """What retracing an interval found."""

    agrees: bool
    step: int | None
    """The first step of the first stride that differs, counted from the start of the run; None if
    none does."""
    leaf: bytes
    """The committed digest of that step; empty, like the next four, if none differs."""
    path: tuple[bytes, ...]
    """Its inclusion path under the interval's root."""
    recomputed: bytes
    """The digest this machine got for the same step."""
    pre_state: bytes
    """The state before it as a safetensors file; empty if it is the interval's snapshot."""
    part: str
    """The first part of the stride that differs: batch, gradient, loss, state, or failed; under
    profile `tolerance` what is furthest off, also of an interval that agrees."""
    work_digest: bytes
    """Keyed to the verifier, over the gradient of `work_step`; zero if none was got."""
    distance_ppb: int
    """From the retrained end to the submitted end, in 10^-9 of the interval's movement; 0 where
    retracing stopped at the step that differs."""
    trained: int
    """How many steps this took, those for `pre_state` included."""
    seconds: float
    gradients: tuple[bytes, ...] = ()
    """Content digests of the gradients with which the strides end, if all agree in all bits."""


class _Interval(NamedTuple):
    """An interval with its commitments."""

    files: RecordFiles
    recipe: Recipe
    number: int
    pre: bytes
    """State digest of the interval's snapshot."""
    rows: list[StepCommitment]
    leaves: list[bytes]

    @property
    def steps(self) -> range:
        return get_steps(self.recipe, self.number)

    @property
    def strides(self) -> list[range]:
        return get_strides(self.recipe, self.number)

    def get_place(self, step: int) -> int:
        """The number of the stride that begins at a step."""
        place, inside = divmod(step - self.steps.start, self.recipe.steps_per_digest)
        if step not in self.steps or inside:
            raise InvalidRecord(f"no step digest of interval {self.number} begins at step {step}")
        return place

    def get_committed_state(self, step: int) -> bytes:
        """The digest of the state before a stride, as committed."""
        place = self.get_place(step)
        return self.rows[place - 1].post if place else self.pre


def _open_interval(submit: Submit, files: RecordFiles, interval: int) -> _Interval:
    """The commitments of an interval, checked against what the submission anchored."""
    data, recipe = read_recipe(files)
    if compute_recipe_digest(data) != submit.recipe:
        raise InvalidRecord("recipe.json is not the recipe that was submitted")
    if not 0 <= interval < min(recipe.intervals, len(submit.step_roots)):
        raise InvalidRecord(f"the run has no interval {interval}")
    rows = read_steps(files, recipe, interval)
    leaves = compute_step_digests(submit.snapshots[interval], rows)
    if compute_root(leaves) != submit.step_roots[interval]:
        raise InvalidRecord(
            f"{get_steps_name(interval)} holds other step digests than were submitted"
        )
    if rows[-1].post != submit.snapshots[interval + 1]:
        raise InvalidRecord(
            f"the steps of interval {interval} do not end in snapshot {interval + 1}"
        )
    return _Interval(files, recipe, interval, submit.snapshots[interval], rows, leaves)


def get_step_commitment(
    submit: Submit, files: RecordFiles, interval: int, step: int
) -> tuple[bytes, tuple[bytes, ...]]:
    """The committed digest of the stride that begins at a step, with its path under the root.

    Loads no framework.

    Raises InvalidRecord where the record does not hold what was submitted.
    """
    opened = _open_interval(submit, files, interval)
    place = opened.get_place(step)
    return opened.leaves[place], compute_path(opened.leaves, place)


def _read_committed_state(opened: _Interval, snapshot: int, expected: bytes) -> dict[str, Array]:
    """A snapshot of the record, which must be the committed one."""
    state = read_state(opened.files, opened.recipe, snapshot)
    step = min(snapshot * opened.recipe.steps_per_interval, opened.recipe.steps)
    if compute_snapshot_digest(step, state) != expected:
        raise InvalidRecord(
            f"{get_snapshot_name(snapshot)} is not the state that was committed:"
            " it was changed after recording"
        )
    return state


def _make_stepper(opened: _Interval) -> Stepper:
    return make_stepper(opened.recipe, opened.files.path(DATA))


def _start(opened: _Interval) -> tuple[Stepper, dict[str, Array]]:
    """A training at the interval's snapshot, and the snapshot."""
    start = _read_committed_state(opened, opened.number, opened.pre)
    stepper = _make_stepper(opened)
    stepper.load(opened.steps.start, start)
    return stepper, start


class _Outcome(NamedTuple):
    """One stride done again."""

    digest: bytes
    gradient: bytes
    """Its content digest; empty where the step failed."""
    post: bytes
    part: str


def _repeat_stride(stepper: Stepper, pre: bytes, row: StepCommitment) -> _Outcome:
    """Do the next stride from a state whose digest is `pre` and compare it with its commitment."""
    try:
        result = stepper.run_stride(len(row.losses))
    except StepFailed as failure:
        return _Outcome(compute_digest("step-failed", pre + failure.batch), b"", b"", FAILED)
    parts = ("batch", "gradient", "loss", "state")
    mine = StepCommitment(
        result.batch, compute_gradient_commitment(result.gradient), result.loss, result.post
    )
    differing = (name for name, got, said in zip(parts, mine, row, strict=True) if got != said)
    digest = compute_step_digest(
        pre=pre, batch=mine.batch, gradient=mine.gradient, loss=mine.loss, post=mine.post
    )
    return _Outcome(digest, result.gradient, result.post, next(differing, AGREES))


def retrace_interval(
    submit: Submit, files: RecordFiles, interval: int, *, verifier: bytes, work_step: int
) -> Retraced:
    """Train an interval of a submission again from its snapshot, up to the first that differs.

    One stride refutes a record: what a verifier trained beyond it would be wasted.  `verifier` keys
    the work digest over the gradient of `work_step`.  Raises InvalidRecord where the files are not
    what was submitted; a record that contradicts itself does not raise.
    """
    opened = _open_interval(submit, files, interval)
    return _retrace(opened, verifier=verifier, work_step=work_step, to_end=False)


def retrace_recorded(folder: Path, interval: int) -> Retraced:
    """Train a whole interval of a run folder again, before or after it is submitted.

    It goes on behind a step that differs, to say how far apart that leads.  Raises InvalidRecord
    for files that do not fit together.
    """
    files, recipe = FolderFiles(folder), read_recorded(folder)
    if not 0 <= interval < recipe.intervals:
        raise InvalidRecord(
            f"the run has intervals 0 to {recipe.intervals - 1}; there is no interval {interval}",
            slug="incomplete",
        )
    rows = read_steps(files, recipe, interval)
    start = get_steps(recipe, interval).start
    pre = compute_snapshot_digest(start, read_state(files, recipe, interval))
    opened = _Interval(files, recipe, interval, pre, rows, compute_step_digests(pre, rows))
    return _retrace(opened, verifier=ZERO_DIGEST, work_step=start, to_end=True)


def _retrace(opened: _Interval, *, verifier: bytes, work_step: int, to_end: bool) -> Retraced:
    if opened.recipe.profile == TOLERANCE:
        return _retrace_within(opened, verifier=verifier, work_step=work_step)
    begin = time.perf_counter()
    stepper, start = _start(opened)
    end = _read_committed_state(opened, opened.number + 1, opened.rows[-1].post)
    pre, work, trained = opened.pre, ZERO_DIGEST, 0
    distance = MAX_DISTANCE_PPB if to_end else 0
    gradients: list[bytes] = []
    differs: tuple[int, _Outcome] | None = None
    for stride, row in zip(opened.strides, opened.rows, strict=True):
        outcome = _repeat_stride(stepper, pre, row)
        trained += len(stride)
        if outcome.part != AGREES and differs is None:
            differs = (stride.start, outcome)
        if outcome.part == FAILED or (differs is not None and not to_end):
            break
        pre = outcome.post
        gradients.append(outcome.gradient)
        if work_step in stride:
            work = compute_work_digest(verifier, outcome.gradient)
    else:
        distance = compute_distance_ppb(
            stepper.get_parameters(),
            get_parameters(opened.recipe, end),
            get_parameters(opened.recipe, start),
        )
    if differs is None:
        seconds = time.perf_counter() - begin
        found = Retraced(True, None, b"", (), b"", b"", AGREES, work, distance, trained, seconds)
        return found._replace(gradients=tuple(gradients))
    step, outcome = differs
    place = opened.get_place(step)
    return Retraced(
        agrees=False,
        step=step,
        leaf=opened.leaves[place],
        path=compute_path(opened.leaves, place),
        recomputed=outcome.digest,
        pre_state=_get_pre_state(opened, step),
        part=outcome.part,
        work_digest=work,
        distance_ppb=distance,
        trained=trained + step - opened.steps.start,
        seconds=time.perf_counter() - begin,
    )


def _retrace_within(opened: _Interval, *, verifier: bytes, work_step: int) -> Retraced:
    """Under profile `tolerance`: is the end as near as the recipe says?"""
    begin = time.perf_counter()
    found = _measure(opened)
    agrees = found.ppb <= opened.recipe.tolerance_ppb
    place = len(opened.steps) - 1
    work = ZERO_DIGEST
    if agrees:
        work = compute_work_digest(verifier, found.gradients[opened.get_place(work_step)])
    return Retraced(
        agrees=agrees,
        step=None if agrees else opened.steps[place],
        leaf=b"" if agrees else opened.leaves[place],
        path=() if agrees else compute_path(opened.leaves, place),
        recomputed=b"" if agrees else compute_beyond_digest(opened.leaves[place]),
        pre_state=b"",
        part=found.part,
        work_digest=work,
        distance_ppb=found.ppb,
        trained=len(found.gradients),
        seconds=time.perf_counter() - begin,
    )


def _measure(opened: _Interval) -> Residual:
    """How far the interval's committed end lies from where its snapshot leads."""
    stepper, start = _start(opened)
    end = _read_committed_state(opened, opened.number + 1, opened.rows[-1].post)
    return repeat_interval(stepper, opened.recipe, opened.rows, start=start, end=end)


def _get_pre_state(opened: _Interval, step: int) -> bytes:
    """The state before a step, trained once more: only disputes pay for it, not every step."""
    if step == opened.steps.start:
        return b""
    stepper, _ = _start(opened)
    stepper.run_stride(step - opened.steps.start)
    return encode_tensors(stepper.get_state())


def recompute_step(
    submit: Submit, files: RecordFiles, interval: int, step: int, *, pre_state: Path | None
) -> bytes:
    """The digest this machine gets for the stride of a submission that begins at a step.

    `pre_state` is a file with the state before it; it counts only if it is the state the
    submitter committed.  Without it the interval is trained from its snapshot up to the step.
    Under profile `tolerance` the whole interval is, and the digest says within or beyond.
    Raises InvalidRecord where the files are not what was submitted.
    """
    opened = _open_interval(submit, files, interval)
    place = opened.get_place(step)
    if opened.recipe.profile == TOLERANCE:
        within = _measure(opened).ppb <= opened.recipe.tolerance_ppb
        return opened.leaves[place] if within else compute_beyond_digest(opened.leaves[place])
    state = _read_pre_state(opened, step, pre_state) if place and pre_state is not None else None
    if state is None:
        return _recompute_from_snapshot(opened, step)
    stepper = _make_stepper(opened)
    stepper.load(step, state)
    return _repeat_stride(stepper, opened.get_committed_state(step), opened.rows[place]).digest


def _read_pre_state(opened: _Interval, step: int, path: Path) -> dict[str, Array] | None:
    """A state that somebody offered, if it is the committed one."""
    try:
        state = read_tensors(path, get_snapshot_specs(opened.recipe, step))
    except InvalidRecord:
        return None
    genuine = compute_snapshot_digest(step, state) == opened.get_committed_state(step)
    return state if genuine else None


def _recompute_from_snapshot(opened: _Interval, step: int) -> bytes:
    stepper, _ = _start(opened)
    pre = opened.pre
    for stride, row in zip(opened.strides, opened.rows, strict=True):
        outcome = _repeat_stride(stepper, pre, row)
        if stride.start == step:
            return outcome.digest
        if outcome.part == FAILED:
            # The accused stride lies beyond a step that cannot be computed: neither can it.
            accused = opened.strides[opened.get_place(step)]
            batch = b"".join(stepper.get_batch_digest(each) for each in accused)
            return compute_digest("step-failed", opened.get_committed_state(step) + batch)
        pre = outcome.post
    raise AssertionError("the step was checked to lie in the interval")
