"""`milepost proof`: fetch the proof of a judged submission, for somebody who has the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milepost.cli import options, output
from milepost.errors import CannotTell


def proof(
    sub: Annotated[
        str, typer.Argument(metavar="SUB", help="A submission: sub_ and at least 6 digits.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the proof.")
    ] = Path("model.proof.json"),
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Model file whose SHA-256 is noted as a hint; otherwise model.safetensors beside"
            " the proof, if there is one.",
        ),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="Trust file; otherwise the one that milepost.toml names."),
    ] = None,
    json_wanted: options.Json = False,
    node: options.Nodes = None,
    network: options.Network = None,
) -> None:
    """Write the proof of a verdict, checked against a trust file before."""
    from milepost import answers, bundle
    from milepost.api import Client
    from milepost.network import find_network

    profile = find_network(network, node or ())
    trusted = bundle.read_trust(answers.find_trust(trust or profile.trust))
    with Client(profile.nodes) as client:
        view = client.proof(sub)
    read = bundle.parse_proof(view, where="the node's proof")
    bundle.validate_proof(read, trusted)
    submission = read.bundle.submission.id.hex()
    if not submission.startswith(sub.removeprefix("sub_")):
        raise CannotTell("The node sent the proof of another submission.", slug="bad-proof")
    bundle.write_proof(out, read, model=model or out.with_name("model.safetensors"))
    names = {member.id: member.name for member in trusted.validators}
    _, signers = bundle.describe_signers(read.envelope, names)
    verdict = read.bundle.verdict
    if json_wanted:
        answer = {"submission": f"sub_{submission}", "verdict": verdict.outcome, "proof": str(out)}
        output.print_json(answer)
        return
    output.say(f"{out}  sub_{submission}  {verdict.outcome}  block {verdict.height}")
    output.say(f"envelope  {signers}")
