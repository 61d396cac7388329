"""The command line: which commands there are, and how an error becomes words and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, NoReturn

import typer

from milepost import __version__
from milepost.cli import exits, experiment, key, net, node, output
from milepost.cli.check import check
from milepost.cli.demo import demo
from milepost.cli.dev import dev
from milepost.cli.explain import explain
from milepost.cli.proof import proof
from milepost.cli.show import show
from milepost.cli.status import status
from milepost.cli.submit import submit
from milepost.cli.verify import verify
from milepost.errors import MachineCannot

EPILOG = "Exit codes:\n\n" + "\n\n".join(
    f"{code:>3}  {meaning}" for code, meaning in exits.EXIT_CODES.items()
)

app = typer.Typer(
    name="milepost",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.say(f"milepost {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Verify neural-network training by really retraining it."""


for command in (demo, dev, check, submit, status, show, proof, verify, explain):
    app.command()(command)
app.add_typer(net.app)
app.add_typer(experiment.app)
app.add_typer(node.app)
app.add_typer(key.app)


def main() -> NoReturn:
    """The entry point of the `milepost` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)
    except Exception as error:
        sys.exit(_report(error))
    raise AssertionError("typer exits by itself")


def _report(error: Exception) -> int:
    """Say what went wrong and return the exit code; anything without a slug is our own mistake."""
    arguments = sys.argv[1:]
    if "-v" in arguments or "--verbose" in arguments:
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        error = MachineCannot(
            f"This needs {error.name}, which is not installed here."
            " Install it: pip install 'milepost[ml]'"
        )
    slug = getattr(error, "slug", None)
    if isinstance(slug, str):
        code = exits.get_exit_code(error)
        output.tell(f"{error}  [{slug}]")
        output.tell(f"More: milepost explain {slug}", style="dim")
    else:
        slug, code = "internal-error", exits.CANNOT_TELL
        output.tell(
            f"Unexpected {type(error).__name__}: {error}. This is a defect of milepost; run"
            f" `milepost -v ...` for the details worth reporting.  [{slug}]"
        )
    if "--json" in arguments:
        output.print_json({"problem": {"slug": slug, "detail": str(error)}, "exit": code})
    return code
