"""The folder of a run while it is recorded: made, begun, and found again after a crash.

Before the first step everything is written that no later file repeats: data, snapshot 0, what
run.json says, and in begun.json the recipe as far as it is known.  An interval is on disk once its
snapshot is: what belongs to it is written and synced before.  So the last snapshot that is whole
tells where a run that was killed goes on, and everything behind it is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from milepost_consensus.step_digests import count_strides
from milepost_ml.digests import compute_snapshot_digest
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.files import (
    BEGUN,
    DATA,
    GRADIENTS,
    JOURNAL,
    RUN,
    FolderFiles,
    get_snapshot_name,
    get_steps_name,
    sync_folder,
    write_bytes,
)
from milepost_ml.recipe import Recipe, get_steps
from milepost_ml.record_files import read_state, read_steps
from milepost_ml.refutation import GRADIENT_BYTES
from milepost_ml.snapshots import write_tensors
from milepost_ml.updates import Group, Rates, append_rate

if TYPE_CHECKING:
    from milepost_ml.digests import Array

MAX_BEGUN_BYTES: Final = 64 * 1024 * 1024
"""A recipe, and in run lengths the learning rates of a registered run."""


class Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was settled before the first step."""

    recipe: Recipe
    """Without steps and rates."""
    steps: int
    """As many as were planned."""
    rates: tuple[Rates, ...]
    """The learning rates of all steps of a registered run, by group; nothing for any other."""
    dataset_root: str
    registration: str
    """Ids in hex, as in `parent`; empty without one."""
    parent: str


class Progress(NamedTuple):
    """How far a record has come: the state at the end of its last whole interval."""

    state: Mapping[str, Array]
    """A snapshot's tensors."""
    intervals: int = 0
    steps: int = 0
    rates: tuple[Rates, ...] = ()
    """Those of the steps so far, by group; nothing before the first interval."""


class Unfinished(NamedTuple):
    """A run that was begun and not finished."""

    folder: Path
    begun: Begun
    about: dict[str, Any]
    """What run.json says."""


def make_folder(parent: Path, name: str) -> Path:
    """A new folder for a run: `parent`/`name`-0001, or the next free number.  Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max(_find_numbers(parent, name), default=0) + 1
    while True:
        folder = parent / f"{name}-{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _find_numbers(parent: Path, name: str) -> dict[int, Path]:
    """What lies in a folder under a run's name, by number."""
    return {
        int(path.name.removeprefix(f"{name}-")): path
        for path in parent.glob(f"{name}-*")
        if path.name.removeprefix(f"{name}-").isdecimal()
    }


def begin_folder(
    folder: Path,
    begun: Begun,
    *,
    data: Mapping[str, Array],
    start: Mapping[str, Array],
    about: Mapping[str, object],
) -> None:
    """Write what is known before the first step; raises OSError."""
    write_tensors(folder / DATA, data)
    (folder / "mileposts").mkdir()
    (folder / "steps").mkdir()
    (folder / JOURNAL).touch()
    (folder / GRADIENTS).touch()
    write_bytes(folder / BEGUN, msgspec.json.encode(begun))
    write_about(folder, about, steps=0, intervals=0, complete=False)
    # Last, because whoever finds a snapshot relies on all the others.
    write_tensors(folder / get_snapshot_name(0), start)
    sync_folder(folder / "mileposts")
    sync_folder(folder)


def write_about(
    folder: Path, about: Mapping[str, object], *, steps: int, intervals: int, complete: bool
) -> None:
    """Write run.json; raises OSError."""
    progress = {"steps": steps, "intervals": intervals, "complete": complete}
    text = json.dumps({**about, **progress}, indent=2)
    write_bytes(folder / RUN, text.encode() + b"\n")


_CLAIMED: Final[dict[Path, int]] = {}
"""Folders that this process records to, with the descriptors that say so to others."""


def claim_folder(folder: Path) -> None:
    """Keep other processes from recording to a folder, until this one ends or releases it.

    Raises RecordingError (cannot-resume) if another has it.
    """
    path = folder.resolve()
    if path in _CLAIMED:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RecordingError(
            f"{folder} is being recorded by another process, which still runs. Wait for it, end it,"
            " or record under another name",
            slug="cannot-resume",
        ) from error
    _CLAIMED[path] = descriptor


