"""Where a run comes from: its registration and its parent, against what its recipe declares.

The ledger knows who registered what and which models are VALID; that recipe, seed and initial
weights fit is checked here, by every holder of the record.  That derived weights are in snapshot 0
is part of the record's own soundness, registered or not.
"""

from __future__ import annotations

from milepost_consensus.payloads import Submit
from milepost_consensus.registrations import Registration
from milepost_ml.errors import InvalidRecord
from milepost_ml.initial import Constant, Normal, Uniform, describe
from milepost_ml.recipe import (
    Recipe,
    compute_unseeded_digest,
    get_model_specs,
    is_continued,
)


def validate_origin(recipe: Recipe, submit: Submit, registration: Registration | None) -> None:
    """Raises InvalidRecord unless the run starts as its submission and registration say.

    `registration` is the one that the submission names, None where it names none.  Slugs:
    bad-parent, unknown-registration, not-registered-recipe, wrong-seed, wrong-initial-weights.
    """
    if is_continued(recipe) != bool(submit.parent):
        raise InvalidRecord(
            "the submission names a parent, the recipe does not start from one"
            if submit.parent
            else "the recipe starts from a parent's model, the submission names no parent",
            slug="bad-parent",
        )
    if not submit.registration:
        return
    if registration is None or registration.id != submit.registration:
        raise InvalidRecord(
            f"registration {submit.registration.hex()[:8]} is not known here",
            slug="unknown-registration",
        )
    if compute_unseeded_digest(recipe) != registration.register.recipe:
        raise InvalidRecord(
            f"registration {registration.id.hex()[:8]} is of another recipe: the model, the"
            " optimizer, the learning rates, the number of steps or the initial weights were"
            " declared otherwise",
            slug="not-registered-recipe",
        )
    if recipe.seed_bytes != registration.seed:
        raise InvalidRecord(
            f"the recipe's seed is {recipe.seed[:16]}, the network gave this registration"
            f" {registration.seed.hex()[:16]}",
            slug="wrong-seed",
        )
    if not submit.parent:
        _validate_derived(recipe)


def _validate_derived(recipe: Recipe) -> None:
    for spec, initial in zip(get_model_specs(recipe), recipe.initial, strict=True):
        if not isinstance(initial, Constant | Uniform | Normal):
            raise InvalidRecord(
                f"{spec.name} is declared as {describe(initial)}; every tensor of a registered run"
                " follows from the seed, or all are a parent's",
                slug="wrong-initial-weights",
            )
