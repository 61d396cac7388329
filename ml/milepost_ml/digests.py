"""The identity of tensors, states, records and batches.

A content digest is BLAKE3-256 over the names, dtypes, shapes and bytes of tensors in name order;
file bytes are not the identity of a model, because writers order and pad headers differently:

    "milepost/v1/tensors" 00 | u32 count | per tensor, sorted by name:
    u16 len(name) name | u8 len(dtype) dtype | u8 ndim | u64 dims... | u64 nbytes | raw bytes

All integers and values are little-endian, values in C order, dtypes in safetensors spelling
("F32").  Bulk goes through BLAKE3, everything of fixed size through the SHA-256 of `crypto`.
Nothing here needs numpy at run time: arrays are read through the buffer protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from milepost_consensus.crypto import compute_digest
from milepost_consensus.merkle import compute_root
from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.errors import InvalidRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_PREFIX: Final = b"milepost/v1/tensors\x00"

ITEM_BYTES: Final = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F16": 2,
    "F32": 4,
    "F64": 8,
}
"""The dtypes a record may hold, in safetensors spelling, with their size in bytes."""

NUMPY_CODES: Final = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
"""numpy's spelling (`dtype.str`) of the same."""

_NAMES: Final = {code: name for name, code in NUMPY_CODES.items()}

MODEL_PREFIX: Final = "model."
OPTIMIZER_PREFIX: Final = "optimizer."


def get_dtype_name(dtype: np.dtype[Any]) -> str:
    """The safetensors spelling of a numpy dtype; raises InvalidRecord for one that has none."""
    name = _NAMES.get(dtype.str)
    if name is None:
        raise InvalidRecord(
            f"values of type {dtype} cannot be recorded, only {', '.join(ITEM_BYTES)}",
            slug="wrong-tensors",
        )
    return name


def encode_tensor_header(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    """What precedes a tensor's raw bytes in a content digest."""
    text, size = name.encode(), ITEM_BYTES[dtype]
    for length in shape:
        size *= length
    return b"".join(
        (
            len(text).to_bytes(2, "little"),
            text,
            len(dtype).to_bytes(1, "little"),
            dtype.encode(),
            len(shape).to_bytes(1, "little"),
            *(length.to_bytes(8, "little") for length in shape),
            size.to_bytes(8, "little"),
        )
    )


def encode_content_start(count: int) -> bytes:
    """The first bytes of a content digest over `count` tensors."""
    return _PREFIX + count.to_bytes(4, "little")


def get_raw(array: Array) -> Any:
    """A C-ordered array's bytes as a buffer, without copying where its layout allows."""
    contiguous = array if array.flags.c_contiguous else array.copy(order="C")
    # The buffer protocol gives no flat view of a scalar, nor of nothing.
    return contiguous.reshape(-1).view("u1") if contiguous.size else b""


def iterate_content(tensors: Mapping[str, Array]) -> Iterable[Any]:
    """The byte stream whose hash is the content digest, in pieces."""
    yield encode_content_start(len(tensors))
    for name in sorted(tensors):
        array = tensors[name]
        yield encode_tensor_header(name, get_dtype_name(array.dtype), array.shape)
        yield get_raw(array)


def compute_content_digest(tensors: Mapping[str, Array]) -> bytes:
    """The 32-byte identity of named tensors, whatever file they lie in."""
    hasher = blake3()
    for piece in iterate_content(tensors):
        hasher.update(piece)
    return hasher.digest()


def split_state(
    tensors: Mapping[str, Array],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """A snapshot's tensors as (model, optimizer), each under its own names."""
    model, optimizer = {}, {}
    for name, array in tensors.items():
        if name.startswith(MODEL_PREFIX):
            model[name.removeprefix(MODEL_PREFIX)] = array
        else:
            optimizer[name.removeprefix(OPTIMIZER_PREFIX)] = array
    return model, optimizer


def compute_snapshot_digest(step: int, tensors: Mapping[str, Array]) -> bytes:
    """The state digest S_step of a snapshot's tensors ("model.*" and "optimizer.*")."""
    model, optimizer = split_state(tensors)
    return compute_state_digest(
        step, compute_content_digest(model), compute_content_digest(optimizer)
    )


def compute_record_digests(
    data: Mapping[str, Array], indices: Sequence[int] | None = None
) -> list[bytes]:
    """The digests of the records of a data set (all, or the ones named), in order.

    `data` maps "data.0", "data.1", ... to arrays whose first dimension counts the records; a
    record is the i-th row of each.
    """
    names = sorted(data)
    arrays = [data[name] for name in names]
    records = arrays[0].shape[0]
    headers = [
        encode_tensor_header(name, get_dtype_name(array.dtype), array.shape[1:])
        for name, array in zip(names, arrays, strict=True)
    ]
    headers[0] = encode_content_start(len(names)) + headers[0]
    # One flat byte row per record: a plain slice then is the record's raw bytes.
    rows = [
        (array if array.flags.c_contiguous else array.copy(order="C")).reshape(records, -1)
        for array in arrays
    ]
    parts = list(zip(headers, [row.view("u1").data for row in rows], strict=True))
    digests = []
    for index in range(records) if indices is None else indices:
        hasher = blake3()
        for header, row in parts:
            hasher.update(header)
            hasher.update(row[index : index + 1])
        digests.append(compute_digest("record", hasher.digest()))
    return digests


def compute_dataset_root(record_digests: Sequence[bytes]) -> bytes:
    """The Merkle root over the records in order."""
    return compute_root(record_digests)


def compute_batch_digest(record_digests: Iterable[bytes]) -> bytes:
    """The digest of a batch: its records' digests in the order in which they are fed."""
    return compute_digest("batch", b"".join(record_digests))
