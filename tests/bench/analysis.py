"""Weight analysis against the machine's read bandwidth, and against four NumPy formulas.

The bandwidth is what a sum over the same bytes by the same number of threads reaches, in the same
windows and turn by turn with the analysis: other work on the machine slows both.  Shares are
medians of the rounds' ratios, by the clock and by processor time.  The analysis is all of
`compute_change`: four metrics and the exact score, of the model and of each tensor.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from milepost_ml.arithmetic.cpu import lanes
from milepost_ml.arithmetic.cpu.compiled import compile_function
from milepost_ml.arithmetic.cpu.octets import prefetch
from milepost_ml.distance import compute_change
from milepost_ml.movement import MAX_THREADS, WINDOW_VALUES
from milepost_ml.snapshots import TensorSpec, encode_header, map_tensors

SIZES: Final = (100_000_000, 500_000_000)
ROUNDS: Final = 9
NAIVE_ROUNDS: Final = 3
TENSORS: Final = 10
"""The model consists of that many tensors of one size."""
_CHUNK: Final = 1 << 22
_AHEAD_BYTES: Final = 2048

Side = NDArray[np.float32]


def _add_up(a: Any) -> None:
    """Sum a[2] float32 at a[0] and as many at a[1], 64 at a time; the sum goes to a[3]."""
    one, two, three, four = lanes.zeros(), lanes.zeros(), lanes.zeros(), lanes.zeros()
    for i in range(0, a[2] - 31, 32):
        for ahead in range(_AHEAD_BYTES, _AHEAD_BYTES + 128, 64):
            prefetch(a[0] + 4 * i + ahead)
            prefetch(a[1] + 4 * i + ahead)
        one = lanes.add(one, lanes.load(a[0], i))
        two = lanes.add(two, lanes.load(a[1], i))
        three = lanes.add(three, lanes.load(a[0], i + 16))
        four = lanes.add(four, lanes.load(a[1], i + 16))
    total = lanes.add(lanes.add(one, two), lanes.add(three, four))
    lanes.store_one(a[3], 0, lanes.fold(total))


_compile = functools.cache(compile_function)


def _read(before: Side, after: Side, threads: int) -> None:
    """Read both arrays once, by a sum."""
    call = _compile(_add_up).call
    windows = iter(range(0, before.size, WINDOW_VALUES))

    def work() -> None:
        result = ctypes.c_float()
        for start in windows:
            size = min(WINDOW_VALUES, before.size - start)
            places = [side.ctypes.data + 4 * start for side in (before, after)]
            arguments = (ctypes.c_int64 * 4)(*places, size, ctypes.addressof(result))
            call(ctypes.addressof(arguments))

    with ThreadPoolExecutor(threads - 1 or 1) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()


def _compute_naively(before: Side, after: Side) -> tuple[float, ...]:
    """The four formulas as the paper has them."""
    return (
        float(np.abs(after - before).sum()),
        float(np.sqrt(((after - before) ** 2).sum())),
        float(100 * np.abs(after - before).sum() / np.abs(before).sum()),
        float(1 - (before * after).sum() / (np.linalg.norm(before) * np.linalg.norm(after))),
    )


@numba.njit  # type: ignore[untyped-decorator]
def _accumulate(before: Side, after: Side) -> float:
    """The absolute change with one float32 accumulator."""
    total = np.float32(0)
    for i in range(before.size):
        total += abs(after[i] - before[i])
    return float(total)


def _compute_truth(before: Side, after: Side) -> float:
    """The absolute change in float64, chunks of it added without rounding."""
    parts = (slice(start, start + _CHUNK) for start in range(0, before.size, _CHUNK))
    return math.fsum(
        float(np.abs(after[part].astype(np.float64) - before[part]).sum()) for part in parts
    )


def _make_pair(count: int) -> tuple[Side, Side]:
    """Weights like a trained network's, and what one interval makes of them."""
    chance = np.random.default_rng(1)
    before, after = np.empty(count, np.float32), np.empty(count, np.float32)
    for start in range(0, count, _CHUNK):
        part = before[start : start + _CHUNK]
        chance.standard_normal(out=part, dtype=np.float32)
        part *= np.float32(0.05)
        moved = chance.standard_normal(part.size, dtype=np.float32)
        moved *= np.float32(1e-3)
        np.add(part, moved, out=after[start : start + _CHUNK])
    return before, after


