"""`python -m milepost_experiments`, which `milepost experiment` calls: run, list, report."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from milepost.cli import exits, output
from milepost.cli.signals import treat_as_interrupt
from milepost.errors import MilepostError, WrongUsage
from milepost_experiments.jobs import read_job
from milepost_experiments.manifest import MANIFEST, find_differences
from milepost_experiments.outputs import REPORT, write_outputs, write_report
from milepost_experiments.registry import EXPERIMENTS, get_experiment
from milepost_experiments.runner import EXECUTORS, PROCESSES, Progress, compute_rows
from milepost_experiments.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line."""
    options = _parse(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        output.tell("Interrupted. What is done is kept; the same command goes on from there.")
        return exits.INTERRUPTED
    except MilepostError as error:
        if options.verbose:
            traceback.print_exception(error)
        output.tell(f"{error}  [{error.slug}]")
        output.tell(f"More: milepost explain {error.slug}", style="dim")
        return exits.get_exit_code(error)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="milepost experiment", description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="compute what is not done yet, draw and describe it")
    run.add_argument("target", help="an experiment, a TOML file, or a manifest to repeat")
    run.add_argument("--preset", help="quick (minutes on two cores) or paper")
    run.add_argument("--out", type=Path, help="the folder of the results")
    run.add_argument("--jobs", type=int, default=1, help="workers side by side")
    run.add_argument(
        "--executor", default=PROCESSES, help="processes of this machine, or ray: a Ray cluster"
    )
    run.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    run.add_argument("--fresh", action="store_true", help="compute everything anew")
    run.set_defaults(command=_run)
    listing = commands.add_parser("list", help="what there is to ask")
    listing.set_defaults(command=_list)
    report = commands.add_parser("report", help="draw and describe the results of a folder again")
    report.add_argument("folder", type=Path)
    report.set_defaults(command=_report)
    behaviours = commands.add_parser("behaviours", help="how nodes can be told to lie")
    behaviours.set_defaults(command=_list_behaviours)
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    job = read_job(options.target, preset=options.preset, overrides=options.overrides)
    treat_as_interrupt()
    # What makes no sense is refused before anything is written.
    if options.executor not in EXECUTORS:
        raise WrongUsage(f"--executor {options.executor}: there are {' and '.join(EXECUTORS)}.")
    job.experiment.plan(job.config)
    folder = options.out or job.folder
    store = Store(folder, job)
    store.open()
    if options.fresh:
        store.forget()
    output.tell(f"{job.experiment.name}: {job.experiment.title} (preset {job.preset})")
    with _Meter() as meter:
        rows = compute_rows(
            job, store, jobs=options.jobs, executor=options.executor, report=meter.report
        )
    write_outputs(folder, job, job.experiment.collect(job.config, rows))
    output.say((folder / f"{REPORT}.md").read_text(encoding="utf-8"))
    output.tell(f"Results in {folder}; the page is {folder / REPORT}.html")
    if not job.expected:
        return exits.YES
    differing = find_differences(folder, job)
    if differing:
        output.tell(f"Not what the manifest says: {', '.join(differing)}", style="red")
        return exits.NO
    output.tell("Every table is byte for byte what the manifest says.", style="green")
    return exits.YES


class _Meter:
    """A bar on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=self._plain,
        )
        self._task = self._bar.add_task("cells", total=None)
        self._said = -1

    def __enter__(self) -> _Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def report(self, progress: Progress) -> None:
        self._bar.update(
            self._task,
            completed=progress.done,
            total=progress.total,
            description=progress.key or "cells",
        )
        tenth = 10 * progress.done // max(1, progress.total)
        if self._plain and tenth != self._said:
            self._said = tenth
            output.tell(f"  {progress.done} of {progress.total} cells {progress.key}".rstrip())


def _list(options: argparse.Namespace) -> int:
    rows = []
    for name in EXPERIMENTS:
        experiment = get_experiment(name)
        rows.append((name, ", ".join(experiment.presets), experiment.title))
    output.print_table(("experiment", "presets", "question"), rows)
    return exits.YES


def _report(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    write_report(folder, read_job(str(folder / MANIFEST)))
    output.say((folder / f"{REPORT}.md").read_text(encoding="utf-8"))
    return exits.YES


def _list_behaviours(options: argparse.Namespace) -> int:
    from milepost_node.behaviours.builtin import BEHAVIOURS

    rows = [(name, each.summary) for name, each in BEHAVIOURS.items()]
    output.print_table(("behaviour", "what it does"), rows)
    return exits.YES


if __name__ == "__main__":
    sys.exit(main())
