"""A record as files: which files it has, where they lie, and the manifest that names them all.

    recipe.json | data.safetensors | mileposts/00000.safetensors ... | steps/00000.bin ...

One snapshot more than step files.  A reader asks a `RecordFiles` for a path by such a name and
never builds one from what a submitter wrote.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from milepost_consensus.params import MAX_INTERVALS, MAX_SUBMISSION_BYTES
from milepost_ml.errors import InvalidRecord

MANIFEST_FORMAT: Final = "milepost/manifest/1"
MAX_MANIFEST_BYTES: Final = 2 * 1024 * 1024
"""The longest run has about 4,100 files of 130 bytes each."""
RECIPE: Final = "recipe.json"
DATA: Final = "data.safetensors"
MODEL: Final = "model.safetensors"
RUN: Final = "run.json"
BEGUN: Final = "begun.json"
"""What an unfinished run was begun with; gone once it is finished."""
JOURNAL: Final = "journal.jsonl"
GRADIENTS: Final = "gradients.secret"
"""Digests of all gradients, which the submitter keeps to itself."""
SELFCHECK: Final = "selfcheck.json"
TENSORS: Final = "tensors.bin"
"""Digests by tensor of the first interval's strides, for finding what differs; never submitted."""
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES: Final = 1024 * 1024


def get_snapshot_name(index: int) -> str:
    """The file of snapshot `index`, the state before interval `index`."""
    return f"mileposts/{index:05d}.safetensors"


def get_steps_name(interval: int) -> str:
    """The file of an interval's step commitments."""
    return f"steps/{interval:05d}.bin"


def compute_file_names(intervals: int) -> list[str]:
    """Every file of a record with so many intervals, sorted."""
    return sorted(
        [RECIPE, DATA]
        + [get_snapshot_name(index) for index in range(intervals + 1)]
        + [get_steps_name(interval) for interval in range(intervals)]
    )


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a record; `digest` is the plain SHA-256 of its bytes in hex."""

    name: str
    digest: str
    size: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All files of a record, sorted by name."""

    files: tuple[ManifestFile, ...]
    format: str = MANIFEST_FORMAT

    @property
    def intervals(self) -> int:
        return (len(self.files) - 3) // 2

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


def validate_manifest(manifest: Manifest) -> None:
    """Raises InvalidRecord (bad-manifest) unless it names exactly the files of a record."""
    if manifest.format != MANIFEST_FORMAT:
        raise _bad(f"its format is {manifest.format[:40]!r}, not {MANIFEST_FORMAT!r}")
    count = len(manifest.files)
    if count < 5 or count % 2 == 0 or manifest.intervals > MAX_INTERVALS:
        raise _bad(f"{count} files are not those of a run with 1 to {MAX_INTERVALS} intervals")
    names = compute_file_names(manifest.intervals)
    for file, name in zip(manifest.files, names, strict=True):
        if file.name != name:
            raise _bad(f"it names {file.name[:80]!r} where {name!r} must stand")
        if not _HEX.fullmatch(file.digest):
            raise _bad(f"the digest of {name} is not 64 hexadecimal digits")
        if not 0 < file.size <= MAX_SUBMISSION_BYTES:
            raise _bad(f"{name} cannot have {file.size} bytes")
    if manifest.size_bytes > MAX_SUBMISSION_BYTES:
        raise _bad(f"{manifest.size_bytes} bytes in all, the limit is {MAX_SUBMISSION_BYTES}")


def _bad(what: str) -> InvalidRecord:
    return InvalidRecord(f"the manifest is unusable: {what}", slug="bad-manifest")


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical JSON of a manifest: the blob that Submit.manifest is the digest of."""
    return msgspec.json.encode(manifest, order="sorted")


def decode_manifest(data: bytes) -> Manifest:
    """Read a manifest; raises InvalidRecord (bad-manifest) for anything not written by us."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise _bad(f"{len(data)} bytes, the limit is {MAX_MANIFEST_BYTES}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The name of an unknown field may be as long as the file.
        raise _bad(str(error)[:300]) from error
    validate_manifest(manifest)
    if encode_manifest(manifest) != data:
        raise _bad("the bytes are not its canonical encoding")
    return manifest


def hash_stream(stream: io.BufferedIOBase) -> bytes:
    """SHA-256 of what is left of a stream; of a whole file, its name as a blob."""
    hasher = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        hasher.update(block)
    return hasher.digest()


class RecordFiles(Protocol):
    """Where the files of one record lie."""

    def path(self, name: str) -> Path:
        """The path of a file by its name in the record; raises InvalidRecord if it has none."""


class FolderFiles:
    """A record in the folder in which it was recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        path = self.folder / name
        try:
            regular = stat.S_ISREG(path.lstat().st_mode)
        except OSError as error:
            raise InvalidRecord(
                f"{name} cannot be read: {error.strerror}", slug="incomplete"
            ) from error
        if not regular:
            raise InvalidRecord(f"{name} is not a plain file", slug="incomplete")
        return path


class BlobFiles:
    """A record whose files lie in a content-addressed store."""

    def __init__(self, manifest: Manifest, blob_path: Callable[[bytes], Path]) -> None:
        self._digests = {file.name: bytes.fromhex(file.digest) for file in manifest.files}
        self._blob_path = blob_path

    def path(self, name: str) -> Path:
        digest = self._digests.get(name)
        if digest is None:
            raise InvalidRecord(f"the manifest names no {name}", slug="bad-manifest")
        return self._blob_path(digest)


@contextmanager
def open_file(files: RecordFiles, name: str) -> Iterator[io.BufferedReader]:
    """A file of the record; raises InvalidRecord, slug incomplete, if it cannot be read."""
    try:
        with files.path(name).open("rb") as stream:
            yield stream
    except OSError as error:
        raise InvalidRecord(
            f"{name} cannot be read: {error.strerror}", slug="incomplete"
        ) from error


def compute_manifest(files: RecordFiles, intervals: int) -> Manifest:
    """The manifest of exactly the files that a record of so many intervals has.

    Reads and hashes every file.  Raises InvalidRecord: incomplete if one is missing, bad-manifest
    for an impossible number or size.
    """
    entries = []
    for name in compute_file_names(intervals):
        with open_file(files, name) as stream:
            digest = hash_stream(stream)
            entries.append(ManifestFile(name, digest.hex(), stream.tell()))
    manifest = Manifest(tuple(entries))
    validate_manifest(manifest)
    return manifest


def build_manifest(folder: Path) -> Manifest:
    """The manifest of a recorded folder, which has as many intervals as it has steps files."""
    intervals = sum(1 for _ in (folder / "steps").glob("*.bin"))
    return compute_manifest(FolderFiles(folder), intervals)


def write_atomically(path: Path, write: Callable[[io.BufferedIOBase], object]) -> None:
    """Give `path` the bytes that `write` writes, whole and on disk, or leave it as it was.

    Raises OSError when the disk refuses.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, which syncing the files does not; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """`write_atomically` for bytes at hand."""

    write_atomically(path, lambda stream: stream.write(data))
