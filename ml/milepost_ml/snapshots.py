"""Tensors on disk: a strict reader and a deterministic writer of the safetensors format.

    u64 header size | header: JSON {name: {"dtype", "shape", "data_offsets"}} | bytes

A file is read only after its header has proved to describe exactly the bytes that follow it and,
where the reader knows what to expect, exactly the tensors expected.  The writer orders names, pads
the header to eight bytes and stores no metadata, so equal tensors give equal files.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from milepost_ml.digests import (
    ITEM_BYTES,
    NUMPY_CODES,
    encode_content_start,
    encode_tensor_header,
    get_dtype_name,
    get_raw,
)
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import write_atomically

if TYPE_CHECKING:
    from milepost_ml.digests import Array

MAX_HEADER_BYTES: Final = 1024 * 1024
"""About ten thousand tensors; a header is parsed before anything about it is trusted."""
MAX_NAME_BYTES: Final = 512
MAX_DIMENSIONS: Final = 16
MAX_TENSOR_BYTES: Final = 2**40
_BLOCK_BYTES: Final = 4 * 1024 * 1024


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tensor must be: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class _Entry(NamedTuple):
    spec: TensorSpec
    start: int
    """Where the tensor's bytes begin, counted from the end of the header."""


class Header(NamedTuple):
    """A checked header: the tensors in the order of their bytes, and where these begin."""

    entries: tuple[_Entry, ...]
    data_start: int

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(entry.spec for entry in self.entries)


def _broken(name: str, what: str) -> InvalidRecord:
    return InvalidRecord(f"{name}: {what}", slug="snapshot-broken")


def _refuse_foreign(name: str, start: bytes) -> None:
    """Name the usual wrong kinds of file; a plain safetensors header never gets here."""
    # A truncated file's header size may begin like a pickle, but its upper bytes are zero.
    pickled = start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and any(start[3:])
    if pickled or start[:4] == b"PK\x03\x04":
        raise InvalidRecord(
            f"{name} is a pickle, as torch.save writes it; it can run code when opened, so it"
            " was not opened. Save the tensors with safetensors instead",
            slug="pickle-refused",
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_TENSOR_BYTES


def _parse_entry(file: str, name: str, value: object) -> tuple[_Entry, int]:
    """One tensor of the header, with the end of its bytes."""
    if not name.isprintable() or not 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
        raise _broken(file, f"a tensor name is empty, unprintable or over {MAX_NAME_BYTES} bytes")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _broken(file, f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise InvalidRecord(
            f"{file}: {name} holds {str(dtype)[:16]}, a record holds only {', '.join(ITEM_BYTES)}",
            slug="wrong-tensors",
        )
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(_is_size(length) for length in shape)
        or math.prod(max(1, length) for length in shape) > MAX_TENSOR_BYTES
        or not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_size(offset) for offset in offsets)
    ):
        raise _broken(file, f"{name} has an impossible shape or place")
    spec = TensorSpec(name, dtype, tuple(shape))
    if offsets[1] - offsets[0] != spec.size_bytes or spec.size_bytes > MAX_TENSOR_BYTES:
        raise _broken(
            file,
            f"{name} needs {spec.size_bytes} bytes, its place has {offsets[1] - offsets[0]}",
        )
    return _Entry(spec, offsets[0]), offsets[1]


def _parse_header(file: str, raw: bytes, *, metadata_allowed: bool) -> tuple[list[_Entry], int]:
    """The tensors in the order of their bytes, with the end of the last."""
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"the header is not plain JSON with unique names ({error})") from error
    if not isinstance(table, dict) or not raw.startswith(b"{"):
        raise _broken(file, "the header is not a table of tensors")
    if metadata_allowed:
        table.pop("__metadata__", None)
    elif "__metadata__" in table:
        raise _broken(file, "the header carries metadata, which files of a record never do")
    places = sorted(
        (_parse_entry(file, name, value) for name, value in table.items()),
        key=lambda place: (place[0].start, place[1]),
    )
    end = 0
    for entry, stop in places:
        if entry.start != end:
            raise _broken(file, f"the bytes of {entry.spec.name} overlap others or leave a gap")
        end = stop
    return [entry for entry, _ in places], end


