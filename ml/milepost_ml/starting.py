"""The tensors that a model has to be given before its run starts: derived from the seed, or a
parent's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from milepost_ml.digests import compute_content_digest
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.initial import Given, Parent, derive_tensor
from milepost_ml.model_files import compare_models, read_model
from milepost_ml.recipe import Recipe, get_model_specs
from milepost_ml.registration import ParentModel

if TYPE_CHECKING:
    from milepost_ml.digests import Array


def compute_derived(recipe: Recipe) -> dict[str, Array]:
    """Every tensor that the recipe derives from its seed."""
    return {
        spec.name: derive_tensor(recipe.seed_bytes, spec, initial)
        for spec, initial in zip(get_model_specs(recipe), recipe.initial, strict=True)
        if not isinstance(initial, Given | Parent)
    }


def read_parent(parent: ParentModel, present: Mapping[str, Array]) -> dict[str, Array]:
    """A parent's weights; nothing where the model in memory, `present`, has to hold them already.

    Raises RecordingError: other-weights where file or model are not what was judged,
    wrong-architecture where the model has other tensors than its parent.
    """
    short = f"sub_{parent.submission.hex()[:8]}"
    if parent.weights is None:
        if compute_content_digest(present) != parent.model_digest:
            raise RecordingError(
                f"the model does not hold the weights of its parent {short}. Load them before the"
                " run, or name the parent's run folder, whose model.safetensors then is loaded",
                slug="other-weights",
            )
        return {}
    try:
        weights = read_model(parent.weights)
    except InvalidRecord as error:
        raise RecordingError(str(error), slug=error.slug) from error
    if compute_content_digest(weights) != parent.model_digest:
        raise RecordingError(
            f"{parent.weights} does not hold the weights that were judged as {short}",
            slug="other-weights",
        )
    others = [item for item in compare_models(weights, present) if item.kind != "values"]
    if others:
        raise RecordingError(
            f"the model has other tensors than its parent {short}: {others[0]}. A run continues"
            " its parent's whole model",
            slug="wrong-architecture",
        )
    return weights
