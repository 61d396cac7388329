"""What a run leaves behind when its process is killed, and whether a resumed one ended alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from milepost_ml.admission import build_submit
from milepost_ml.files import JOURNAL, RUN


def copy_running(folder: Path, parent: Path) -> Path:
    """A copy of a folder that is being recorded: what a crash now would leave behind."""
    # A file that is being renamed is not there under one name or the other.
    ignored = shutil.ignore_patterns("*.part")
    return shutil.copytree(folder, parent / folder.name, ignore=ignored)


def assert_same_record(first: Path, second: Path) -> None:
    """Both hold the same files with the same bytes, but for what tells the time."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (first, second)
    ]
    assert names[0] == names[1]
    for name in names[0] - {RUN, JOURNAL}:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    journals = [
        [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
        for folder in (first, second)
    ]
    for one, other in zip(*journals, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert build_submit(first)[0].snapshots == build_submit(second)[0].snapshots
