"""`milepost show`: one inspector for a run, a model, a proof, a submission, a block or a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import options, output, submissions
from milepost.cli.tensors import show_tensors
from milepost.errors import CannotTell, Refused, WrongUsage
from milepost_consensus.views import to_view

if TYPE_CHECKING:
    from milepost.api import Client
    from milepost.runs import RunFolder

BAR = 16
"""Width of the bars in the table of a run, in characters."""


def show(
    thing: Annotated[
        str,
        typer.Argument(
            help="A run folder, model file, proof file, sub_..., block height or node name."
        ),
    ],
    json_wanted: options.Json = False,
    tensors: Annotated[
        int | None,
        typer.Option(metavar="K", help="Of a run: which parameters moved in interval K."),
    ] = None,
    node: options.Nodes = None,
    network: options.Network = None,
) -> None:
    """Show what something is and holds."""
    path = Path(thing)
    if tensors is not None:
        from milepost import runs

        show_tensors(runs.read_run(path), tensors, json_wanted=json_wanted)
    elif path.is_dir():
        _show_run(path, json_wanted)
    elif path.is_file():
        _show_file(path, json_wanted)
    else:
        _show_on_chain(thing, json_wanted, network, tuple(node or ()))


# On this machine ---------------------------------------------------------------------------------


def _show_run(folder: Path, json_wanted: bool) -> None:
    from milepost import runs

    run = runs.read_run(folder)
    if json_wanted:
        output.print_json(run.to_view())
        return
    about = run.about
    state = "complete" if about.get("complete") else "not complete"
    output.say(f"{about.get('name', folder.name)}  {state}", style="bold")
    for name, value in about.items():
        if name not in ("name", "complete"):
            output.say(f"  {name:<12} {_flatten(value)}")
    output.say()
    _print_journal(run)
    output.say()
    _print_selfcheck(run.selfcheck)
    if run.proof is not None:
        output.say(f"Proof: {run.proof}")
    else:
        output.tell(f"Not submitted yet, as far as this folder tells: milepost submit {folder}")


def _flatten(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)


def _print_journal(run: RunFolder) -> None:
    largest = max((line.absolute for line in run.journal), default=0.0) or 1.0
    numbers = ("interval", "steps", "loss", "change", "L2", "percent", "cosine")
    output.print_table(
        (*numbers, "", " "),
        [
            (
                str(line.interval),
                str(line.steps),
                f"{line.loss:.4f}",
                f"{line.absolute:.2f}",
                f"{line.l2:.3f}",
                f"{line.percent:.2f}",
                f"{line.cosine:.4f}",
                "▲" if line.flagged else " ",
                "█" * max(1, round(BAR * line.absolute / largest)),
            )
            for line in run.journal
        ],
        right=numbers,
    )
    flagged = [str(line.interval) for line in run.journal if line.flagged]
    listed = f" (▲): {', '.join(flagged)}" if flagged else ""
    output.say(f"{len(flagged)} of {len(run.journal)} intervals stand out{listed}")


def _print_selfcheck(selfcheck: dict[str, Any] | None) -> None:
    text = "none was made" if selfcheck is None else selfcheck.get("message", _flatten(selfcheck))
    output.say(f"Self-check: {text}")


def _show_file(path: Path, json_wanted: bool) -> None:
    from milepost import bundle, lineage

    if path.suffix == ".json":
        proof = bundle.read_proof(path)
        view = bundle.proof_to_view(proof)
        if json_wanted:
            output.print_json(view)
            return
        output.say(f"{path.name}  proof of a verdict, not checked here", style="bold")
        answer = {
            "submission": to_view(proof.bundle.submission),
            "verdict": to_view(proof.bundle.verdict),
            "origin": lineage.view_origin(proof.bundle.origin, proof.bundle.verdict),
        }
        submissions.print_submission(answer, {})
        output.tell("Check it against a model: milepost verify MODEL --proof " + str(path))
        return
    _show_model(path, json_wanted)


def _show_model(path: Path, json_wanted: bool) -> None:
    import hashlib

    from milepost import lineage
    from milepost_ml.snapshots import compute_stored_digest, read_header

    with path.open("rb") as stream:
        specs = read_header(stream, name=path.name, metadata_allowed=True).specs
        stream.seek(0)
        file_digest = hashlib.file_digest(stream, "sha256").hexdigest()
    content = compute_stored_digest(path).hex()
    judged = _find_judged(path, content)
    if json_wanted:
        tensors = [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]
        output.print_json(
            {
                "file": str(path),
                "size_bytes": path.stat().st_size,
                "sha256": file_digest,
                "content": content,
                "tensors": tensors,
                "judged": judged,
            }
        )
        return
    output.say(f"{path.name}  {len(specs)} tensors", style="bold")
    output.say(f"  content  b3:{content}")
    output.say(f"  file     sha256:{file_digest}")
    output.say()
    output.print_table(
        ("tensor", "dtype", "shape"),
        [(spec.name, spec.dtype, str(list(spec.shape))) for spec in specs],
    )
    if judged is not None:
        output.say()
        output.say(submissions.describe_verdict(judged["verdict"], {}))
        for line in lineage.describe_origin(judged["origin"], {}):
            output.say(f"  {line}")
        output.tell(f"As the proof beside it says, not checked here: milepost verify {path}")


def _find_judged(path: Path, content: str) -> dict[str, Any] | None:
    """What the proof beside a model says, if it is about these weights."""
    from milepost import answers, bundle, lineage

    try:
        proof = bundle.read_proof(answers.find_proof(path))
    except CannotTell:
        return None
    verdict = proof.bundle.verdict
    if verdict.model_digest.hex() != content:
        return None
    return {
        "verdict": to_view(verdict),
        "origin": lineage.view_origin(proof.bundle.origin, verdict),
    }


# On the chain ------------------------------------------------------------------------------------


def _show_on_chain(
    thing: str, json_wanted: bool, network: Path | None, nodes: tuple[str, ...]
) -> None:
    from milepost import lineage
    from milepost.api import Client
    from milepost.network import find_network

    profile = find_network(network, nodes)
    with Client(profile.nodes, read_seconds=5.0) as client:
        if thing.isdecimal():
            _show_block(client, int(thing), json_wanted)
            return
        if not thing.startswith("sub_") and _show_node(client, thing, json_wanted):
            return
        digits = thing.removeprefix("sub_")
        if len(digits) < 6 or any(digit not in "0123456789abcdef" for digit in digits):
            raise WrongUsage(
                f"There is no file, node or submission called {thing!r}. Submissions are written"
                " sub_ and at least 6 digits of their id.",
                slug="no-such-thing",
            )
        answer = client.submission(digits)
        answer["origin"] = lineage.fetch_origin(client, answer)
        if json_wanted:
            output.print_json(answer)
        else:
            submissions.print_submission(answer, submissions.name_members(client.genesis()))


def _show_node(client: Client, name: str, json_wanted: bool) -> bool:
    """Show the node of that name; False if no member is called so."""
    from milepost.api import NodeFailed

    members = {member["name"]: member for member in client.genesis()["members"]}
    member = members.get(name)
    if member is None or not member["endpoint"]:
        return False
    status: dict[str, Any] = {}
    try:
        status = client.node(member["endpoint"]).get("/v1/status")
    except (NodeFailed, Refused) as error:
        status = {"error": str(error)}
    if json_wanted:
        output.print_json({"member": member, "status": status})
        return True
    output.say(name, style="bold")
    for key, value in {**member, **status}.items():
        if key != "name":
            output.say(f"  {key:<16} {value}")
    return True


def _show_block(client: Client, height: int, json_wanted: bool) -> None:
    answer = client.block(height)
    if json_wanted:
        output.print_json(answer)
        return
    names = submissions.name_members(client.genesis())
    header, certificate = answer["block"]["header"], answer["certificate"]
    output.say(f"Block {header['height']}  {answer['id']}", style="bold")
    proposer = names.get(header["proposer"], header["proposer"][:16])
    output.say(f"  proposed by  {proposer} in round {header['round']}")
    output.say(f"  time         {output.format_time(header['time_ms'])}")
    output.say(f"  parent       {header['prev_id']}")
    output.say(f"  state root   {header['state_root']}")
    validators = sorted(m["id"] for m in client.genesis()["members"] if m["roles"] & 1)
    signed = ", ".join(names[validators[index]] for index in certificate["signers"])
    output.say(f"  signed by    {len(certificate['signers'])} of {len(validators)}: {signed}")
    output.say(f"  transactions {len(answer['block']['txs'])}")
    for tx in answer["block"]["txs"]:
        output.say(f"    {tx['kind']:<11} {names.get(tx['sender'], tx['sender'][:16])}")
