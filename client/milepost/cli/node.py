"""`milepost node`: what an operator does with one node, named by its home or its URL.

The package of the nodes is started by its name and never imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from milepost.cli import exits, output
from milepost.cli.options import Json
from milepost.errors import MachineCannot, Unreachable, WrongUsage
from milepost.homes import find_url, read_home

PACKAGE: Final = "milepost_node"
HEALTH_SECONDS: Final = 5.0
"""A node answers for its health within milliseconds, or something is wrong with it."""
_CODES: Final = {200: exits.YES, 206: exits.CANNOT_TELL, 503: exits.NO}
"""What the statuses of `/health/ready` are as exit codes."""
_MARKS: Final = {"ok": "pass", "warn": "note", "fail": "fail"}

Where = Annotated[
    str, typer.Argument(metavar="HOME|URL", help="The home of a node, or where it answers.")
]
Home = Annotated[
    Path, typer.Argument(metavar="HOME", help="A folder with node.toml, node.key, genesis.json.")
]

app = typer.Typer(
    name="node",
    help="Operate one node: start, health, status, peers, doctor, backup, restore.",
    no_args_is_help=True,
)


@app.command()
def start(home: Home) -> NoReturn:
    """Run the node of a home in the foreground until SIGTERM or Ctrl-C.

    Exit code: 0 when it was stopped, 1 if it failed, 2 if it cannot start.
    """
    read_home(home)
    _need_package()
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
        text = _describe(reason)
        output.say(text if text == word else f"{word}: {text}")
    raise typer.Exit(code)


@app.command()
def status(where: Where = ".", as_json: Json = False) -> None:
    """Show where a node stands: height, peers, whether it signs, what it serves, what waits.

    Exit code: 0 if it answers, 5 if not.
    """
    url = find_url(where)
    answer = _ask(url, "/v1/status")
    _, readiness = _ask_health(url)
    if as_json:
        output.print_json({"url": url, **answer, "readiness": readiness})
        return
    rows = (
        ("node", f"{answer.get('node')} at {url}, milepost {answer.get('version')}"),
        ("network", f"{answer.get('network')} ({str(answer.get('network_id'))[:16]})"),
        ("key", str(answer.get("key"))[:16]),
        ("health", _describe(readiness)),
        ("height", str(answer.get("height"))),
        ("peers", f"{answer.get('peers_reachable')} of {answer.get('peers')} reachable"),
        ("signing", str(answer.get("key_in_use") or answer.get("signing"))),
        ("serves", ", ".join(answer.get("serves") or ()) or "nothing"),
        (
            "waiting",
            f"{answer.get('retrace_queue')} to retrain, {answer.get('mempool')} for a block",
        ),
        ("behaviour", str(answer.get("behaviour") or "honest")),
    )
    for name, text in rows:
        output.say(f"{name:<10} {text}")


@app.command()
def peers(where: Where = ".", as_json: Json = False) -> None:
    """List the other nodes as one node sees them.

    Exit code: 0 if all are reachable, 1 if one is not, 5 if the node itself does not answer.
    """
    url = find_url(where)
    listed = _ask(url, "/v1/peers").get("peers")
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise Unreachable(f"What answers at {url} gave no list of peers.")
    if as_json:
        output.print_json({"url": url, "peers": listed})
    else:
        output.print_table(
            ("peer", "endpoint", "state", "height", "answered", "dropped", "trouble"),
            [
                (
                    str(each.get("name")),
                    str(each.get("endpoint")),
                    "reachable" if each.get("reachable") else "unreachable",
                    str(each.get("height")),
                    _format_ago(each.get("answered_seconds_ago")),
                    str(each.get("dropped")),
                    str(each.get("trouble")),
                )
                for each in listed
            ],
            right=("height", "dropped"),
        )
    if not all(each.get("reachable") for each in listed):
        raise typer.Exit(exits.NO)


@app.command()
def doctor(home: Home, as_json: Json = False) -> None:
    """Look a home over: settings, key, genesis, database, disk, devices, peers, clock.

    Takes seconds: the known-answer tests of the node's worker are run. Changes nothing.
    Exit code: 0 if nothing fails, 1 otherwise.
    """
    read_home(home)
    _need_package()
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.doctor", "--home", str(home)],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise MachineCannot("The examination itself failed; see above.", slug="node-failed")
    findings = json.loads(done.stdout)
    failed = sum(finding["state"] == "fail" for finding in findings)
    code = exits.NO if failed else exits.YES
    if as_json:
        output.print_json({"findings": findings, "exit": code})
    else:
        for finding in findings:
            output.print_check(_MARKS[finding["state"]], finding["name"], finding["detail"])
        output.say(f"{failed} of {len(findings)} fail" if failed else "nothing fails")
    raise typer.Exit(code)


@app.command()
def backup(
    home: Home, file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not exist yet.")]
) -> None:
    """Write settings, key, genesis, chain and open submissions of a node into one file.

    The node may run meanwhile. Records are not in it, nor what the node signed last.
    """
    read_home(home)
    head = _run_backup("write", home, file)
    output.say(f"{file}: node {head['node']} of network {head['network']}, {head['height']} blocks")
    output.tell("It holds the node's key: keep it as you keep the key.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `node backup` wrote.")],
    home: Annotated[Path, typer.Argument(metavar="HOME", help="Must not exist yet.")],
) -> None:
    """Make a home from a backup. First make sure that the node it was taken of never runs again.

    The restored node signs only after it followed the others for a while.
    """
    head = _run_backup("restore", file, home)
    output.say(f"{home}: node {head['node']} of network {head['network']}, {head['height']} blocks")
    output.tell(
        "It follows in quarantine until every validator has had two turns, and signs nothing any"
        " more if its key signs elsewhere meanwhile. Never run both."
    )


def _run_backup(what: str, source: Path, target: Path) -> dict[str, Any]:
    """The head of a backup that was written or restored."""
    _need_package()
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.backup", what, str(source), str(target)],
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise MachineCannot("The work itself failed; see above.", slug="node-failed") from error
    if done.returncode:
        problem = answer["problem"]
        detail, named = str(problem["detail"]), str(problem["slug"])
        raise WrongUsage(detail, slug=named)
    return answer


def _need_package() -> None:
    """Raises MachineCannot unless a node can run here."""
    from milepost import extras

    missing = extras.find_missing("node")
    if missing:
        raise MachineCannot(
            f"A node needs {', '.join(missing)}. Install them: pip install 'milepost[node]'"
        )


def _describe(readiness: dict[str, object]) -> str:
    """The body of `/health/ready` in one line."""
    return ", ".join(
        str(value) if key in ("reason", "detail") else f"{key} {value}"
        for key, value in readiness.items()
    )


def _format_ago(seconds: object) -> str:
    return f"{seconds:.0f} s ago" if isinstance(seconds, int | float) else "never"


def _ask(url: str, path: str) -> dict[str, Any]:
    """A JSON object of a node."""
    from milepost.api import Client

    with Client((url,), read_seconds=HEALTH_SECONDS) as client:
        answer = client.attempt(lambda node: node.get(path))
    if not isinstance(answer, dict):
        raise Unreachable(f"What answers at {url} is not a node of Milepost.")
    return answer


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
