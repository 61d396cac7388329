"""`milepost dev`: a network of node processes on this machine, until Ctrl-C."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost import network
from milepost.cli import exits, output
from milepost.cli.signals import treat_as_interrupt
from milepost.errors import MachineCannot, WrongUsage
from milepost_consensus.params import RULES

if TYPE_CHECKING:
    from milepost.processes import LocalNetwork

DEFAULT_NODES = 7
DEFAULT_DIR = Path("milepost-dev")
FIRST_PORT = 8421
WATCH_SECONDS = 0.5


def dev(
    nodes: Annotated[
        int | None, typer.Option("--nodes", help="How many nodes a new network gets; 7 by default.")
    ] = None,
    malicious: Annotated[
        list[str] | None,
        typer.Option(
            "--malicious",
            metavar="K:KIND",
            help="Make the last K nodes misbehave, such as 1:chaotic. Kinds: "
            f"{', '.join(network.BEHAVIOURS)}.",
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the network lies or shall lie.")
    ] = DEFAULT_DIR,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help=f"How a new network judges an interval: {' or '.join(RULES)}."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the network in --dir and begin a new one.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", help="First of neighbouring ports, if free; 0 for any.")
    ] = FIRST_PORT,
) -> None:
    """Run a network of node processes on this machine until Ctrl-C.

    The chain stays in --dir: the same command goes on with it.
    """
    from milepost import extras
    from milepost.processes import LocalNetwork

    missing = extras.find_missing("node")
    if missing:
        raise MachineCannot(
            f"Nodes need {', '.join(missing)}. Install them: pip install 'milepost[node]'"
        )
    if rule is not None and rule not in RULES:
        raise WrongUsage(f"--rule {rule}: must be {' or '.join(RULES)}.")
    if fresh:
        _delete_network(directory)
    if (directory / network.PROFILE).is_file():
        homes = _open_network(directory, nodes, malicious, rule)
    else:
        count = DEFAULT_NODES if nodes is None else nodes
        liars = network.parse_malicious(malicious or (), nodes=count)
        homes = network.write_network(
            directory,
            name=directory.resolve().name,
            nodes=count,
            malicious=liars,
            params=network.make_local_params(liars=len(liars), rule=rule or RULES[0]),
            first_port=port,
        )
    treat_as_interrupt()
    try:
        with LocalNetwork(homes) as running:
            output.tell(f"Starting {len(homes)} nodes ...")
            running.start()
            running.wait_ready()
            _print_network(directory, homes)
            _watch(running)
    except KeyboardInterrupt:
        output.tell(f"Stopped. The chain stays in {directory}.")
        raise typer.Exit(exits.YES) from None


def _delete_network(directory: Path) -> None:
    if not directory.exists():
        return
    if not (directory / network.PROFILE).is_file() and any(directory.iterdir()):
        raise WrongUsage(
            f"{directory} is not a network folder; --fresh deletes nothing else.",
            slug="folder-in-use",
        )
    shutil.rmtree(directory)


def _open_network(
    directory: Path, nodes: int | None, malicious: list[str] | None, rule: str | None
) -> tuple[network.NodeHome, ...]:
    """The homes of a network that is there, if the options do not contradict its genesis."""
    homes = network.read_homes(directory)
    written = network.read_rule(directory)
    for option, asked, fixed in (("--nodes", nodes, len(homes)), ("--rule", rule, written)):
        if asked is not None and asked != fixed:
            raise WrongUsage(
                f"The network in {directory} has {option} {fixed}, not {asked}: that is fixed in"
                " its genesis. Leave the option out, or begin anew with --fresh.",
                slug="folder-in-use",
            )
    if malicious is None:
        return homes
    return network.set_malicious(homes, network.parse_malicious(malicious, nodes=len(homes)))


def _print_network(directory: Path, homes: tuple[network.NodeHome, ...]) -> None:
    from milepost import bundle

    output.print_table(
        ("node", "url", "behaviour"),
        [(home.name, home.url, home.behaviour or "honest") for home in homes],
    )
    trust = bundle.read_trust(directory / network.TRUST)
    output.say()
    fingerprint = bundle.compute_fingerprint(trust)
    output.say(f"Trust file  {directory / network.TRUST}  fingerprint {fingerprint}")
    where = "" if directory == DEFAULT_DIR else f" --network {directory}"
    output.say(f"Next, in another terminal:  milepost submit RUN --wait{where}")
    output.say(f"Ctrl-C stops the network; the chain stays in {directory}")


def _watch(running: LocalNetwork) -> None:
    """Return when every node is gone; report each that ends by itself."""
    left = len(running.homes)
    while left:
        for death in running.find_deaths():
            left -= 1
            output.tell(
                f"Node {death.name} ended with code {death.code}. The end of its log:", style="red"
            )
            output.tell(death.tail)
            output.tell(f"{left} nodes go on.")
        time.sleep(WATCH_SECONDS)
    raise MachineCannot("All nodes have ended.", slug="node-died")
