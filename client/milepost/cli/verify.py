"""`milepost verify`: is this model file what the network judged?  Offline."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost.cli import exits, options, output
from milepost.errors import WrongUsage

if TYPE_CHECKING:
    from milepost.answers import Report

EXITS = {
    "accepted": exits.YES,
    "rejected": exits.NO,
    "mismatch": exits.NO,
    "inconsistent": exits.NO,
    "unknown": exits.CANNOT_TELL,
}
HEADLINES = {
    "accepted": ("ACCEPTED", "green"),
    "rejected": ("REJECTED", "red"),
    "mismatch": ("NOT THIS MODEL", "red"),
    "inconsistent": ("DO NOT TRUST", "red"),
    "unknown": ("CANNOT TELL", "yellow"),
}
_REQUIRE = re.compile(r"retraced\s*>=\s*(\d+(?:\.\d+)?)\s*%?")


def verify(
    model: Annotated[Path, typer.Argument(help="The model file, in safetensors format.")],
    proof: Annotated[
        Path | None,
        typer.Option("--proof", help="Proof file; model.proof.json beside the model otherwise."),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="Trust file; otherwise the one that milepost.toml names."),
    ] = None,
    require: Annotated[
        str,
        typer.Option(
            "--require", metavar="retraced>=PERCENT", help="Accept only with that much coverage."
        ),
    ] = "",
    json_wanted: options.Json = False,
) -> None:
    """Check a model file against the proof of its verdict. Needs no network.

    Exit code: 0 accepted; 1 rejected, another model, or an inconsistent proof; 3 cannot tell.
    """
    from milepost import answers

    report = answers.verify(
        model, trust=trust, proof=proof, require_percent=_parse_requirement(require)
    )
    code = EXITS[report.verdict]
    if json_wanted:
        output.print_json({"verdict": report.verdict, "exit": code, **report.to_view()})
    else:
        _print_report(report)
    raise typer.Exit(code)


def _parse_requirement(text: str) -> float:
    if not text:
        return 0.0
    match = _REQUIRE.fullmatch(text.strip())
    if match is None or float(match[1]) > 100:
        raise WrongUsage(f"--require {text}: write retraced>=PERCENT, such as retraced>=25%.")
    return float(match[1])


def _print_report(report: Report) -> None:
    subject = report.subject
    output.say(f"model  {subject['model']}")
    if "name" in subject:
        when = output.format_time(subject["time_ms"])
        output.say(
            f"proof  {subject['proof']}  ({subject['name']}, block {subject['block']}, {when})"
        )
    if "fingerprint" in subject:
        output.say(
            f"trust  {subject['trust']}  (network {subject['network']}, fingerprint"
            f" {subject['fingerprint']})"
        )
    output.say()
    for check in report.checks:
        output.print_check(check.state, check.name, check.detail)
    if report.gaps:
        output.say()
        output.say("Not shown:")
        for gap in report.gaps:
            output.say(textwrap.fill(gap, 96, initial_indent="  - ", subsequent_indent="    "))
    word, style = HEADLINES[report.verdict]
    if report.checks:
        output.say()
    output.say(f"{word}  {report.headline}", style=style)
    if report.slug:
        output.tell(f"More: milepost explain {report.slug}", style="dim")
