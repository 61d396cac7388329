"""The batches of a recipe, from its data file: which rows a step sees, and their digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milepost_ml.digests import compute_batch_digest, compute_record_digests
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA
from milepost_ml.keyed import Order
from milepost_ml.recipe import Recipe
from milepost_ml.snapshots import map_tensors

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class Batches:
    """The rows that each step of a recipe sees."""

    def __init__(self, recipe: Recipe, data: Path) -> None:
        """Raises InvalidRecord for a data file that does not fit the recipe."""
        self._data = map_tensors(data, recipe.data, name=DATA)
        self._order = Order(
            seed=recipe.seed_bytes, records=recipe.records, batch_size=recipe.batch_size
        )

    def get_rows(self, step: int) -> dict[str, Array]:
        """The rows of every data tensor that a step sees."""
        indices = self._order.get_indices(step)
        rows = {name: np.ascontiguousarray(array[indices]) for name, array in self._data.items()}
        for name, array in rows.items():
            if array.dtype == np.bool_ and array.view(np.uint8).max() > 1:
                raise InvalidRecord(
                    f"{name} holds truth values other than 0 and 1", slug="snapshot-broken"
                )
        return rows

    def compute_digest(self, step: int) -> bytes:
        """The digest of a step's batch, from the data themselves."""
        return compute_batch_digest(compute_record_digests(self.get_rows(step)))