def release_folder(folder: Path) -> None:
    """Let others have a folder; does nothing if this process has not claimed it."""
    descriptor = _CLAIMED.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def get_now() -> str:
    """The time for people, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# After a crash -----------------------------------------------------------------------------------


def find_unfinished(parent: Path, name: str) -> Unfinished | None:
    """The last run of a name, if it was begun and not finished.

    One that was killed before its first file was whole was not begun.  Raises RecordingError
    (cannot-resume) if its files cannot be used, OSError if they cannot be read.
    """
    folders = _find_numbers(parent, name)
    if not folders:
        return None
    folder = folders[max(folders)]
    if not (folder / get_snapshot_name(0)).exists():
        return None
    try:
        about = json.loads((folder / RUN).read_bytes())
        if about["complete"]:
            return None
        begun = read_begun(folder)
    except (ValueError, KeyError, TypeError, FileNotFoundError, msgspec.DecodeError) as error:
        raise RecordingError(
            f"{folder} cannot be resumed: {error}. Record again without resume=True",
            slug="cannot-resume",
        ) from error
    return Unfinished(folder, begun, about)


def restore_progress(found: Unfinished) -> Progress:
    """Where an unfinished run goes on; what lies behind its last whole interval is dropped.

    Raises RecordingError (cannot-resume) if not even the first snapshot is whole, and OSError.
    """
    folder = found.folder
    last = sum(1 for _ in (folder / "mileposts").glob("*.safetensors")) - 1
    for intervals in range(last, -1, -1):
        progress = _read_progress(found, intervals)
        if progress is not None:
            _truncate(folder, found.begun.recipe, progress)
            return progress
    raise RecordingError(
        f"{folder} has no whole snapshot to continue from. Record again without resume=True",
        slug="cannot-resume",
    )


def _read_progress(found: Unfinished, intervals: int) -> Progress | None:
    """The state after so many intervals, if everything up to there is on disk."""
    files, size = FolderFiles(found.folder), found.begun.recipe.steps_per_interval
    # An interval that is not full was the last of a run, which goes on after the one before.
    recipe = msgspec.structs.replace(found.begun.recipe, steps=max(1, intervals) * size)
    try:
        state = read_state(files, recipe, intervals)
        if intervals:
            rows = read_steps(files, recipe, intervals - 1)
            if rows[-1].post != compute_snapshot_digest(intervals * size, state):
                return None
    except InvalidRecord:
        return None
    lines = _read_lines(found.folder)[:intervals]
    kept = (found.folder / GRADIENTS).stat().st_size
    if len(lines) < intervals or kept < intervals * _get_gradient_bytes(recipe):
        return None
    _, rates = read_journal_rates(found.folder, recipe, intervals)
    return Progress(state, intervals, intervals * size, rates)


def read_begun(folder: Path) -> Begun:
    """What a run that is not finished was begun with; raises OSError, msgspec.DecodeError."""
    with (folder / BEGUN).open("rb") as stream:
        return msgspec.json.decode(stream.read(MAX_BEGUN_BYTES), type=Begun)


def read_journal_rates(
    folder: Path, recipe: Recipe, intervals: int
) -> tuple[int, tuple[Rates, ...]]:
    """The steps of a run's first intervals, and their learning rates by parameter group.

    Raises OSError, and ValueError, KeyError or TypeError for a journal that nobody recorded.
    """
    steps = 0
    groups: list[list[tuple[int, float]]] = [[] for _ in recipe.groups]
    for line in _read_lines(folder)[:intervals]:
        for count, rates in json.loads(line)["rates"]:
            steps += count
            for runs, rate in zip(groups, rates, strict=True):
                append_rate(runs, count, rate)
    return steps, tuple(tuple(runs) for runs in groups)


def _read_lines(folder: Path) -> list[bytes]:
    """The journal's whole lines."""
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n")]


def _get_gradient_bytes(recipe: Recipe) -> int:
    """What a whole interval takes in the file of gradients."""
    return GRADIENT_BYTES * count_strides(get_steps(recipe, 0), recipe.steps_per_digest)


def _truncate(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Drop what lies behind the last whole interval, so that it is written anew."""
    kept = {Path(get_snapshot_name(index)).name for index in range(progress.intervals + 1)}
    kept |= {Path(get_steps_name(index)).name for index in range(progress.intervals)}
    for path in (*(folder / "mileposts").iterdir(), *(folder / "steps").iterdir()):
        if path.name not in kept:
            path.unlink()
    lines = _read_lines(folder)[: progress.intervals]
    write_bytes(folder / JOURNAL, b"".join(lines))
    whole = msgspec.structs.replace(recipe, steps=recipe.steps_per_interval)
    os.truncate(folder / GRADIENTS, progress.intervals * _get_gradient_bytes(whole))


def find_difference(was: Begun, now: Begun) -> str:
    """The first thing in which two beginnings differ, in words; empty if they are the same.

    The number of steps is no part of it, except for a registered run, which fixed it.
    """
    for what in ("registration", "parent"):
        before, after = getattr(was, what), getattr(now, what)
        if before != after:
            return f"{what} is {after or 'none'}, and was {before or 'none'} before"
    if was.dataset_root != now.dataset_root:
        return "the data are not those it was recorded with"
    for field in Recipe.__struct_fields__:
        before, after = getattr(was.recipe, field), getattr(now.recipe, field)
        if before != after:
            if field == "groups":
                return _compare_groups(before, after)
            name = {"steps_per_interval": "every", "steps_per_digest": "stride"}.get(field, field)
            return f"{name} is {_show(after)}, and was {_show(before)} before"
    if was.rates and (was.rates, was.steps) != (now.rates, now.steps):
        return (
            f"{now.steps} steps at the rates {_show(now.rates)} are not the {was.steps} at"
            f" {_show(was.rates)} that were registered"
        )
    return ""


def _compare_groups(before: Sequence[Group], after: Sequence[Group]) -> str:
    was, now = [[group.optimizer for group in groups] for groups in (before, after)]
    if was != now:
        return f"optimizer is {_show(now)}, and was {_show(was)} before"
    return "the optimizer's groups hold other parameters than before"


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def append_synced(path: Path, data: bytes | bytearray) -> None:
    """Add bytes to the end of a file, on disk when this returns; raises OSError."""
    with path.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
