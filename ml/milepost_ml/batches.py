"""The batches of a recipe, from its data file: their rows, and the digest of a step's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milepost_ml.digests import compute_batch_digest, compute_record_digests
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA
from milepost_ml.keyed import Indices, make_order
from milepost_ml.recipe import Recipe
from milepost_ml.snapshots import map_tensors

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class Batches:
    """The rows of each batch of a recipe, of which a step takes one or several."""

    def __init__(self, recipe: Recipe, data: Path) -> None:
        """Raises InvalidRecord for a data file that does not fit the recipe."""
        self._data = map_tensors(data, recipe.data, name=DATA)
        self._order = make_order(recipe)

    def get_numbers(self, step: int) -> range:
        """The batches of a step."""
        return self._order.get_numbers(step)

    def get_rows(self, number: int) -> dict[str, Array]:
        """The rows of every data tensor in batch `number`, as they are in the data."""
        return self.take_rows(self._order.get_indices(number))

    def take_rows(self, indices: Indices | Sequence[int]) -> dict[str, Array]:
        """These records of every data tensor, as they are in the data."""
        rows = {
            name: np.ascontiguousarray(array[np.asarray(indices)])
            for name, array in self._data.items()
        }
        for name, array in rows.items():
            if array.dtype == np.bool_ and array.view(np.uint8).max() > 1:
                raise InvalidRecord(
                    f"{name} holds truth values other than 0 and 1", slug="snapshot-broken"
                )
        return rows

    def compute_digest(self, step: int) -> bytes:
        """The digest of the records of a step, from the data themselves."""
        return compute_batch_digest(
            digest
            for number in self.get_numbers(step)
            for digest in compute_record_digests(self.get_rows(number))
        )
