"""`milepost net`: the files of a network that is to run in containers or on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milepost import bundle, compose, network
from milepost.cli import output
from milepost.errors import WrongUsage
from milepost.places import PORT, make_machine_places
from milepost_consensus.light import dump_trust, make_trust
from milepost_consensus.params import Params

DEFAULT_NODES = 7

app = typer.Typer(
    name="net",
    help="Write the files of a network: keys, genesis, trust file, node homes, Compose file.",
    no_args_is_help=True,
)


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not in use.")],
    nodes: Annotated[
        int | None, typer.Option("--nodes", help="How many nodes; 7, or one for every --host.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", metavar="IDS", help="GPUs, such as 0,1: the first nodes get one each."
        ),
    ] = None,
    malicious: Annotated[
        list[str] | None,
        typer.Option(
            "--malicious",
            metavar="K:KIND",
            help="Make the last K nodes misbehave, such as 1:chaotic.",
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME[:PORT]",
            help="A machine of its own for every node, one option each, in place of containers.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The network's name; that of the folder otherwise.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", help="First of the ports of this machine that reach the nodes.")
    ] = PORT,
) -> None:
    """Write a new network into DIR: for containers of this machine, or for machines with names."""
    hosts = host or []
    count = nodes if nodes is not None else len(hosts) or DEFAULT_NODES
    if hosts and len(hosts) != count:
        raise WrongUsage(f"--nodes {count} and {len(hosts)} times --host: name one for every node.")
    liars = network.parse_malicious(malicious or (), nodes=count)
    params = network.make_local_params(liars=len(liars), attest_window=compose.ATTEST_WINDOW)
    name = name or directory.resolve().name
    if hosts:
        if gpu is not None:
            raise WrongUsage("--gpu is for containers; a node finds the GPU of its machine.")
        homes = network.found_network(
            directory, make_machine_places(hosts), name=name, malicious=liars, params=Params()
        )
    else:
        homes = compose.write_containers(
            directory,
            name=name,
            nodes=count,
            malicious=liars,
            gpus=_parse_gpus(gpu, nodes=count),
            first_port=port,
            params=params,
        )
    output.print_table(
        ("node", "url", "behaviour"),
        [(home.name, home.url, home.behaviour or "honest") for home in homes],
    )
    output.say()
    _say_trust(directory)
    if hosts:
        output.say(
            "Next: bring each node's folder to its machine, and there: milepost node start FOLDER"
        )
    else:
        output.say(
            f"Next: docker compose --file {directory / compose.COMPOSE_FILE} up --detach --wait"
        )


@app.command()
def trust(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A network folder, or the home of a node.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the trust file here instead of printing it.")
    ] = None,
) -> None:
    """Print the trust file that belongs to the genesis in DIR, with its fingerprint."""
    made = make_trust(network.read_genesis(directory))
    if out is None:
        output.print_json(dump_trust(made))
    else:
        if out.exists():
            raise WrongUsage(f"{out} exists already.", slug="folder-in-use")
        bundle.write_trust(out, made)
    output.tell(f"fingerprint {bundle.compute_fingerprint(made)}")


def _say_trust(directory: Path) -> None:
    fingerprint = bundle.compute_fingerprint(bundle.read_trust(directory / network.TRUST))
    output.say(f"Trust file  {directory / network.TRUST}  fingerprint {fingerprint}")


def _parse_gpus(text: str | None, *, nodes: int) -> tuple[str, ...]:
    if text is None:
        return ()
    ids = tuple(text.split(","))
    if not all(part.isdecimal() for part in ids) or len(set(ids)) < len(ids) or len(ids) > nodes:
        raise WrongUsage(
            f"--gpu {text}: write different numbers, such as 0,1, and no more than there are nodes."
        )
    return ids
