"""What the tensors of a difference show without any further training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from milepost_consensus.step_digests import compute_gradient_commitment
from milepost_ml.diagnosis.passage import Difference, Passage, get_recorded_losses
from milepost_ml.digests import MODEL_PREFIX, compute_content_digest
from milepost_ml.distance import compute_distance_ppb
from milepost_ml.recipe import Recipe, get_snapshot_specs
from milepost_ml.residual import LEAST_MOVEMENT
from milepost_ml.stepping import make_stepper
from milepost_ml.steps import StepFailed
from milepost_ml.tensor_digests import Digests, compute_digests, compute_tensor_digest

if TYPE_CHECKING:
    from milepost_ml.digests import Array

_FACTORS: Final = (2.0, 0.5, -1.0, 4.0, 0.25, 10.0, 0.1, 100.0, 0.01, 1024.0, 65536.0)
"""By which losses and gradients are usually multiplied; powers of two cost no bits."""


class Differing(NamedTuple):
    """Which tensors differ, in the order of the recipe."""

    of: str
    """Of what: gradient, state (after the stride), end (of the interval), or nothing."""
    names: tuple[str, ...]
    compared: int


class Found(NamedTuple):
    """A confirmed cause by its name in `causes`, with what that needs to be said."""

    cause: str
    details: Mapping[str, Any] = {}


NOTHING: Final = Differing("", (), 0)


def find_differing(passage: Passage, difference: Difference) -> Differing:
    """The tensors of the first part that differs, as near as the record tells."""
    if difference.result is None or difference.part in ("batch", "failed"):
        return NOTHING
    if passage.has_tolerance:
        return _find_beyond(passage, difference.state)
    kept = passage.get_tensors(difference.place)
    if kept is not None:
        if "gradient" in difference.parts:
            return _compare("gradient", passage.recipe, difference.gradients, kept.gradients)
        if "state" in difference.parts:
            return _compare("state", passage.recipe, difference.state, kept.state)
        return NOTHING
    if "gradient" not in difference.parts and "state" not in difference.parts:
        return NOTHING
    is_last = difference.place == len(passage.strides) - 1
    state = difference.state if is_last else _train_to_end(passage, difference)
    if state is None:
        return NOTHING
    of = "state" if is_last and "gradient" not in difference.parts else "end"
    return _compare(of, passage.recipe, state, compute_digests(passage.end))


def _compare(of: str, recipe: Recipe, mine: Mapping[str, Array], kept: Digests) -> Differing:
    if of == "gradient":
        order = [item.name for item in recipe.parameters if item.trained]
    else:
        order = [spec.name for spec in get_snapshot_specs(recipe, step=1)]
    names = tuple(name for name in order if compute_tensor_digest(mine[name]) != kept[name])
    return Differing(of, names, len(order))


def _train_to_end(passage: Passage, difference: Difference) -> Mapping[str, Array] | None:
    stepper = make_stepper(passage.recipe, passage.data)
    stepper.load(*difference.before)
    try:
        stepper.run_stride(passage.steps.stop - difference.before.step)
    except StepFailed:
        return None
    return stepper.get_state()


def _find_beyond(passage: Passage, state: Mapping[str, Array]) -> Differing:
    """The tensors that alone are beyond the bound, the furthest first."""
    apart = {}
    for name, end in passage.end.items():
        start = passage.start.get(name, np.zeros_like(end))
        if end.dtype.kind == "f":
            apart[name] = compute_distance_ppb(
                {name: state[name]}, {name: end}, {name: start}, least=LEAST_MOVEMENT
            )
    beyond = [name for name, ppb in apart.items() if ppb > passage.recipe.tolerance_ppb]
    beyond.sort(key=lambda name: -apart[name])
    return Differing("end", tuple(beyond), len(passage.end))


def get_kind(recipe: Recipe, names: Sequence[str]) -> str:
    """The name of the usual cause where these tensors of the state differ."""
    buffers = {MODEL_PREFIX + spec.name for spec in recipe.buffers}
    model = [name for name in names if name.startswith(MODEL_PREFIX)]
    if not model:
        return "state-optimizer"
    return "state-buffer" if set(model) <= buffers else "state-parameter"


def explain(passage: Passage, difference: Difference, differing: Differing) -> Found | None:
    """A cause that the tensors at hand confirm."""
    tensors = passage.get_tensors(difference.place)
    if tensors is not None and differing.of and not differing.names:
        return Found("steps-changed")
    if "gradient" in difference.parts:
        return _find_scaled_gradient(passage, difference, differing)
    if "loss" in difference.parts:
        return _find_scaled_loss(passage, difference)
    return _find_frozen(passage, difference, differing)


def _find_scaled_gradient(
    passage: Passage, difference: Difference, differing: Differing
) -> Found | None:
    mine, row = difference.gradients, passage.rows[difference.place]
    for factor in _FACTORS:
        scaled = {name: _scale(array, factor) for name, array in mine.items()}
        if compute_gradient_commitment(compute_content_digest(scaled)) == row.gradient:
            return Found("gradient-scaled", {"factor": factor, "of": ""})
    tensors = passage.get_tensors(difference.place)
    if tensors is None or differing.of != "gradient":
        return None
    kept = tensors.gradients
    names = differing.names
    if all(compute_tensor_digest(np.zeros_like(mine[name])) == kept[name] for name in names):
        return Found("gradient-zero")
    for factor in (0.0, *_FACTORS):
        if all(compute_tensor_digest(_scale(mine[name], factor)) == kept[name] for name in names):
            if factor == 0.0:  # with the signs of what it was
                return Found("gradient-zero")
            return Found("gradient-scaled", {"factor": factor, "of": f" of {', '.join(names[:3])}"})
    return None


def _scale(array: Array, factor: float) -> Array:
    scaled: Array = array * array.dtype.type(factor)
    return scaled


def _find_scaled_loss(passage: Passage, difference: Difference) -> Found | None:
    assert difference.result is not None
    recipe = passage.recipe
    got = np.frombuffer(difference.result.loss, "<f4")
    said = get_recorded_losses(passage, difference)
    sizes = (float(recipe.batch_size), float(recipe.accumulate))
    for factor in (*sizes, *(1 / size for size in sizes), *_FACTORS):
        if factor != 1.0 and np.array_equal((got.astype(np.float64) * factor).astype("<f4"), said):
            return Found("loss-scaled", {"factor": factor})
    return None


def _find_frozen(passage: Passage, difference: Difference, differing: Differing) -> Found | None:
    """Tensors that have the values that they had before."""
    if differing.of != "state" or not differing.names or len(difference.steps) > 1:
        return None
    before = difference.before.state
    if not set(differing.names) <= set(before):
        return None
    tensors = passage.get_tensors(difference.place)
    kept = (
        tensors.state
        if tensors is not None
        else compute_digests({name: passage.end[name] for name in differing.names})
    )
    still = all(compute_tensor_digest(before[name]) == kept[name] for name in differing.names)
    return Found("frozen") if still else None
