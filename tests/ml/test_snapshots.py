"""Reading tensors of strangers: whatever is not exactly right is refused before it is loaded."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from milepost_ml.digests import compute_content_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.snapshots import (
    MAX_HEADER_BYTES,
    TensorSpec,
    compute_stored_digest,
    encode_tensors,
    load_tensors,
    map_tensors,
    read_header,
    read_tensors,
    write_tensors,
)

TENSORS: dict[str, NDArray[Any]] = {
    "model.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model.count": np.array(4, dtype=np.int64),
    "model.mask": np.array([True, False]),
    "model.empty": np.zeros((0, 2), dtype=np.float32),
    "optimizer.weight.momentum_buffer": np.ones((2, 3), dtype=np.float32),
}
SPECS = (
    TensorSpec("model.weight", "F32", (2, 3)),
    TensorSpec("model.count", "I64", ()),
    TensorSpec("model.mask", "BOOL", (2,)),
    TensorSpec("model.empty", "F32", (0, 2)),
    TensorSpec("optimizer.weight.momentum_buffer", "F32", (2, 3)),
)


def make_file(table: object, data: bytes) -> bytes:
    """A safetensors file with any header."""
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(start: int, end: int, *, shape: list[object] | None = None, dtype: str = "F32") -> Any:
    values = shape if shape is not None else [(end - start) // 4]
    return {"dtype": dtype, "shape": values, "data_offsets": [start, end]}


def load(data: bytes, **options: Any) -> dict[str, NDArray[Any]]:
    return load_tensors(io.BytesIO(data), name="some.safetensors", **options)


def get_slug(action: Callable[[], object]) -> str:
    with pytest.raises(InvalidRecord) as caught:
        action()
    assert "some.safetensors" in str(caught.value)
    return caught.value.slug


def test_tensors_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    found = read_tensors(path, SPECS, finite=True)
    assert compute_content_digest(found) == compute_content_digest(TENSORS)
    assert compute_stored_digest(path) == compute_content_digest(TENSORS)
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


def test_equal_tensors_give_equal_files() -> None:
    shuffled = dict(reversed(TENSORS.items()))
    assert encode_tensors(shuffled) == encode_tensors(TENSORS)


def test_the_library_reads_what_we_write_and_we_read_what_it_writes() -> None:
    theirs = safetensors.numpy.load(encode_tensors(TENSORS))
    assert compute_content_digest(theirs) == compute_content_digest(TENSORS)
    ours = load(safetensors.numpy.save(TENSORS), expected=SPECS)
    assert compute_content_digest(ours) == compute_content_digest(TENSORS)


def test_large_data_are_mapped_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"data.0": np.arange(10, dtype=np.float32)})
    mapped = map_tensors(path, [TensorSpec("data.0", "F32", (10,))], name="data.safetensors")
    assert mapped["data.0"].tolist() == list(range(10))
    with pytest.raises(ValueError, match="read-only"):
        mapped["data.0"][0] = 1


def test_metadata_is_refused_in_records_and_tolerated_in_models_of_others() -> None:
    data = safetensors.numpy.save(TENSORS, metadata={"format": "np"})
    assert get_slug(lambda: load(data)) == "snapshot-broken"
    found = load(data, metadata_allowed=True)
    assert compute_content_digest(found) == compute_content_digest(TENSORS)


def test_a_re_saved_model_keeps_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(safetensors.numpy.save(TENSORS, metadata={"by": "another tool"}))
    assert compute_stored_digest(path) == compute_content_digest(TENSORS)


BROKEN = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no header": (0).to_bytes(8, "little"),
    "header beyond the end": make_file({"a": entry(0, 4)}, b"")[:20],
    "oversized header": (MAX_HEADER_BYTES + 1).to_bytes(8, "little")
    + b"{" * (MAX_HEADER_BYTES + 8),
    "absurd header": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": make_file(b"not json", b""),
    "a list": make_file([1], b""),
    "leading space": make_file(b" {}", b""),
    "not UTF-8": make_file(b'{"\xff": 1}', b""),
    "nested to death": make_file(b'{"a":' + b"[" * 100_000, b""),
    "truncated values": make_file({"a": entry(0, 8)}, b"1234"),
    "trailing bytes": make_file({"a": entry(0, 4)}, b"12345"),
    "a gap": make_file({"a": entry(0, 4), "b": entry(8, 12)}, b"123456789012"),
    "an overlap": make_file({"a": entry(0, 8), "b": entry(4, 12)}, b"123456789012"),
    "the same bytes twice": make_file({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"),
    "start behind end": make_file({"a": entry(4, 0)}, b"1234"),
    "negative offset": make_file({"a": entry(-4, 0)}, b""),
    "wrong size": make_file({"a": entry(0, 4, shape=[2])}, b"1234"),
    "product overflow": make_file({"a": entry(0, 0, shape=[2**40, 2**40])}, b""),
    "huge dimension": make_file({"a": entry(0, 0, shape=[2**70, 0])}, b""),
    "negative dimension": make_file({"a": entry(0, 4, shape=[-1, -1])}, b"1234"),
    "boolean dimension": make_file({"a": entry(0, 4, shape=[True])}, b"1234"),
    "float dimension": make_file({"a": entry(0, 4, shape=[1.0])}, b"1234"),
    "too many dimensions": make_file({"a": entry(0, 4, shape=[1] * 17)}, b"1234"),
    "digits without end": make_file(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,4]}}', b"1234"
    ),
    "duplicate name": make_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"1234",
    ),
    "duplicate field": make_file(
        b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', b"1234"
    ),
    "extra field": make_file({"a": {**entry(0, 4), "more": 1}}, b"1234"),
    "missing field": make_file({"a": {"dtype": "F32", "shape": [1]}}, b"1234"),
    "three offsets": make_file(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, b"1234"
    ),
    "empty name": make_file({"": entry(0, 4)}, b"1234"),
    "long name": make_file({"x" * 513: entry(0, 4)}, b"1234"),
    "unprintable name": make_file({"a\n": entry(0, 4)}, b"1234"),
    "metadata": make_file({"__metadata__": {}, "a": entry(0, 4)}, b"1234"),
    "odd truth value": make_file({"a": entry(0, 1, shape=[1], dtype="BOOL")}, b"\x02"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_files_are_refused(data: bytes) -> None:
    assert get_slug(lambda: load(data)) == "snapshot-broken"


def test_pickles_are_refused_unopened() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    assert buffer.getvalue()[:2] == b"PK"
    legacy = io.BytesIO()
    torch.save({"a": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)
    plain = [pickle.dumps({"a": 1.5}, protocol=protocol) for protocol in (2, 3, 4, 5)]
    for data in (buffer.getvalue(), legacy.getvalue(), *plain):
        assert get_slug(lambda data=data: load(data)) == "pickle-refused"  # type: ignore[misc]


def test_a_header_whose_length_begins_like_a_pickle_is_read() -> None:
    # 640 = 0x280 is written 80 02 00 00 ..., and 80 02 opens a pickle of protocol 2.
    raw = json.dumps({"a": entry(0, 4)}).encode()
    data = make_file(raw + b" " * (640 - len(raw)), b"1234")
    assert data[:2] == b"\x80\x02"
    assert list(load(data)) == ["a"]


def test_types_that_records_never_hold_are_refused() -> None:
    data = make_file({"a": entry(0, 4, shape=[2], dtype="BF16")}, b"1234")
    assert get_slug(lambda: load(data)) == "wrong-tensors"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("model.mask"), "model.mask"),
        (lambda t: t.update({"lora.A": np.ones(1, dtype=np.float32)}), "lora.A"),
        (lambda t: t.update({"model.weight": np.ones((3, 2), np.float32)}), "model.weight"),
        (lambda t: t.update({"model.weight": np.ones((2, 3), np.float64)}), "model.weight"),
    ],
)
def test_other_tensors_than_expected_are_refused(
    change: Callable[[dict[str, NDArray[Any]]], object], told: str
) -> None:
    tensors = dict(TENSORS)
    change(tensors)
    data = encode_tensors(tensors)
    with pytest.raises(InvalidRecord, match=told) as caught:
        load(data, expected=SPECS)
    assert caught.value.slug == "wrong-tensors"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_when_asked(value: float) -> None:
    tensors: dict[str, NDArray[Any]] = {
        "a": np.array([1, value], dtype=np.float32),
        "b": np.array([1], dtype=np.int64),
    }
    data = encode_tensors(tensors)
    assert get_slug(lambda: load(data, finite=True)) == "not-finite"
    assert len(load(data)) == 2


def test_a_missing_file_is_an_invalid_record(tmp_path: Path) -> None:
    assert get_slug(lambda: read_tensors(tmp_path / "some.safetensors")) == "snapshot-broken"


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.ones(2, dtype=np.float32)})
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_tensors(path, {"a": np.zeros(2, dtype=np.float32)})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


@given(st.binary(max_size=200))
@example(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        tensors = load(data)
    except InvalidRecord:
        return
    assert compute_content_digest(load(encode_tensors(tensors))) == compute_content_digest(tensors)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["F32", "I64", "BOOL", "dtype", "shape", "data_offsets"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a", "b", "__metadata__"]), inner
        )
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "U8", "BOOL", "F9"]) | JSON,
        "shape": st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 20), min_size=1, max_size=3) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=3), ENTRY | JSON, max_size=3), st.binary(max_size=40))
def test_any_header_describes_its_bytes_exactly_or_is_refused(
    table: dict[str, object], data: bytes
) -> None:
    file = make_file(table, data)
    try:
        header = read_header(io.BytesIO(file), name="some.safetensors")
    except InvalidRecord:
        return
    assert sum(spec.size_bytes for spec in header.specs) == len(data)
    assert header.data_start + len(data) == len(file)
    # Whatever we accept, the reference library reads alike.
    if all(spec.dtype != "BOOL" for spec in header.specs):
        theirs = safetensors.numpy.load(file)
        assert {name: array.tobytes() for name, array in theirs.items()} == {
            name: array.tobytes() for name, array in load(file).items()
        }


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_flipped_byte_is_never_read_as_something_of_another_size(place: int, mask: int) -> None:
    data = bytearray(encode_tensors(TENSORS))
    data[place % len(data)] ^= mask
    try:
        tensors = load(bytes(data), expected=SPECS)
    except InvalidRecord:
        return
    assert {name: array.shape for name, array in tensors.items()} == {
        spec.name: spec.shape for spec in SPECS
    }


def test_the_header_begins_with_its_length() -> None:
    data = encode_tensors(TENSORS)
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert set(json.loads(data[8 : 8 + length])) == set(TENSORS)
