"""Plays many schedules: `python -m tests.simulation --schedules 3000 --seed 7`.

Every generator gets its share.  The first violation ends it with exit code 1: the schedule is made
as small as possible, printed, and kept as a file that the command it prints plays again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.simulation.generators import GENERATORS, generate
from tests.simulation.minimise import minimise
from tests.simulation.monitor import Violation
from tests.simulation.options import Options, dump, load
from tests.simulation.play import find_violation, play

SHARES = {
    "uniform": 38,
    "aligned": 38,
    "liveness": 6,
    "verification": 9,
    "membership": 6,
    "directed": 3,
}
"""Percent of the schedules."""
PROGRESS_SECONDS = 20
MS_PER_YEAR = 365.25 * 24 * 3_600 * 1_000


class Row(NamedTuple):
    """What a generator has come to."""

    schedules: int = 0
    events: int = 0
    simulated_ms: int = 0
    heights: int = 0
    verdicts: int = 0
    seconds: float = 0.0
    """Of one core, whatever else the machine does."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule")
    parser.add_argument("--generator", choices=list(GENERATORS), help="only this one")
    parser.add_argument("--plan", type=Path, help="a file of options to play instead")
    parser.add_argument("--keep", type=Path, default=Path("."), help="where failures are kept")
    chosen = parser.parse_args(arguments)
    if chosen.plan is not None:
        return _play_plan(chosen.plan)
    return _play_many(chosen.schedules, chosen.seed, chosen.generator, chosen.keep)


def _play_plan(path: Path) -> int:
    try:
        report = play(load(path))
    except Violation as violation:
        print(f"{path}: {violation}")
        return 1
    print(f"{path}: holds; {report}")
    return 0


def _play_many(schedules: int, seed: int, only: str | None, folder: Path) -> int:
    rows = dict.fromkeys([only] if only else GENERATORS, Row())
    started = told = time.monotonic()
    for generator in rows:
        count = schedules if only else -(-schedules * SHARES[generator] // 100)
        for number in range(seed, seed + count):
            options = generate(generator, number)
            begun = time.process_time()
            try:
                report = play(options)
            except Violation as violation:
                _print_table(rows)
                _report_failure(options, violation, folder)
                return 1
            except Exception:
                print(f"generator {generator}, seed {number}: the simulator itself broke")
                raise
            now = time.monotonic()
            row = rows[generator]
            rows[generator] = Row(
                row.schedules + 1,
                row.events + report.events,
                row.simulated_ms + report.simulated_ms,
                row.heights + report.heights,
                row.verdicts + report.verdicts,
                row.seconds + time.process_time() - begun,
            )
            if now - told > PROGRESS_SECONDS:
                told = now
                played = sum(each.schedules for each in rows.values())
                print(f"{now - started:6.0f} s: {played} schedules, {generator}", flush=True)
    _print_table(rows)
    total = Row(*(sum(values) for values in zip(*rows.values(), strict=True)))
    print(
        f"{total.schedules} schedules, {total.events} events,"
        f" {total.simulated_ms / MS_PER_YEAR * 365.25:.2f} simulated days,"
        f" {total.heights} heights, {total.verdicts} verdicts, no violation"
        f" ({total.schedules / max(total.seconds, 1e-9):.0f} schedules/s)"
    )
    return 0


def _print_table(rows: dict[str, Row]) -> None:
    print("generator     schedules     events   simulated s   heights  verdicts  schedules/s")
    for name, row in rows.items():
        rate = row.schedules / row.seconds if row.seconds else 0.0
        print(
            f"{name:12} {row.schedules:10} {row.events:10} {row.simulated_ms / 1_000:13.0f}"
            f" {row.heights:9} {row.verdicts:9} {rate:12.1f}"
        )


def _report_failure(options: Options, violation: Violation, folder: Path) -> None:
    print(f"\ngenerator {options.generator}, seed {options.seed}: {violation}")
    print(dump(options))
    small = minimise(options, find_violation)
    path = folder / f"{options.generator}-{options.seed}.json"
    path.write_text(dump(small))
    print(f"made as small as possible: {find_violation(small)}")
    print(dump(small))
    print(f"play it again: python -m tests.simulation --plan {path}")
    print("once it is mended, move the file to tests/simulation/regressions/")


if __name__ == "__main__":
    sys.exit(main())
