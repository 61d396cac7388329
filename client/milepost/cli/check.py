"""`milepost check RUN`: before submitting, does the run repeat on this machine, and if not, why?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from milepost.cli import exits, options, output
from milepost.cli.provide import provide_extra
from milepost.errors import CannotTell, MachineCannot, WrongUsage

if TYPE_CHECKING:
    from milepost_ml.diagnosis.findings import Diagnosis
    from milepost_ml.selfcheck import SelfCheck

STATES = {True: "pass", False: "fail", None: "unknown"}
"""How `output.print_check` marks whether an interval repeats."""

WORTH_SAYING_SECONDS = 10.0
"""Who waits longer wants to know."""


def check(
    run: Annotated[Path, typer.Argument(help="The run folder that the recorder writes.")],
    interval: Annotated[
        int | None,
        typer.Option(
            "--interval", metavar="N", help="Which interval, from 0; otherwise the first."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every interval, one after the other.")
    ] = False,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect", help="Of the first that differs: which step and tensors, and why."
        ),
    ] = False,
    json_wanted: options.Json = False,
) -> None:
    """Retrace intervals of a recorded run here, before others do. Also while it is recorded.

    Exit code: 0 all repeat; 1 one differs; 3 one could not be looked at.
    """
    chosen = _choose(run, interval, every)
    provide_extra("ml", "Retracing needs", install=False)
    from milepost_ml.errors import InvalidRecord, MissingFramework

    found: list[SelfCheck] = []
    diagnosis: Diagnosis | None = None
    try:
        for each in _check_intervals(run, chosen):
            found.append(each)
            if not json_wanted:
                _print_interval(each)
            if len(found) == 2:  # the first one also set things up
                _foretell(each.seconds, len(chosen) - 2)
        first = next((each.interval for each in found if each.identical is False), None)
        if bisect and first is not None:
            diagnosis = _bisect(run, first)
    except KeyboardInterrupt:
        done = f" {len(found)} of {len(chosen)} intervals were looked at." if every else ""
        output.tell(f"Interrupted.{done}")
        raise typer.Exit(exits.INTERRUPTED) from None
    except MissingFramework as error:
        raise MachineCannot(str(error)) from error
    except InvalidRecord as error:
        raise CannotTell(str(error), slug=error.slug) from error
    _finish(run, found, diagnosis, json_wanted=json_wanted)


def _choose(run: Path, interval: int | None, every: bool) -> Sequence[int]:
    """The intervals to look at; raises WrongUsage, CannotTell."""
    from milepost import runs
    from milepost_ml.errors import InvalidRecord
    from milepost_ml.recorded import read_recorded

    if every and interval is not None:
        raise WrongUsage("--all looks at every interval; leave --interval out.")
    runs.read_run(run)
    try:
        count = read_recorded(run).intervals
    except InvalidRecord as error:
        raise CannotTell(str(error), slug=error.slug) from error
    if interval is not None and not 0 <= interval < count:
        have = "one interval, 0" if count == 1 else f"the intervals 0 to {count - 1}"
        raise WrongUsage(
            f"{run} has {have}; there is no interval {interval}.", slug="no-such-thing"
        )
    return range(count) if every else [interval or 0]


def _check_intervals(run: Path, chosen: Sequence[int]) -> Iterator[SelfCheck]:
    from milepost_ml.selfcheck import check_interval, keep_check, prepare_machine

    intervals = f"{len(chosen)} intervals" if len(chosen) > 1 else f"interval {chosen[0]}"
    output.tell(f"Retracing {intervals} of {run}", style="dim")
    if (note := prepare_machine(run)) is not None:
        output.tell(f"Note: {note}")
    for number in chosen:
        found = check_interval(run, number)
        if number == 0:
            try:
                keep_check(run, found)
            except OSError as error:
                output.tell(f"selfcheck.json was not written: {error.strerror}")
        yield found


def _foretell(seconds: float, left: int) -> None:
    """How long the other intervals take, where that is worth saying."""
    total = seconds * left
    if total >= WORTH_SAYING_SECONDS:
        said = f"{total / 60:.0f} minutes" if total >= 90 else f"{total:.0f} seconds"
        output.tell(f"About {said} for the other {left}", style="dim")


def _bisect(run: Path, interval: int) -> Diagnosis:
    from milepost_ml.diagnosis.search import diagnose

    return diagnose(run, interval, lambda text: output.tell(f"  {text}", style="dim"))


def _print_interval(found: SelfCheck) -> None:
    output.print_check(STATES[found.identical], f"interval {found.interval}", found.finding)


def _finish(
    run: Path,
    found: Sequence[SelfCheck],
    diagnosis: Diagnosis | None,
    *,
    json_wanted: bool,
) -> NoReturn:
    import msgspec

    answers = [each.identical for each in found]
    if False in answers:
        code = exits.NO
    else:
        code = exits.CANNOT_TELL if None in answers else exits.YES
    if json_wanted:
        view: dict[str, Any] = {
            "run": str(run),
            "repeats": None if code == exits.CANNOT_TELL else code == exits.YES,
            "exit": code,
            "intervals": [msgspec.to_builtins(each) for each in found],
            "diagnosis": msgspec.to_builtins(diagnosis) if diagnosis is not None else None,
        }
        output.print_json(view)
        raise typer.Exit(code)
    if len(found) > 1:
        output.say(f"{answers.count(True)} of {len(found)} intervals repeat")
    if diagnosis is not None:
        _print_diagnosis(diagnosis)
    elif code == exits.NO:
        first = next(each.interval for each in found if each.identical is False)
        chosen = f" --interval {first}" if first else ""
        output.tell(f"Verifiers would reject this run. Why: milepost check {run}{chosen} --bisect")
    if code == exits.NO:
        output.tell("More: milepost explain not-reproducible", style="dim")
    raise typer.Exit(code)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    from milepost_ml.diagnosis.findings import describe

    output.say()
    output.say(f"Interval {diagnosis.interval}", style="bold")
    for label, text in describe(diagnosis):
        start = f"  {label:<18}"
        output.say(textwrap.fill(text, 96, initial_indent=start, subsequent_indent=" " * 20))
