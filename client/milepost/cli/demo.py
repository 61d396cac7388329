"""`milepost demo`: the main job from end to end, as a short readable account."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost.cli import exits, options, output, submissions
from milepost.cli.progress import SubmitPrinter
from milepost.cli.provide import provide_extra
from milepost.cli.signals import treat_as_interrupt

if TYPE_CHECKING:
    from milepost.answers import Report
    from milepost.demo import Account, Listener, Run
    from milepost.processes import LocalNetwork

EXTRA = "demo"
DEFAULT_DIR = Path("milepost-demo")


def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where it happens; an earlier demo there is replaced.")
    ] = DEFAULT_DIR,
    nodes: Annotated[int, typer.Option("--nodes", help="Node processes; the last one lies.")] = 7,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the nodes running until Ctrl-C.")
    ] = False,
    no_install: Annotated[
        bool, typer.Option("--no-install", help="Rather fail than install missing packages.")
    ] = False,
    json_wanted: options.Json = False,
) -> None:
    """Seven nodes, one of them a liar: verify a real training run, catch a poisoned one.

    Exit code: 0 if everything came out as it must, 1 if not.
    """
    provide_extra(EXTRA, "The demo needs", install=not no_install)
    from milepost.demo import run_demo

    treat_as_interrupt()
    try:
        account = run_demo(
            directory,
            nodes=nodes,
            listener=_make_listener(),
            on_running=_wait_for_interrupt if keep else lambda running: None,
        )
    except KeyboardInterrupt:
        raise typer.Exit(exits.INTERRUPTED) from None
    if json_wanted:
        output.print_json(account.to_view())
    else:
        _print_account(account)
    raise typer.Exit(exits.NO if account.differences else exits.YES)


def _wait_for_interrupt(running: LocalNetwork) -> None:
    output.tell("The nodes keep running. Ctrl-C stops them.")
    try:
        while not running.find_deaths():
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


def _make_listener() -> Listener:
    """The listener that tells; made here because what it derives from loads numpy."""
    from milepost.demo import Listener

    class Printer(SubmitPrinter, Listener):
        def __init__(self) -> None:
            # The intervals come in the account.
            super().__init__(intervals=False)
            self._begin = time.monotonic()

        def on_act(self, text: str) -> None:
            output.tell()
            output.tell(f"{time.monotonic() - self._begin:6.1f} s  {text}", style="bold")

        def on_run(self, run: Run) -> None:
            view = run.delivery.to_view()
            style = submissions.STYLES.get(str(view["verdict"]), "")
            output.tell(
                f"{view['verdict']:<12} in block {view['height']}: {view['reason']}", style=style
            )

        def on_report(self, report: Report) -> None:
            output.tell(f"{report.verdict:<12} {report.subject['model']}")

    return Printer()


def _print_account(account: Account) -> None:
    output.say()
    output.say("What happened", style="bold")
    for run in account.runs:
        output.say()
        _print_run(account, run)
    output.say()
    for report in account.reports:
        output.say(f"milepost verify {report.subject['model']}")
        for check in report.checks:
            if check.state != "pass":
                output.print_check(check.state, check.name, check.detail)
        output.say(f"  {report.verdict}: {report.headline}")
    output.say()
    timings = ", ".join(f"{name} {value:.1f} s" for name, value in account.timings.items())
    output.say(f"Timings     {timings}")
    output.say(
        f"Everything  {account.folder}  (chain, records, proofs, {account.folder}/demo.json)"
    )
    honest = account.runs[0]
    trust = account.folder / "network.trust"
    output.say("Try")
    output.say(f"  milepost verify {honest.folder / 'model.safetensors'} --trust {trust}")
    output.say(f"  milepost show {account.runs[-1].folder}")
    output.say(f"  milepost dev --dir {account.folder}      the same chain goes on")
    output.say()
    if account.differences:
        output.say("NOT AS IT MUST BE", style="red")
        for difference in account.differences:
            output.say(f"  {difference}")
    else:
        output.say("Everything came out as it must.", style="green")


def _print_run(account: Account, run: Run) -> None:
    from milepost.demo import get_lies
    from milepost_consensus.views import to_view

    names = {member.id.hex(): member.name for member in account.members}
    view = to_view(run.bundle.submission)
    verdict = to_view(run.bundle.verdict)
    training = run.training
    output.say(f"{run.name}  sub_{view['id'][:8]}", style="bold")
    output.say(
        f"  trained in {training['seconds']:.1f} s: accuracy {training['accuracy']:.1%} on digits"
        f" it never saw; {training['backdoor']:.1%} of digits with the trigger pass for a 7"
    )
    output.say(
        f"  anchored in block {view['anchored_height']}, held by a quorum in {view['held_height']},"
        f" verifiers drawn by the beacon, decided in {verdict['height']} ({run.seconds:.1f} s)"
    )
    output.say(
        "  ✓ same state, bit for bit; ✗ a step that does not follow (or, refuted by the panel"
        " or dismissed, the word of a liar)"
    )
    output.say(submissions.INTERVAL_HEADING, style="dim")
    for interval, duties in submissions.group_duties(view).items():
        output.say(submissions.format_interval(view, interval, duties, names))
    submissions.print_accusations(view, names)
    for member in account.members:
        lies = get_lies(run, member.id)
        if lies.accused or lies.vouched:
            output.say(
                f"  {member.name} lied: accused {_list(lies.accused)}, vouched for"
                f" {_list(lies.vouched)};"
                f" {'overruled by the panel' if lies.overruled else 'not overruled'}"
            )
    style = submissions.STYLES.get(verdict["outcome"], "")
    output.say(f"  {submissions.describe_verdict(verdict, names)}", style=style)


def _list(intervals: tuple[int, ...]) -> str:
    return f"intervals {', '.join(map(str, intervals))}" if intervals else "none"