class Times(NamedTuple):
    """Of one call, in seconds."""

    wall: float
    processor: float
    """Of all threads together: waiting for a processor that others use is not in it."""


def _measure(work: Callable[[], Any]) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Times(time.perf_counter() - wall, time.process_time() - processor)


def _describe(ratios: Iterable[float], digits: int) -> str:
    found = sorted(ratios)
    return (
        f"{statistics.median(found):.{digits}f} ({found[0]:.{digits}f} to {found[-1]:.{digits}f})"
    )


def _split(side: Side) -> dict[str, NDArray[Any]]:
    return {f"layer{k}.weight": part for k, part in enumerate(np.split(side, TENSORS))}


def _bench_size(count: int, threads: int) -> None:
    before, after = _make_pair(count)
    model = _split(before), _split(after)
    reads, walks = [], []
    for turn in range(ROUNDS + 1):
        read = _measure(lambda: _read(before, after, threads))
        walk = _measure(lambda: compute_change(*model, threads=threads))
        if turn:  # the first one compiles
            reads.append(read)
            walks.append(walk)
    naive = []
    for _ in range(NAIVE_ROUNDS):
        slow = _measure(lambda: _compute_naively(before, after))
        fast = _measure(lambda: compute_change(*model, threads=threads))
        naive.append((slow, fast))
    gigabytes = 8 * count / 1e9
    wall = statistics.median(walk.wall for walk in walks)
    print(
        f"{count:,} weights: read"
        f" {gigabytes / statistics.median(read.wall for read in reads):.1f} GB/s, analysis"
        f" {gigabytes / wall:.1f} GB/s ({1e3 * wall:.0f} ms)"
    )
    pairs = list(zip(reads, walks, strict=True))
    print(
        "  share of the bandwidth, medians:"
        f" by wall clock {_describe((read.wall / walk.wall for read, walk in pairs), 2)},"
        " by processor time"
        f" {_describe((read.processor / walk.processor for read, walk in pairs), 2)}"
    )
    print(
        "  four NumPy formulas / analysis, medians:"
        f" by wall clock {_describe((slow.wall / fast.wall for slow, fast in naive), 0)},"
        " by processor time"
        f" {_describe((slow.processor / fast.processor for slow, fast in naive), 0)}"
    )
    import torch  # not in the process that measures memory

    truth = _compute_truth(before, after)
    single = torch.dist(torch.from_numpy(after), torch.from_numpy(before), p=1).item()
    for name, found in (
        ("analysis", compute_change(*model).distances.absolute),
        ("one float32 accumulator", _accumulate(before, after)),
        ("torch.dist(p=1)", single),
        ("NumPy, float32", _compute_naively(before, after)[0]),
    ):
        print(f"  absolute change by {name:24} {found:14,.4f}  off by {found / truth - 1:+.1e}")


def analyse_files(count: int, files: list[str]) -> str:
    """In a process of its own: analyse two mapped files, and say how much memory that took."""
    specs = [TensorSpec("w", "F32", (count,))]
    seconds = _measure(
        lambda: compute_change(*(map_tensors(Path(f), specs, name=f) for f in files))
    )
    status = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    peak = f"{int(status[1]) * 1024 / 1e6:.0f} MB resident at most" if status else "memory unknown"
    return f"{8 * count / seconds.wall / 1e9:.1f} GB/s, {peak}"


def _bench_files(count: int) -> None:
    header = encode_header([TensorSpec("w", "F32", (count,))])
    with tempfile.TemporaryDirectory() as place:
        files = [str(Path(place) / name) for name in ("before", "after")]
        for file in files:
            with Path(file).open("wb") as stream:
                stream.write(len(header).to_bytes(8, "little") + header)
                stream.truncate(8 + len(header) + 4 * count)  # one hole
        command = [sys.executable, "-m", "tests.bench.analysis", str(count), *files]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(f"{count:,} weights in mapped files with holes: {done.stdout.strip()}")


def bench_analysis() -> None:
    """Print bandwidth, shares, ratios, errors and memory at both sizes."""
    threads = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    print(f"{TENSORS} float32 tensors, {threads} threads, {ROUNDS} rounds after one that warms up")
    for count in SIZES:
        _bench_size(count, threads)
        _bench_files(count)


if __name__ == "__main__":
    print(analyse_files(int(sys.argv[1]), sys.argv[2:]))
