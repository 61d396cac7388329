"""Pages of mapped files are resident while they are read, and not longer."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from milepost_ml.mapped import is_mapped, paged, release_around

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")

COUNT = 2 * 1024 * 1024
HALF = COUNT // 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "values"
    path.write_bytes(np.arange(COUNT, dtype="<i4").tobytes())
    return path


def count_resident(path: Path) -> int:
    """Bytes of the file that this process counts as its own."""
    maps = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss:\s*(\d+) kB", maps)
    return sum(int(number) * 1024 for number in found)


def test_what_was_read_inside_is_given_back(path: Path) -> None:
    values = np.memmap(path, dtype="<i4", mode="r")
    with paged(values[:HALF]):
        assert int(values[:HALF].max()) == HALF - 1
        assert count_resident(path) >= 4 * HALF
    assert count_resident(path) < HALF
    assert int(values[HALF - 1]) == HALF - 1


def test_neighbours_are_given_back(path: Path) -> None:
    values = np.memmap(path, dtype="<i4", mode="r")
    with paged(values[:HALF]):
        assert int(values[HALF]) == HALF  # another thread may be done with this page
    assert count_resident(path) > 0
    release_around(values[:HALF])
    assert count_resident(path) == 0


def test_only_files_mapped_for_reading_are_touched(path: Path) -> None:
    private = np.memmap(path, dtype="<i4", mode="c")
    private[0] = 7
    with path.open("r+b") as file:
        written = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype="<i4")
    own = np.arange(COUNT, dtype="<i4")
    for array in (private, written, own):
        assert not is_mapped(array)
        with paged(array):
            pass
        release_around(array)
    assert private[0] == 7
    assert own[-1] == COUNT - 1
    mapped = np.memmap(path, dtype="<i4", mode="r")
    assert is_mapped(mapped.reshape(2, HALF)[1])
