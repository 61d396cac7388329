"""Two models side by side: which tensors differ, in how many values and by how much.

Digests say that two models differ; this says where, for whoever has both at hand.  A value differs
when its bytes do, so 0.0 and -0.0 differ (by nothing) just as they do for a digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_ml.digests import get_dtype_name
from milepost_ml.snapshots import read_tensors

Models = Mapping[str, NDArray[Any]]

VALUES: Final = "values"
DTYPE: Final = "dtype"
SHAPE: Final = "shape"
MISSING: Final = "missing"
EXTRA: Final = "extra"


class TensorDifference(NamedTuple):
    """How one tensor of `found` differs from that of `expected`."""

    name: str
    kind: str
    """VALUES, DTYPE, SHAPE, MISSING (only expected has it) or EXTRA (only found has it)."""
    detail: str
    """The shape, or both dtypes or shapes where these differ."""
    differing: int = 0
    values: int = 0
    """For VALUES: so many of so many values differ."""
    largest: float = 0.0
    """For VALUES: largest absolute difference; infinite where only one side is a number."""

    def __str__(self) -> str:
        if self.kind == VALUES:
            return (
                f"{self.name}  {self.detail}  {self.differing:,} of {self.values:,} values,"
                f" largest difference {self.largest:.1e}"
            )
        return f"{self.name}  {self.kind} {self.detail}"


def read_model(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a model file of any origin; metadata of other writers is ignored.

    Raises InvalidRecord: snapshot-broken, wrong-tensors or pickle-refused.
    """
    return read_tensors(path, metadata_allowed=True)


def compare_models(expected: Models, found: Models) -> tuple[TensorDifference, ...]:
    """Every tensor in which two models differ, in name order; empty for equal models."""
    return tuple(
        difference
        for name in sorted(expected.keys() | found.keys())
        if (difference := _compare(name, expected.get(name), found.get(name))) is not None
    )


def _compare(
    name: str, expected: NDArray[Any] | None, found: NDArray[Any] | None
) -> TensorDifference | None:
    if expected is None or found is None:
        present = found if expected is None else expected
        assert present is not None
        return TensorDifference(name, MISSING if found is None else EXTRA, str(list(present.shape)))
    if expected.shape != found.shape:
        return TensorDifference(name, SHAPE, f"{list(expected.shape)} became {list(found.shape)}")
    if expected.dtype != found.dtype:
        return TensorDifference(
            name, DTYPE, f"{get_dtype_name(expected.dtype)} became {get_dtype_name(found.dtype)}"
        )
    if not expected.size:
        return None
    left, right = _flatten(expected), _flatten(found)
    unequal = (left.view(np.uint8) != right.view(np.uint8)).reshape(left.size, -1).any(axis=1)
    differing = int(unequal.sum())
    if not differing:
        return None
    return TensorDifference(
        name,
        VALUES,
        str(list(expected.shape)),
        differing=differing,
        values=left.size,
        largest=_compute_largest(left[unequal], right[unequal]),
    )


def _flatten(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1)


def _compute_largest(left: NDArray[Any], right: NDArray[Any]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.abs(right.astype(np.float64) - left.astype(np.float64))
    if left.dtype.kind == "f":
        # Two spellings of NaN are no distance apart, NaN and a number any distance.
        left_nan, right_nan = np.isnan(left), np.isnan(right)
        gap[left_nan & right_nan] = 0.0
        gap[left_nan ^ right_nan] = np.inf
    return float(gap.max())
