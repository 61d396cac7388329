"""Puts the initial weights that a recipe declares into a model, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from milepost_ml.digests import compute_content_digest
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.initial import Given, Parent, derive_tensor
from milepost_ml.model_files import compare_models, read_model
from milepost_ml.recipe import Recipe, get_model_specs
from milepost_ml.registration import ParentModel

if TYPE_CHECKING:
    from milepost_ml.digests import Array


def set_derived(model: torch.nn.Module, recipe: Recipe) -> None:
    """Replace every tensor that the recipe derives from its seed."""
    tensors = _get_tensors(model)
    for spec, initial in zip(get_model_specs(recipe), recipe.initial, strict=True):
        if not isinstance(initial, Given | Parent):
            _copy(tensors[spec.name], derive_tensor(recipe.seed_bytes, spec, initial))


def set_parent(model: torch.nn.Module, parent: ParentModel) -> None:
    """Give a model its parent's weights; raises RecordingError.

    Slugs: other-weights where file or model are not what was judged, wrong-architecture where the
    model has other tensors than its parent.
    """
    tensors = _get_tensors(model)
    present = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    short = f"sub_{parent.submission.hex()[:8]}"
    if parent.weights is None:
        if compute_content_digest(present) != parent.model_digest:
            raise RecordingError(
                f"the model does not hold the weights of its parent {short}. Load them before the"
                " run, or name the parent's run folder, whose model.safetensors then is loaded",
                slug="other-weights",
            )
        return
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
    for name, tensor in tensors.items():
        _copy(tensor, weights[name])


def _get_tensors(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _copy(tensor: torch.Tensor, values: Array) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values))
