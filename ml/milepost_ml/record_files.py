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
    get_frozen_names,
    get_snapshot_specs,
    get_strides,
)
from milepost_ml.snapshots import (
    Header,
    TensorSpec,
    load_tensors,
    read_header,
    validate_specs,
)

BATCH_BYTES: Final = 32
LOSS_BYTES: Final = 4
STRIDE_BYTES: Final = 64
"""What a stride takes besides batch and loss of every step: gradient commitment, state after."""
MAX_RECORDS_READ: Final = 2**24
"""The digests of sixteen million records take about a gigabyte of memory."""
_BLOCK_BYTES: Final = 4 * 1024 * 1024


class StepCommitment(NamedTuple):
    """What the submitter committed about one stride, often a single step."""

    batch: bytes
    """The digests of the batches, one after the other."""
    gradient: bytes
    """A digest of the last gradient's content digest, which the record does not hold."""
    loss: bytes
    """Four bytes a step: float32, little-endian."""
    post: bytes
    """State digest after the last step."""

    @property
    def batches(self) -> list[bytes]:
        """The batch digest of every step."""
        return [self.batch[at : at + BATCH_BYTES] for at in range(0, len(self.batch), BATCH_BYTES)]

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of every step."""
        return struct.unpack(f"<{len(self.loss) // LOSS_BYTES}f", self.loss)


def compute_stride_bytes(steps: int) -> int:
    """The size of a stride of so many steps in a steps file."""
    return STRIDE_BYTES + steps * (BATCH_BYTES + LOSS_BYTES)


def read_recipe(files: RecordFiles) -> tuple[bytes, Recipe]:
    """The recipe with its canonical bytes; raises InvalidRecord: bad-recipe, unknown-operator."""
    with open_file(files, RECIPE) as stream:
        data = stream.read(MAX_RECIPE_BYTES + 1)
    return data, decode_recipe(data)


def read_state(files: RecordFiles, recipe: Recipe, snapshot: int) -> dict[str, NDArray[Any]]:
    """The complete state of a snapshot, "model.*" and "optimizer.*", all values finite.

    Raises InvalidRecord: snapshot-broken, wrong-tensors, not-finite, pickle-refused.
    """
    name, frozen = get_snapshot_name(snapshot), get_frozen_names(recipe)
    step = min(snapshot * recipe.steps_per_interval, recipe.steps)
    expected = get_snapshot_specs(recipe, step)
    if not snapshot or not frozen:
        with open_file(files, name) as stream:
            return load_tensors(stream, name=name, expected=expected, finite=True)
    moving = [spec for spec in expected if spec.name not in frozen]
    with open_file(files, name) as stream:
        state = load_tensors(stream, name=name, expected=moving, finite=True)
    first, specs = get_snapshot_name(0), get_snapshot_specs(recipe, 0)
    with open_file(files, first) as stream:
        return state | load_tensors(stream, name=first, expected=specs, only=frozen, finite=True)


def get_parameters(recipe: Recipe, state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The parameters of a state under their own names, without buffers and optimizer."""
    return {item.name: state[MODEL_PREFIX + item.name] for item in recipe.parameters}


def read_steps(files: RecordFiles, recipe: Recipe, interval: int) -> list[StepCommitment]:
    """The commitments of an interval, stride by stride.

    Raises InvalidRecord: snapshot-broken, not-finite.
    """
    name = get_steps_name(interval)
    strides = get_strides(recipe, interval)
    expected = sum(compute_stride_bytes(len(stride)) for stride in strides)
    with open_file(files, name) as stream:
        data = stream.read(expected + 1)
        size = stream.seek(0, io.SEEK_END)
    if size != expected:
        raise InvalidRecord(
            f"{name}: {sum(map(len, strides))} steps take {expected:,} bytes, the file has"
            f" {size:,}",
            slug="snapshot-broken",
        )
    rows, at = [], 0
    for stride in strides:
        count = len(stride)
        parts = struct.unpack_from(f"{BATCH_BYTES * count}s32s{LOSS_BYTES * count}s32s", data, at)
        at += compute_stride_bytes(count)
        rows.append(StepCommitment(*parts))
        for step, loss in zip(stride, rows[-1].losses, strict=True):
            if not math.isfinite(loss):
                raise InvalidRecord(
                    f"{name}: the loss of step {step} is {loss}. The training diverged; there is"
                    " nothing to verify",
                    slug="not-finite",
                )
    return rows


def compute_step_digests(pre: bytes, rows: Sequence[StepCommitment]) -> list[bytes]:
    """The step digests of consecutive strides, the first of which starts at state `pre`."""
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
