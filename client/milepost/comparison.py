"""Where a model differs from the one that was judged, if the record's own files are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from milepost_ml.digests import MODEL_PREFIX, compute_content_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.model_files import Models, TensorDifference, compare_models, read_model


class Differences(NamedTuple):
    """The tensors that differ, out of how many, and from which file."""

    differences: tuple[TensorDifference, ...]
    tensors: int
    reference: str


def find_differences(model: Path, folder: Path, model_digest: bytes) -> Differences | None:
    """Compare `model` with a file in `folder` whose weights have the given content digest.

    That is the run's `model.safetensors` or its last snapshot; None if neither has these weights.
    """
    found = _find_reference(folder, model_digest)
    if found is None:
        return None
    expected, name = found
    return Differences(compare_models(expected, read_model(model)), len(expected), name)


def _find_reference(folder: Path, model_digest: bytes) -> tuple[Models, str] | None:
    snapshots = sorted(folder.glob("mileposts/*.safetensors"))
    candidates = [folder / "model.safetensors", *snapshots[-1:]]
    for path in candidates:
        try:
            tensors = read_model(path)
            if path.parent != folder:
                # What no step changes is in the first snapshot alone.
                tensors = read_model(snapshots[0]) | tensors
        except InvalidRecord:
            continue
        if path.parent != folder:
            tensors = {
                name.removeprefix(MODEL_PREFIX): array
                for name, array in tensors.items()
                if name.startswith(MODEL_PREFIX)
            }
        if compute_content_digest(tensors) == model_digest:
            return tensors, path.name
    return None
