"""`milepost submit`: bring a finished run to the network and, with --wait, stay for the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost.cli import exits, options, output, submissions
from milepost.cli.progress import SubmitPrinter
from milepost.coverage import describe_assurance, describe_drift, describe_election

if TYPE_CHECKING:
    from milepost.delivery import Delivery


def submit(
    run: Annotated[Path, typer.Argument(help="The run folder that the recorder wrote.")],
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the network decided.")] = False,
    json_wanted: options.Json = False,
    node: options.Nodes = None,
    network: options.Network = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Key file to sign with (mode 0600).")
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Another name on chain than the run's own.")
    ] = "",
    unregistered: Annotated[
        bool,
        typer.Option("--unregistered", help="Leave out the registration that the run has."),
    ] = False,
    few_verifiers: Annotated[
        bool,
        typer.Option(
            "--few-verifiers", help="Go on where few verifiers can retrain the run's device class."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds to wait for the verdict.")
    ] = 600.0,
) -> None:
    """Submit a recorded run. Exit code with --wait: 0 VALID, 1 INVALID, 3 UNDECIDED or timed out.

    Running the same command again resumes: files that a node has are not sent again, an undecided
    submission is followed, and of a decided one the verdict is printed, also without --wait.
    """
    from milepost import delivery

    try:
        result = delivery.submit(
            run,
            network=network,
            nodes=node or (),
            key=key,
            name=name,
            unregistered=unregistered,
            few_verifiers=few_verifiers,
            wait=wait,
            timeout_seconds=timeout,
            observer=SubmitPrinter(),
        )
    except KeyboardInterrupt:
        output.tell("Interrupted. The same command goes on where it stopped.")
        raise typer.Exit(exits.INTERRUPTED) from None
    if json_wanted:
        output.print_json(result.to_view())
    else:
        _print_result(result)
    if result.verdict is not None:
        yes = delivery.is_yes(result)
        raise typer.Exit(exits.CANNOT_TELL if yes is None else exits.YES if yes else exits.NO)


def _print_result(result: Delivery) -> None:
    if result.verdict is None:
        output.say(result.submission)
        output.tell(f"Follow it: milepost status {result.submission[:12]}")
        return
    verdict = result.verdict
    if verdict.refuted and verdict.tolerance_ppb:
        text = verdict.reason
    elif verdict.refuted:
        first = verdict.refuted[0]
        text = f"interval {first.interval} does not retrace (first wrong step {first.step})"
    else:
        assert result.coverage is not None
        text = (
            f"{result.coverage.retraced} of {result.coverage.intervals} intervals retraced"
            f" ({result.coverage.percent:.0f} % of the training)"
        )
        if verdict.outcome != "VALID":
            text = f"{verdict.reason}; {text}"
    output.say(
        f"{verdict.outcome} in block {verdict.height} · assurance {describe_assurance(verdict)} ·"
        f" profile {verdict.profile} · {describe_election(verdict)} · {text}",
        style=submissions.STYLES.get(verdict.outcome, ""),
    )
    if result.coverage is not None and (drift := describe_drift(result.coverage)):
        output.say(f"Drift budget  {drift}: forgeries within it cannot be excluded")
    output.say(f"Proof  {result.proof}")
    if not result.checked:
        output.tell("No trust file: the verdict is what the node says. Check: milepost verify")
