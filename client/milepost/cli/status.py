"""`milepost status`: how the nodes of a network are, or where one submission stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import exits, options, output, submissions

if TYPE_CHECKING:
    from milepost.api import Client

RECENT = 10
"""Submissions that are listed, latest first."""


def status(
    sub: Annotated[
        str, typer.Argument(metavar="[SUB]", help="A submission: sub_ and at least 6 digits.")
    ] = "",
    json_wanted: options.Json = False,
    node: options.Nodes = None,
    network: options.Network = None,
) -> None:
    """Show the nodes and the latest submissions, or one submission."""
    from milepost.api import Client
    from milepost.network import find_network

    profile = find_network(network, node or ())
    with Client(profile.nodes, read_seconds=5.0) as client:
        if sub:
            _show_submission(client, sub, json_wanted)
        else:
            _show_network(client, json_wanted)


def _show_submission(client: Client, sub: str, json_wanted: bool) -> None:
    answer = client.submission(sub)
    if json_wanted:
        output.print_json(answer)
        return
    submissions.print_submission(answer, submissions.name_members(client.genesis()))


def _show_network(client: Client, json_wanted: bool) -> None:
    from milepost.api import NodeFailed
    from milepost.errors import Refused

    answers: list[dict[str, Any]] = []
    for node in client.nodes():
        try:
            answers.append({"url": node.url, **node.get("/v1/status")})
        except (NodeFailed, Refused) as error:
            answers.append({"url": node.url, "error": str(error)})
    alive = [answer for answer in answers if "error" not in answer]
    recent = client.submissions()[:RECENT] if alive else []
    if json_wanted:
        output.print_json(
            {
                "network": alive[0].get("network") if alive else None,
                "network_id": alive[0].get("network_id") if alive else None,
                "nodes": answers,
                "submissions": recent,
            }
        )
    else:
        _print_nodes(answers)
        if recent:
            output.say()
            _print_recent(recent)
    if not alive:
        output.tell("No node answers. Start a network on this machine: milepost dev")
        raise typer.Exit(exits.UNREACHABLE)


def _print_nodes(answers: list[dict[str, Any]]) -> None:
    alive = [answer for answer in answers if "error" not in answer]
    if alive:
        first = alive[0]
        output.say(f"Network {first.get('network')} ({str(first.get('network_id'))[:16]})")
        output.say()
    output.print_table(
        ("node", "url", "height", "state", "peers", "behaviour"),
        [_describe_node(answer) for answer in answers],
        right=("height",),
    )
    for device_class, names in group_device_classes(alive).items():
        output.say(f"Retrained as {device_class} by {len(names)} of {len(alive)} nodes")


def group_device_classes(answers: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Which nodes state on chain that they repeat which arithmetic."""
    groups: dict[str, list[str]] = {}
    for answer in answers:
        for device_class in answer.get("serves", ()):
            groups.setdefault(device_class, []).append(str(answer.get("node", "")))
    return groups


def _describe_node(answer: dict[str, Any]) -> tuple[str, ...]:
    if "error" in answer:
        return ("?", answer["url"], "", "unreachable", "", answer["error"])
    return (
        str(answer.get("node", "")),
        answer["url"],
        str(answer.get("height", "")),
        "syncing" if answer.get("syncing") else "ready",
        f"{answer.get('peers_reachable', '?')}/{answer.get('peers', '?')}",
        answer.get("behaviour") or "honest",
    )


def _print_recent(recent: list[dict[str, Any]]) -> None:
    output.print_table(
        ("submission", "name", "profile", "intervals", "phase", "verdict", "block"),
        [
            (
                submissions.get_short_id(entry["submission"]),
                entry["submission"]["submit"]["name"],
                entry["submission"]["submit"]["profile"],
                str(len(entry["submission"]["submit"]["step_roots"])),
                entry["submission"]["phase"],
                entry["verdict"]["outcome"] if entry["verdict"] else "",
                str(entry["verdict"]["height"]) if entry["verdict"] else "",
            )
            for entry in recent
        ],
    )
