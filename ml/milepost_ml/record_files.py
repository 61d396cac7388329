"""The files of a record, read strictly and named as people know them.

Every function takes a `RecordFiles` and reads one file by its name in the record, so that an error
says "mileposts/00007.safetensors" even where the bytes lie in a store under their digest.  Nothing
here holds more than the file asked for, and the data only block by block.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from milepost_consensus.step_digests import compute_step_digest
from milepost_ml.digests import MODEL_PREFIX, NUMPY_CODES, compute_record_digests
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import (
    DATA,
    RECIPE,
    RecordFiles,
    get_snapshot_name,
    get_steps_name,
    open_file,
)
from milepost_ml.recipe import (
    MAX_RECIPE_BYTES,
    Recipe,
    decode_recipe,
    get_snapshot_specs,
    get_steps,
)
from milepost_ml.snapshots import (
    Header,
    TensorSpec,
    load_tensors,
    read_header,
    validate_specs,
)

STEP_BYTES: Final = 100
"""One step in a steps file: batch, commitment to the gradient, loss (float32), state after."""
MAX_RECORDS_READ: Final = 2**24
"""The digests of sixteen million records take about a gigabyte of memory."""
_BLOCK_BYTES: Final = 4 * 1024 * 1024


class StepCommitment(NamedTuple):
    """What the submitter committed about one step."""

    batch: bytes
    gradient: bytes
    """A digest of the gradient's content digest, which the record does not hold."""
    loss: bytes
    """Four bytes: float32, little-endian."""
    post: bytes
    """State digest after the step."""


def read_recipe(files: RecordFiles) -> tuple[bytes, Recipe]:
    """The recipe with its canonical bytes; raises InvalidRecord: bad-recipe, unknown-operator."""
    with open_file(files, RECIPE) as stream:
        data = stream.read(MAX_RECIPE_BYTES + 1)
    return data, decode_recipe(data)


def read_state(files: RecordFiles, recipe: Recipe, snapshot: int) -> dict[str, NDArray[Any]]:
    """The complete state of a snapshot, "model.*" and "optimizer.*", all values finite.

    Raises InvalidRecord: snapshot-broken, wrong-tensors, not-finite, pickle-refused.
    """
    name = get_snapshot_name(snapshot)
    step = min(snapshot * recipe.steps_per_interval, recipe.steps)
    with open_file(files, name) as stream:
        return load_tensors(
            stream, name=name, expected=get_snapshot_specs(recipe, step), finite=True
        )


def get_parameters(recipe: Recipe, state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The parameters of a state under their own names, without buffers and optimizer."""
    return {item.name: state[MODEL_PREFIX + item.name] for item in recipe.parameters}


def read_steps(files: RecordFiles, recipe: Recipe, interval: int) -> list[StepCommitment]:
    """The commitments of an interval's steps; raises InvalidRecord: snapshot-broken, not-finite."""
    name = get_steps_name(interval)
    steps = get_steps(recipe, interval)
    with open_file(files, name) as stream:
        data = stream.read(len(steps) * STEP_BYTES + 1)
        size = stream.seek(0, io.SEEK_END)
    if size != len(steps) * STEP_BYTES:
        raise InvalidRecord(
            f"{name}: {len(steps)} steps take {len(steps) * STEP_BYTES:,} bytes, the file has"
            f" {size:,}",
            slug="snapshot-broken",
        )
    rows = [StepCommitment(*row) for row in struct.iter_unpack("32s32s4s32s", data)]
    for step, row in zip(steps, rows, strict=True):
        (loss,) = struct.unpack("<f", row.loss)
        if not math.isfinite(loss):
            raise InvalidRecord(
                f"{name}: the loss of step {step} is {loss}. The training diverged; there is"
                " nothing to verify",
                slug="not-finite",
            )
    return rows


def compute_step_digests(pre: bytes, rows: Sequence[StepCommitment]) -> list[bytes]:
    """The step digests d_t of consecutive steps, the first of which starts at state `pre`."""
    digests = []
    for row in rows:
        digests.append(
            compute_step_digest(
                pre=pre, batch=row.batch, gradient=row.gradient, loss=row.loss, post=row.post
            )
        )
        pre = row.post
    return digests


def read_record_digests(files: RecordFiles, recipe: Recipe) -> list[bytes]:
    """The digest of every record of the data, in order, all values finite.

    Raises InvalidRecord: snapshot-broken, wrong-tensors, not-finite, too-large, pickle-refused.
    """
    if recipe.records > MAX_RECORDS_READ:
        raise InvalidRecord(
            f"{recipe.records:,} records; at most {MAX_RECORDS_READ:,} can be checked",
            slug="too-large",
        )
    digests: list[bytes] = []
    with open_file(files, DATA) as stream:
        header = read_header(stream, name=DATA)
        validate_specs(DATA, header.specs, recipe.data)
        record_bytes = sum(spec.size_bytes for spec in recipe.data) // recipe.records
        count = max(1, _BLOCK_BYTES // record_bytes)
        for first in range(0, recipe.records, count):
            rows = range(first, min(first + count, recipe.records))
            digests += compute_record_digests(_read_rows(stream, header, rows))
    return digests


def _read_rows(stream: io.BufferedReader, header: Header, rows: range) -> dict[str, NDArray[Any]]:
    """Some records of every data tensor."""
    block = {}
    for spec, start in header.entries:
        item = TensorSpec(spec.name, spec.dtype, (len(rows), *spec.shape[1:]))
        stream.seek(header.data_start + start + rows.start * (item.size_bytes // len(rows)))
        raw = stream.read(item.size_bytes)
        if len(raw) != item.size_bytes:
            raise InvalidRecord(
                f"{DATA}: the bytes of {spec.name} end early", slug="snapshot-broken"
            )
        array = np.frombuffer(raw, NUMPY_CODES[spec.dtype]).reshape(item.shape)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = next(i for i, row in zip(rows, array, strict=True) if not np.isfinite(row).all())
            raise InvalidRecord(
                f"{DATA} holds NaN or infinity in {spec.name} (first: record {bad})",
                slug="not-finite",
            )
        if spec.dtype == "BOOL" and array.view(np.uint8).max() > 1:
            raise InvalidRecord(
                f"{DATA}: {spec.name} holds truth values other than 0 and 1",
                slug="snapshot-broken",
            )
        block[spec.name] = array
    return block
