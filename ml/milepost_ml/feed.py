"""The batches of a run: which rows of the data each holds, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from milepost_ml.augmentation import Transformation, augment_batch
from milepost_ml.keyed import Indices, compute_generator_seed, make_order
from milepost_ml.recipe import Recipe
from milepost_ml.stepper import copy_tensor


class Batch(NamedTuple):
    """What the loop gets, before it has the types that the profile computes in."""

    records: Indices
    rows: list[torch.Tensor]
    generator_seed: int


class Feed:
    """All batches of a declared run, by number."""

    def __init__(
        self, recipe: Recipe, tensors: Sequence[torch.Tensor], augment: Sequence[Transformation]
    ) -> None:
        self._seed, self._order = recipe.seed_bytes, make_order(recipe)
        self._tensors, self._augment = tensors, augment

    def get_batch(self, number: int) -> Batch:
        """Batch `number`, counted from 0 over the whole run."""
        records = self._order.get_indices(number)
        indices = torch.from_numpy(records)
        rows = [tensor.index_select(0, indices) for tensor in self._tensors]
        if self._augment:
            images = rows[0].numpy()
            images = augment_batch(images, self._augment, seed=self._seed, number=number)
            rows[0] = copy_tensor(images)
        return Batch(records, rows, compute_generator_seed(self._seed, number))
