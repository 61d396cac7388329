"""Records that were edited after training so that nothing but retraining finds it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from milepost_ml.digests import MODEL_PREFIX, compute_snapshot_digest
from milepost_ml.files import MODEL, FolderFiles, get_snapshot_name, get_steps_name
from milepost_ml.record_files import read_recipe
from milepost_ml.snapshots import read_tensors, write_tensors

POST_BYTES = 32
"""The state digest that ends every commitment of a steps file."""


def forge_end(folder: Path, interval: int, name: str) -> None:
    """Move one weight of parameter `name` after an interval and commit to the edited state.

    After the last interval the model that is handed over has the edited weight too.
    """
    _, recipe = read_recipe(FolderFiles(folder))
    step = min((interval + 1) * recipe.steps_per_interval, recipe.steps)
    path = folder / get_snapshot_name(interval + 1)
    state = read_tensors(path)
    state[MODEL_PREFIX + name].flat[0] += np.float32(1e-4)
    write_tensors(path, state)
    if step == recipe.steps:
        model = read_tensors(folder / MODEL)
        model[name] = state[MODEL_PREFIX + name]
        write_tensors(folder / MODEL, model)
    steps = folder / get_steps_name(interval)
    data = bytearray(steps.read_bytes())
    data[-POST_BYTES:] = compute_snapshot_digest(step, state)
    steps.write_bytes(data)
