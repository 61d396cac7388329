"""`milepost explain`: the long text of any refusal, offline."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from milepost.cli import exits, output
from milepost_consensus.problems import PROBLEMS


def explain(
    slug: Annotated[str, typer.Argument(help="The name in brackets after a message.")] = "",
    json_wanted: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a refusal means and what to do about it. Without SLUG: list all."""
    if not slug:
        _list(json_wanted)
        return
    problem = PROBLEMS.get(slug.strip("[]").removeprefix("/problems/"))
    if problem is None:
        near = difflib.get_close_matches(slug, PROBLEMS, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        message = f"Nothing is called {slug!r}.{hint} All names: milepost explain"
        if json_wanted:
            output.print_json({"slug": slug, "problem": None, "suggestions": near})
        output.tell(message)
        raise typer.Exit(exits.USAGE)
    if json_wanted:
        output.print_json({"slug": slug, **problem._asdict()})
        return
    output.say(problem.title, style="bold")
    output.say()
    output.say(problem.meaning)
    output.say()
    output.say(f"What to do: {problem.remedy}")


def _list(json_wanted: bool) -> None:
    if json_wanted:
        output.print_json({"problems": {slug: p.title for slug, p in PROBLEMS.items()}})
        return
    width = max(map(len, PROBLEMS))
    for slug, problem in sorted(PROBLEMS.items()):
        output.say(f"{slug:<{width}}  {problem.title}")
