"""The batches of a run: which rows of the data each holds, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from milepost_ml.augmentation import Transformation, augment_batch
from milepost_ml.keyed import Indices, compute_generator_seed, make_order
from milepost_ml.recipe import Recipe
from milepost_ml.stepper import copy_tensor
from milepost_ml.strides import ends_stride


class Batch(NamedTuple):
    """What the loop gets, before it has the types that the profile computes in."""

    records: Indices
    rows: list[torch.Tensor]
    generator_seed: int


class Planned(NamedTuple):
    """One batch of the plan."""

    number: int
    """Counted from 0 over the whole run."""
    step: int
    ends_stride: bool
    """Whether the step is the last of what one digest covers."""


class Feed:
    """All batches of a declared run, by number."""

    def __init__(
        self, recipe: Recipe, tensors: Sequence[torch.Tensor], augment: Sequence[Transformation]
    ) -> None:
        self._seed, self._order, self._recipe = recipe.seed_bytes, make_order(recipe), recipe
        self._tensors, self._augment = tensors, augment

    def plan(self, steps: range) -> Iterator[Planned]:
        """The batches of consecutive steps, of which the last ends the run."""
        for step in steps:
            ends = step + 1 == steps.stop or ends_stride(self._recipe, step)
            for number in self._order.get_numbers(step):
                yield Planned(number, step, ends)

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
