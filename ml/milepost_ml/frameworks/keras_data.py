"""The data of a Keras run: arrays as they are recorded, in the order that the run's seed gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milepost_ml.digests import get_dtype_name
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.keras_graph import MAX_INPUTS
from milepost_ml.keras_training.device import load_keras
from milepost_ml.keyed import Indices

if TYPE_CHECKING:
    from milepost_ml.digests import Array


def make_arrays(inputs: Any, target: Any) -> tuple[Array, ...]:
    """Copies of inputs and target with equally many rows; floats as float32, as Keras makes them.

    Raises RecordingError: bad-data, not-finite.
    """
    several = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    if not 1 <= len(several) <= MAX_INPUTS:
        raise RecordingError(
            f"{len(several)} inputs; 1 to {MAX_INPUTS} are possible", slug="bad-data"
        )
    arrays = tuple(
        _make_array(f"data tensor {place}", each) for place, each in enumerate((*several, target))
    )
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise RecordingError(f"the data have {sorted(lengths)} records", slug="bad-data")
    return arrays


def _make_array(name: str, source: Any) -> Array:
    if isinstance(source, dict | str) or not hasattr(source, "__len__"):
        raise RecordingError(
            f"{name} is a {type(source).__name__}; give arrays, several inputs as a tuple in the"
            " order of model.inputs. Streams cannot be recorded",
            slug="bad-data",
        )
    array = np.asarray(source)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    try:
        get_dtype_name(array.dtype)
    except InvalidRecord as error:
        raise RecordingError(f"{name}: {error}", slug="bad-data") from error
    if not array.ndim or not array.size:
        raise RecordingError(f"{name} is {array.dtype} {list(array.shape)}", slug="bad-data")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RecordingError(f"{name} holds NaN or infinity", slug="not-finite")
    # A copy: the record is made of what the data were now.
    return np.array(array, order="C")


def make_dataset(
    arrays: Sequence[Array], batches: int, get_records: Callable[[int], Indices]
) -> Any:
    """A `keras.utils.PyDataset` of so many batches an epoch, each epoch in the order of its own.

    `get_records` tells which records batch i of the present epoch holds.
    """
    keras = load_keras().keras

    class RunDataset(keras.utils.PyDataset):  # type: ignore[name-defined]
        """Batch i of the present epoch, as the run's order has it."""

        def __len__(self) -> int:
            return batches

        def __getitem__(self, place: int) -> tuple[Any, Array]:
            rows = get_records(place)
            *inputs, target = (array[rows] for array in arrays)
            return tuple(inputs) if len(inputs) > 1 else inputs[0], target

    return RunDataset()


def validate_batch(given: Any, expected: Sequence[Array], step: int) -> None:
    """Raises RecordingError (wrong-order) unless `fit` was given the batch of this step."""
    *rest, last = given if isinstance(given, tuple | list) else (given,)
    inputs = rest[0] if rest and isinstance(rest[0], tuple | list) else rest
    found = [np.asarray(each) for each in (*inputs, last)]
    fits = len(found) == len(expected) and all(
        np.array_equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True)
    )
    if not fits:
        raise RecordingError(
            f"step {step} was given another batch than the run has for it. Pass fit the result of"
            " run.dataset() itself, with shuffle=False, no class_weight and no steps_per_epoch",
            slug="wrong-order",
        )
