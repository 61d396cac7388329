"""Run the benchmarks named on the command line, or all of them, and print one table each."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

from tests.bench.analysis import bench_analysis
from tests.bench.arithmetic import bench_arithmetic
from tests.bench.catchup import bench_catchup
from tests.bench.commits import bench_commits
from tests.bench.faults import bench_faults
from tests.bench.initial import bench_initial
from tests.bench.ledger import bench_ledger
from tests.bench.recorder import bench_recorder
from tests.bench.rounded import bench_rounded
from tests.bench.simulated import bench_simulated
from tests.bench.stalls import bench_stalls
from tests.bench.storage import bench_storage
from tests.bench.throughput import bench_throughput
from tests.bench.tolerance import bench_tolerance
from tests.bench.upload import bench_upload

BENCHES: dict[str, Callable[[], None]] = {
    "analysis": bench_analysis,
    "arithmetic": bench_arithmetic,
    "initial": bench_initial,
    "recorder": bench_recorder,
    "storage": bench_storage,
    "rounded": bench_rounded,
    "tolerance": bench_tolerance,
    "ledger": bench_ledger,
    "simulated": bench_simulated,
    "catchup": bench_catchup,
    "throughput": bench_throughput,
    "commits": bench_commits,
    "faults": bench_faults,
    "stalls": bench_stalls,
    "upload": bench_upload,
}


def main() -> None:
    unknown = set(sys.argv[1:]) - set(BENCHES)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    print(f"machine: {platform.machine()}, Python {platform.python_version()}")
    for name in sys.argv[1:] or BENCHES:
        print(f"\n== {name}")
        BENCHES[name]()


if __name__ == "__main__":
    main()
