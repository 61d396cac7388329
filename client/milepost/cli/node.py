"""`milepost node`: what an operator does with one node, named by its home or its URL.

The package of the nodes is started by its name and never imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from milepost.cli import exits, output
from milepost.cli.options import Json
from milepost.errors import MachineCannot, Unreachable
from milepost.homes import find_url, read_home

PACKAGE: Final = "milepost_node"
HEALTH_SECONDS: Final = 5.0
"""A node answers for its health within milliseconds, or something is wrong with it."""
_CODES: Final = {200: exits.YES, 206: exits.CANNOT_TELL, 503: exits.NO}
"""What the statuses of `/health/ready` are as exit codes."""

Where = Annotated[
    str, typer.Argument(metavar="HOME|URL", help="The home of a node, or where it answers.")
]
Home = Annotated[
    Path, typer.Argument(metavar="HOME", help="A folder with node.toml, node.key, genesis.json.")
]

app = typer.Typer(
    name="node",
    help="Operate one node: start, health.",
    no_args_is_help=True,
)


@app.command()
def start(home: Home) -> NoReturn:
    """Run the node of a home in the foreground until SIGTERM or Ctrl-C.

    Exit code: 0 when it was stopped, 1 if it failed, 2 if it cannot start.
    """
    from milepost import extras

    read_home(home)
    missing = extras.find_missing("node")
    if missing:
        raise MachineCannot(
            f"A node needs {', '.join(missing)}. Install them: pip install 'milepost[node]'"
        )
    sys.stdout.flush()
    # The node takes the place of this process, so that it gets the signals itself.
    os.execv(sys.executable, [sys.executable, "-m", PACKAGE, "--home", str(home)])  # noqa: S606


@app.command()
def health(where: Where = ".", as_json: Json = False) -> None:
    """Ask a node whether it takes part; for the HEALTHCHECK of a container.

    Exit code: 0 ready, 3 not yet (it follows, catches up or waits), 1 not able to, 5 no answer.
    """
    url = find_url(where)
    status, reason = _ask_health(url)
    code = _CODES[status]
    if as_json:
        output.print_json({"url": url, **reason, "exit": code})
    else:
        word = {exits.YES: "ready", exits.CANNOT_TELL: "not yet", exits.NO: "not ready"}[code]
        rest = ", ".join(
            str(value) if key in ("reason", "detail") else f"{key} {value}"
            for key, value in reason.items()
            if value != word
        )
        output.say(f"{word}: {rest}" if rest else word)
    raise typer.Exit(code)


def _ask_health(url: str) -> tuple[int, dict[str, object]]:
    """Status and body of `/health/ready`; raises Unreachable where no node answers."""
    import httpx

    try:
        answer = httpx.get(f"{url}/health/ready", timeout=HEALTH_SECONDS, trust_env=False)
        reason = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(
            f"No node answers at {url} ({type(error).__name__}). Is it running? milepost node"
            " start HOME starts it."
        ) from error
    except ValueError as error:
        raise Unreachable(f"What answers at {url} is not a node of Milepost.") from error
    if answer.status_code not in _CODES or not isinstance(reason, dict):
        raise Unreachable(f"What answers at {url} is not a node: HTTP {answer.status_code}.")
    return answer.status_code, reason
