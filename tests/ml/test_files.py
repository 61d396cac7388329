"""Manifests name exactly the files of a record; readers never build paths from strangers' text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.params import MAX_INTERVALS
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import (
    MAX_MANIFEST_BYTES,
    BlobFiles,
    FolderFiles,
    Manifest,
    ManifestFile,
    build_manifest,
    compute_file_names,
    decode_manifest,
    encode_manifest,
)

DIGEST = "ab" * 32


def make_manifest(intervals: int = 2) -> Manifest:
    return Manifest(
        tuple(ManifestFile(name, DIGEST, 100) for name in compute_file_names(intervals))
    )


def make_folder(root: Path, intervals: int = 2) -> Path:
    for name in compute_file_names(intervals):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_a_manifest_lists_every_file_with_its_digest(tmp_path: Path) -> None:
    manifest = build_manifest(make_folder(tmp_path))
    assert [file.name for file in manifest.files] == [
        "data.safetensors",
        "mileposts/00000.safetensors",
        "mileposts/00001.safetensors",
        "mileposts/00002.safetensors",
        "recipe.json",
        "steps/00000.bin",
        "steps/00001.bin",
    ]
    for file in manifest.files:
        assert file.digest == hashlib.sha256(file.name.encode()).hexdigest()
        assert file.size == len(file.name)
    assert manifest.intervals == 2
    assert manifest.size_bytes == sum(len(file.name) for file in manifest.files)


@given(st.integers(1, 40))
def test_manifests_survive_encoding(intervals: int) -> None:
    manifest = make_manifest(intervals)
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_the_largest_manifest_fits_its_limit() -> None:
    files = tuple(ManifestFile(n, DIGEST, 2**28) for n in compute_file_names(MAX_INTERVALS))
    assert len(encode_manifest(Manifest(files))) <= MAX_MANIFEST_BYTES


def edit(change: Callable[[list[ManifestFile]], object]) -> bytes:
    files = list(make_manifest().files)
    change(files)
    return encode_manifest(Manifest(tuple(files)))


def rename(name: str) -> Callable[[list[ManifestFile]], None]:
    def change(files: list[ManifestFile]) -> None:
        files[0] = msgspec.structs.replace(files[0], name=name)

    return change


BAD = {
    "nothing": b"",
    "no JSON": b"{",
    "nested to death": b"[" * 100_000,
    "too long": b" " * (MAX_MANIFEST_BYTES + 1),
    "unknown field": b'{"files":[],"format":"milepost/manifest/1","more":1}',
    "no files": encode_manifest(Manifest(())),
    "missing file": edit(lambda files: files.pop(1)),
    "file twice": edit(lambda files: files.append(files[-1])),
    "unsorted": edit(lambda files: files.reverse()),
    "escape": edit(rename("../../etc/passwd")),
    "absolute": edit(rename("/etc/passwd")),
    "wide digits": edit(rename("mileposts/0000\u0660.safetensors")),
    "short digest": edit(
        lambda files: files.__setitem__(0, msgspec.structs.replace(files[0], digest="ab"))
    ),
    "empty file": edit(
        lambda files: files.__setitem__(0, msgspec.structs.replace(files[0], size=0))
    ),
    "absurd size": edit(
        lambda files: files.__setitem__(0, msgspec.structs.replace(files[0], size=2**41))
    ),
    "absurd sum": edit(
        lambda files: files.__setitem__(
            slice(None), [msgspec.structs.replace(file, size=2**39) for file in files]
        )
    ),
    "other format": encode_manifest(msgspec.structs.replace(make_manifest(), format="x")),
    "too many intervals": encode_manifest(make_manifest(MAX_INTERVALS + 1)),
    "not canonical": encode_manifest(make_manifest()) + b"\n",
    "upper-case digest": encode_manifest(make_manifest()).replace(b"abab", b"ABAB"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_other_manifests_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecord) as caught:
        decode_manifest(data)
    assert caught.value.slug == "bad-manifest"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "mileposts" / "00001.safetensors").unlink()
    with pytest.raises(InvalidRecord, match=r"mileposts/00001\.safetensors") as caught:
        build_manifest(tmp_path)
    assert caught.value.slug == "incomplete"


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("do not send")
    folder = make_folder(tmp_path / "run")
    (folder / "recipe.json").unlink()
    (folder / "recipe.json").symlink_to(secret)
    with pytest.raises(InvalidRecord, match="not a plain file"):
        FolderFiles(folder).path("recipe.json")


def test_blobs_are_found_by_the_names_of_the_manifest_only(tmp_path: Path) -> None:
    files = BlobFiles(make_manifest(), lambda digest: tmp_path / digest.hex())
    assert files.path("recipe.json") == tmp_path / DIGEST
    with pytest.raises(InvalidRecord) as caught:
        files.path("mileposts/00099.safetensors")
    assert caught.value.slug == "bad-manifest"
