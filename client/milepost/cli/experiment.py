"""`milepost experiment`: the experiments, in a process of their own.

The package of the experiments is started by its name and never imported; this command provides
what it needs, hands the options on, and ends with its exit code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from milepost.cli import exits
from milepost.cli.provide import provide_extra

EXTRA: Final = "experiments"
PACKAGE: Final = "milepost_experiments"

NoInstall = Annotated[
    bool, typer.Option("--no-install", help="Rather fail than install missing packages.")
]

app = typer.Typer(
    name="experiment",
    help="Ask the system a question over and over: run, list, report, behaviours.",
    no_args_is_help=True,
)


@app.command()
def run(
    target: Annotated[
        str, typer.Argument(help="An experiment, a TOML file, or a manifest to repeat.")
    ],
    preset: Annotated[
        str | None, typer.Option("--preset", help="quick (minutes on two cores) or paper.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder of the results.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Workers side by side.")] = 1,
    executor: Annotated[
        str,
        typer.Option(
            "--executor",
            help="processes: of this machine; ray: the Ray cluster that RAY_ADDRESS names, or one"
            " of this machine.",
        ),
    ] = "processes",
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Elections for every model and point.")
    ] = None,
    fidelity: Annotated[
        str | None,
        typer.Option(
            "--fidelity",
            help="replay: votes from cached real retraces; full: real networks of node processes.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the experiment."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute everything anew, also what is done.")
    ] = False,
    no_install: NoInstall = False,
) -> None:
    """Compute what is not done yet, then draw and describe it. Goes on after an interruption.

    Exit code: 0 when done; 1 if a manifest was repeated and a table came out differently.
    """
    changes = list(overrides or [])
    changes += [f"seeds={seeds}"] if seeds is not None else []
    changes += [f'fidelity="{fidelity}"'] if fidelity is not None else []
    arguments = ["run", target, "--jobs", str(jobs), "--executor", executor]
    arguments += ["--preset", preset] if preset is not None else []
    arguments += ["--out", str(out)] if out is not None else []
    arguments += ["--fresh"] if fresh else []
    for change in changes:
        arguments += ["--set", change]
    _hand_on(arguments, install=not no_install)


@app.command("list")
def list_(no_install: NoInstall = False) -> None:
    """What there is to ask."""
    _hand_on(["list"], install=not no_install)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    no_install: NoInstall = False,
) -> None:
    """Draw and describe the results of a run again."""
    _hand_on(["report", str(folder)], install=not no_install)


@app.command()
def behaviours(no_install: NoInstall = False) -> None:
    """How nodes can be told to lie."""
    _hand_on(["behaviours"], install=not no_install)


def _hand_on(arguments: Sequence[str], *, install: bool) -> NoReturn:
    provide_extra(EXTRA, "The experiments need", install=install)
    child = subprocess.Popen([sys.executable, "-m", PACKAGE, *arguments])
    while True:
        try:
            raise typer.Exit(child.wait())
        except KeyboardInterrupt:
            # The terminal interrupts the child as well; it keeps what is done and ends.
            if child.poll() is not None:
                raise typer.Exit(exits.INTERRUPTED) from None
