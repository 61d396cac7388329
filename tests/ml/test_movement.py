"""One walk over two snapshots: the same bits whatever the threads, the types and the memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from milepost_ml import movement as module
from milepost_ml.movement import WINDOW_VALUES, Movement, compute_movements, sum_movements
from milepost_ml.snapshots import TensorSpec, encode_header, map_tensors, write_tensors

MEBI: Final = 1024 * 1024


def make_pair(size: int, dtype: Any = np.float32) -> tuple[NDArray[Any], NDArray[Any]]:
    chance = np.random.default_rng(size)
    before, moved = (chance.standard_normal(size, dtype=np.float32) for _ in range(2))
    return before.astype(dtype), (before + moved * np.float32(1e-3)).astype(dtype)


def test_threads_change_no_bit() -> None:
    before, after = make_pair(4 * WINDOW_VALUES + 12_345)
    alone = compute_movements({"w": before}, {"w": after}, threads=1)
    for threads in (2, 3):
        assert compute_movements({"w": before}, {"w": after}, threads=threads) == alone


def test_windows_end_where_they_did_in_memory_of_any_layout() -> None:
    size = WINDOW_VALUES + 17
    before, after = make_pair(size)
    plain = compute_movements({"w": before}, {"w": after})
    wide = np.zeros((size, 2), dtype=np.float32)
    wide[:, 0] = before
    assert compute_movements({"w": wide[:, 0]}, {"w": after}) == plain
    shifted = np.zeros(size + 1, dtype=np.float32)[1:]  # off the boundaries of vectors
    shifted[:] = before
    assert compute_movements({"w": shifted}, {"w": after}) == plain


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", np.int32])
def test_other_types_count_as_the_numbers_they_hold(dtype: Any) -> None:
    before, after = (np.rint(64 * side) for side in make_pair(1000))
    expected = compute_movements({"w": before}, {"w": after})
    found = compute_movements({"w": before.astype(dtype)}, {"w": after.astype(dtype)})
    assert found == expected
    assert compute_movements({"w": before}, {"w": after.astype(dtype)}) == expected


def test_movements_add_up() -> None:
    tensors = [make_pair(size) for size in (3, 40_000, 0)]
    before = {str(k): pair[0] for k, pair in enumerate(tensors)}
    after = {str(k): pair[1] for k, pair in enumerate(tensors)}
    movements = compute_movements(before, after)
    total = sum_movements(movements)
    assert total.size == 40_003
    assert movements["2"] == Movement()
    assert total.moved_2 == movements["0"].moved_2 + movements["1"].moved_2
    assert total.units == (movements["0"].units or 0) + (movements["1"].units or 0)


def test_units_are_exact_on_both_sides_of_what_the_kernel_can_round() -> None:
    for scale in (2.0**20, 2.0**24, 2.0**27, 2.0**36, 2.0**60):
        before, after = (side * np.float32(scale) for side in make_pair(1000))
        units = [
            [max(-(2**61), min(2**61, round(float(x) * 2**24))) for x in side.tolist()]
            for side in (before, after)
        ]
        expected = sum(abs(b - a) for a, b in zip(*units, strict=True))
        assert compute_movements({"w": before}, {"w": after})["w"].units == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_leaves_no_finite_square_and_no_units(bad: float) -> None:
    before, after = make_pair(70_001)
    for place in (0, 40_000, 70_000):
        for side in (before, after):
            kept, side[place] = side[place], bad
            found = compute_movements({"w": before}, {"w": after})["w"]
            side[place] = kept
            assert not math.isfinite(found.before_2 + found.after_2)
            assert found.units is None


def test_mapped_files_give_the_same_bits(tmp_path: Path) -> None:
    size = WINDOW_VALUES + module._PIECE_VALUES + 99
    sides = [dict(zip("ab", (side[:99], side[99:]), strict=True)) for side in make_pair(size)]
    specs = [TensorSpec("a", "F32", (99,)), TensorSpec("b", "F32", (size - 99,))]
    mapped = []
    for k, side in enumerate(sides):
        write_tensors(tmp_path / str(k), side)
        mapped.append(map_tensors(tmp_path / str(k), specs, name="snapshot"))
    assert compute_movements(*mapped) == compute_movements(*sides)
    assert np.array_equal(mapped[0]["b"], sides[0]["b"])  # given back, and still readable


_MEASURE: Final = """
import json, re, sys
from pathlib import Path
from milepost_ml.distance import compute_change
from milepost_ml.snapshots import TensorSpec, map_tensors

def read(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

def change(count, *files):
    specs = [TensorSpec("w", "F32", (count,))]
    return compute_change(*(map_tensors(Path(f), specs, name=f) for f in files), threads=2)

small, large, *files = sys.argv[1:]
change(int(small), *files[:2])
peak = read("VmHWM")
found = change(int(large), *files[2:])
print(json.dumps([peak, read("VmHWM") - peak, found.score, found.distances.absolute]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    # Files with holes: 2 x 160 MiB of weights, of which one in each MiB is not 0.
    small, large = 4 * MEBI, 40 * MEBI
    files = []
    for name, count, value in (("a", small, 0), ("b", small, 1), ("c", large, 0), ("d", large, 1)):
        header = encode_header([TensorSpec("w", "F32", (count,))])
        with (tmp_path / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            start = file.tell()
            for place in range(0, 4 * count, MEBI):
                file.seek(start + place)
                file.write(np.float32(value).tobytes())
            file.truncate(start + 4 * count)
        files.append(tmp_path / name)
    command = [sys.executable, "-c", _MEASURE, str(small), str(large), *map(str, files)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peak, growth, score, absolute = json.loads(done.stdout)
    assert (score, absolute) == (160 * 2**24, 160.0)
    assert peak + growth < 200_000_000 // 1024
    assert growth < 12 * 1024  # of 320 MiB