def read_header(stream: io.BufferedIOBase, *, name: str, metadata_allowed: bool = False) -> Header:
    """Check a safetensors stream from its beginning and return what it holds, unread.

    `name` is how errors call the stream.  Raises InvalidRecord: snapshot-broken (truncated,
    trailing, overlapping or malformed), wrong-tensors (a dtype that no record holds) or
    pickle-refused.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8) or length < 2:
        _refuse_foreign(name, start)
        raise _broken(
            name,
            f"the header claims {length} bytes, the file has {size} and a header at most"
            f" {MAX_HEADER_BYTES}",
        )
    raw = stream.read(length)
    entries, end = _parse_header(name, raw, metadata_allowed=metadata_allowed)
    if 8 + length + end != size:
        raise _broken(name, f"the header says {8 + length + end} bytes, the file has {size}")
    return Header(tuple(entries), 8 + length)


def validate_specs(name: str, specs: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> None:
    """Raises InvalidRecord (wrong-tensors) unless both hold the same tensors in any order."""
    have = {spec.name: spec for spec in specs}
    want = {spec.name: spec for spec in expected}
    missing, extra = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    if missing or extra:
        parts = [
            f"{label} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for label, names in (("lacks", missing), ("has the unexpected", extra))
            if names
        ]
        raise InvalidRecord(
            f"{name} has {len(have)} tensors, {len(want)} follow from the recipe: it"
            f" {' and '.join(parts)}",
            slug="wrong-tensors",
        )
    for tensor, spec in want.items():
        if have[tensor] != spec:
            raise InvalidRecord(
                f"{name}: {tensor} is {have[tensor].dtype} {list(have[tensor].shape)}, the recipe"
                f" says {spec.dtype} {list(spec.shape)}",
                slug="wrong-tensors",
            )


def _validate_finite(name: str, tensors: Mapping[str, Array]) -> None:
    import numpy as np

    bad = [
        tensor
        for tensor, array in sorted(tensors.items())
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if bad:
        raise InvalidRecord(
            f"{name} holds NaN or infinity in {len(bad)} tensors (first: {bad[0]})."
            " The training diverged; there is nothing to verify",
            slug="not-finite",
        )


def load_tensors(
    stream: io.BufferedIOBase,
    *,
    name: str,
    expected: Sequence[TensorSpec] | None = None,
    only: Container[str] | None = None,
    finite: bool = False,
    metadata_allowed: bool = False,
) -> dict[str, Array]:
    """Read a stream as `read_tensors` reads a file; with `only`, the values of these tensors."""
    import numpy as np

    header = read_header(stream, name=name, metadata_allowed=metadata_allowed)
    if expected is not None:
        validate_specs(name, header.specs, expected)
    tensors: dict[str, Array] = {}
    for spec, start in header.entries:
        if only is not None and spec.name not in only:
            continue
        array = np.empty(spec.shape, dtype=NUMPY_CODES[spec.dtype])
        raw = array.reshape(-1).view(np.uint8)
        stream.seek(header.data_start + start)
        filled = 0
        # A single read may return less than asked for.
        while filled < raw.size:
            count = stream.readinto(raw.data[filled : filled + _BLOCK_BYTES])
            if not count:
                raise _broken(name, f"the bytes of {spec.name} end early")
            filled += count
        # Other bytes than 0 and 1 would be booleans that libraries read differently.
        if spec.dtype == "BOOL" and raw.size and raw.max() > 1:
            raise _broken(name, f"{spec.name} holds truth values other than 0 and 1")
        tensors[spec.name] = array
    if finite:
        _validate_finite(name, tensors)
    return tensors


def read_tensors(
    path: Path,
    expected: Sequence[TensorSpec] | None = None,
    *,
    finite: bool = False,
    metadata_allowed: bool = False,
) -> dict[str, Array]:
    """The tensors of a safetensors file, as arrays of their own.

    With `expected`, exactly these tensors must be there; with `finite`, NaN and infinity are
    refused.  Raises InvalidRecord as `read_header`, and wrong-tensors, not-finite.
    """
    with _open(path) as stream:
        return load_tensors(
            stream,
            name=path.name,
            expected=expected,
            finite=finite,
            metadata_allowed=metadata_allowed,
        )


def map_tensors(path: Path, expected: Sequence[TensorSpec], *, name: str) -> dict[str, Array]:
    """The tensors of a file as read-only views of it, for data too large to hold.

    Checks as `read_tensors`, except that values of booleans are left to whoever reads them.
    `name` is how errors call the file.
    """
    import numpy as np

    with _open(path) as stream:
        header = read_header(stream, name=name)
        validate_specs(name, header.specs, expected)
        return {
            spec.name: np.memmap(
                stream,
                dtype=NUMPY_CODES[spec.dtype],
                mode="r",
                offset=header.data_start + start,
                shape=spec.shape,
            )
            for spec, start in header.entries
        }


def compute_stored_digest(path: Path) -> bytes:
    """The content digest of a safetensors file of any origin, computed without numpy.

    The digest of `digests.compute_content_digest` over the same tensors.  Raises InvalidRecord.
    """
    from blake3 import blake3

    with _open(path) as stream:
        header = read_header(stream, name=path.name, metadata_allowed=True)
        hasher = blake3()
        hasher.update(encode_content_start(len(header.entries)))
        for spec, start in sorted(header.entries, key=lambda entry: entry.spec.name):
            hasher.update(encode_tensor_header(spec.name, spec.dtype, spec.shape))
            stream.seek(header.data_start + start)
            left = spec.size_bytes
            while left:
                block = stream.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise _broken(path.name, f"the bytes of {spec.name} end early")
                hasher.update(block)
                left -= len(block)
        return hasher.digest()


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidRecord(
            f"{path.name} cannot be read: {error.strerror}", slug="snapshot-broken"
        ) from error


def encode_tensors(tensors: Mapping[str, Array]) -> bytes:
    """The one safetensors file that this package writes for these tensors."""
    buffer = io.BytesIO()
    _write(buffer, tensors)
    return buffer.getvalue()


def encode_header(specs: Sequence[TensorSpec]) -> bytes:
    """The header that this package writes for these tensors: names in order, eight-byte padding."""
    table, end = {}, 0
    for spec in sorted(specs, key=lambda spec: spec.name):
        table[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.size_bytes],
        }
        end += spec.size_bytes
    raw = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    return raw + b" " * (-len(raw) % 8)


def _write(stream: io.BufferedIOBase, tensors: Mapping[str, Array]) -> None:
    raw = encode_header(
        [
            TensorSpec(name, get_dtype_name(array.dtype), array.shape)
            for name, array in tensors.items()
        ]
    )
    assert len(raw) <= MAX_HEADER_BYTES, "the recipe's rules keep headers readable"
    stream.write(len(raw).to_bytes(8, "little") + raw)
    for name in sorted(tensors):
        stream.write(get_raw(tensors[name]))


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a safetensors file that is complete under its name or not there at all.

    Raises OSError when the disk refuses.
    """
    write_atomically(path, lambda stream: _write(stream, tensors))
