"""Profile `tolerance`: what an interval's end is compared by, and how far off it may be.

The residual of an interval is the distance between the end that its submitter committed and the end
that retraining from the submitter's own snapshot gives, as a share of the interval's movement.  It
is measured in groups whose values have a scale of their own (parameters, buffers, each kind of
optimizer tensor), and the worst group counts: a forged second moment of Adam is far below the norm
of the first.  What no rounding can change must be equal: the order of the data, counters and other
integers, parameters that are not trained.

Importing this module loads no framework.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_consensus.errors import InvalidInput
from milepost_consensus.tolerance import TOLERANCE, validate_tolerance
from milepost_ml.digests import MODEL_PREFIX, OPTIMIZER_PREFIX
from milepost_ml.distance import PPB, compute_distance_ppb
from milepost_ml.errors import RecordingError
from milepost_ml.steps import StepFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost_ml.digests import Array
    from milepost_ml.recipe import Recipe
    from milepost_ml.record_files import StepCommitment
    from milepost_ml.stepping import Stepper

DEFAULT_TOLERANCE: Final = 1e-3
"""Of a run that names none: above the noise of another machine, far below one forged example, but
for batch normalisation, which needs more (docs/decisions/0010-tolerance.md has both, measured)."""

LEAST_MOVEMENT: Final = 2.0**-12
"""Of a group's norm; less counts as that.  Where a learning rate has decayed to almost nothing,
weights move by about the rounding of float32, of which the last bit differs between machines."""

WITHIN: Final = ""
FIXED: Final = "fixed values"
"""Integers, counters and untrained parameters: no arithmetic of any machine changes them."""
PARAMETERS: Final = "parameters"
BUFFERS: Final = "buffers"
BATCH: Final = "batch"
FAILED: Final = "failed"
_COUNTER: Final = "step"
"""How PyTorch calls the number of an optimizer's steps, which it keeps as a float."""


class Residual(NamedTuple):
    """How far an interval ends from where it should."""

    ppb: int
    """In 10^-9 of the movement, rounded up; 0 only if all values are equal."""
    part: str
    """Where it is furthest: parameters, buffers, a kind of optimizer tensor, fixed values, batch,
    or failed; empty if all is equal."""
    gradients: tuple[bytes, ...] = ()
    """Content digests of this machine's gradients of the steps done."""


def read_tolerance(
    tolerance: float | None, *, every: int, profile: str | None, stride: int | None = None
) -> int:
    """The bound of a run that is to be recorded, in units of 10^-9; 0 where bits are compared.

    Raises RecordingError (bad-tolerance).
    """
    if tolerance is not None and profile != TOLERANCE:
        raise RecordingError(
            f"tolerance={tolerance} belongs to profile={TOLERANCE!r}; this run compares all bits",
            slug="bad-tolerance",
        )
    if profile != TOLERANCE:
        return 0
    chosen = DEFAULT_TOLERANCE if tolerance is None else tolerance
    tolerance_ppb = round(PPB * chosen) if math.isfinite(chosen) else 0
    try:
        validate_tolerance(
            TOLERANCE,
            tolerance_ppb,
            steps_per_interval=every,
            steps_per_digest=1 if stride is None else stride,
        )
    except InvalidInput as error:
        raise RecordingError(str(error), slug=error.slug) from error
    return tolerance_ppb


def repeat_interval(
    stepper: Stepper,
    recipe: Recipe,
    rows: Sequence[StepCommitment],
    *,
    start: Mapping[str, Array],
    end: Mapping[str, Array],
) -> Residual:
    """Do the committed steps from the loaded state `start` and measure the way to `end`.

    Losses and gradients are not compared: they follow from the states within the same noise.
    """
    gradients: list[bytes] = []
    for row in rows:
        try:
            result = stepper.run_step()
        except StepFailed:
            return Residual(MAX_DISTANCE_PPB, FAILED, tuple(gradients))
        if result.batch != row.batch:
            return Residual(MAX_DISTANCE_PPB, BATCH, tuple(gradients))
        gradients.append(result.gradient)
    found = compute_residual(recipe, stepper.get_state(), end=end, start=start)
    return found._replace(gradients=tuple(gradients))


def compute_residual(
    recipe: Recipe,
    retrained: Mapping[str, Array],
    *,
    end: Mapping[str, Array],
    start: Mapping[str, Array],
) -> Residual:
    """The distance of two complete states as a share of the way from `start` to `end`.

    Optimizer tensors that a start does not have yet are zero there, as the optimizer sees them.
    """
    trained = {MODEL_PREFIX + item.name: item.trained for item in recipe.parameters}
    groups: dict[str, list[str]] = defaultdict(list)
    for name, array in end.items():
        groups[_get_group(name, array, trained)].append(name)
    worst = Residual(0, WITHIN)
    for group, names in groups.items():
        if group == FIXED:
            equal = all(np.array_equal(retrained[name], end[name]) for name in names)
            ppb = 0 if equal else MAX_DISTANCE_PPB
        else:
            ppb = compute_distance_ppb(
                {name: retrained[name] for name in names},
                {name: end[name] for name in names},
                {name: start.get(name, np.zeros_like(end[name])) for name in names},
                least=LEAST_MOVEMENT,
            )
        worst = max(worst, Residual(ppb, group), key=lambda residual: residual.ppb)
    return worst


def _get_group(name: str, array: Array, trained: Mapping[str, bool]) -> str:
    """What a tensor of a state is measured together with; `trained` tells of the parameters."""
    if array.dtype.kind != "f":
        return FIXED
    if name.startswith(OPTIMIZER_PREFIX):
        slot = name.rpartition(".")[2]
        return FIXED if slot == _COUNTER else slot
    if name not in trained:
        return BUFFERS
    return PARAMETERS if trained[name] else FIXED
