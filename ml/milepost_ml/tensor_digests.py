"""Digests of single tensors, which tell the submitter what differs where a stride does not repeat.

A record commits to the whole gradient and the whole state of a stride.  For the strides of the
first interval the recorder keeps, beside the record, a digest of every tensor of both.  The file is
for people: it is never submitted, and nothing that is verified depends on it.  A row holds, for one
stride, the digests of all gradients, then of the model's tensors, then of the optimizer's, each
part sorted by name.  Of a very long interval the first rows are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from milepost_ml.digests import MODEL_PREFIX, OPTIMIZER_PREFIX, get_raw
from milepost_ml.files import TENSORS
from milepost_ml.recipe import Recipe, get_model_specs, get_optimizer_specs, get_strides

if TYPE_CHECKING:
    from milepost_ml.digests import Array
    from milepost_ml.strides import StepImages

DIGEST_BYTES: Final = 16
"""Enough to tell values apart that nobody chose to collide."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Rows are kept until the file has this size: 5,000 strides of a model with 200 tensors in all."""

Digests = Mapping[str, bytes]


class TensorDigests(NamedTuple):
    """Those of one stride, by name."""

    gradients: Digests
    """Of its last step, by parameter."""
    state: Digests
    """After its last step, by the names of a snapshot."""


def compute_tensor_digest(array: Array) -> bytes:
    """The digest of one tensor's values."""
    return blake3(get_raw(array)).digest(DIGEST_BYTES)


def compute_digests(tensors: Mapping[str, Array]) -> dict[str, bytes]:
    """The digest of every tensor, by its name."""
    return {name: compute_tensor_digest(array) for name, array in tensors.items()}


def encode_row(images: StepImages) -> bytes:
    """A stride's row."""
    parts = (images.gradient, images.model, images.optimizer)
    return b"".join(blake3(raw).digest(DIGEST_BYTES) for part in parts for raw in part.values)


def _get_names(recipe: Recipe) -> tuple[list[str], list[str]]:
    """The names of a row's digests: of gradients, and of the state."""
    gradients = sorted(item.name for item in recipe.parameters if item.trained)
    model = sorted(spec.name for spec in get_model_specs(recipe))
    optimizer = sorted(spec.name for spec in get_optimizer_specs(recipe, step=1))
    state = [MODEL_PREFIX + name for name in model]
    return gradients, state + [OPTIMIZER_PREFIX + name for name in optimizer]


def read_tensor_digests(folder: Path, recipe: Recipe) -> Sequence[TensorDigests] | None:
    """What the recorder kept of the first strides of interval 0; None if it cannot be read.

    Whoever reads it has other ways to tell less, so nothing is said about why.
    """
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError:
        return None
    gradients, state = _get_names(recipe)
    size = DIGEST_BYTES * (len(gradients) + len(state))
    if len(data) % size or len(data) > size * len(get_strides(recipe, 0)):
        return None
    rows = []
    for start in range(0, len(data), size):
        digests = [data[at : at + DIGEST_BYTES] for at in range(start, start + size, DIGEST_BYTES)]
        first, rest = digests[: len(gradients)], digests[len(gradients) :]
        rows.append(
            TensorDigests(
                dict(zip(gradients, first, strict=True)), dict(zip(state, rest, strict=True))
            )
        )
    return rows
