"""Where a model comes from, for people: its registration and its parents, on or off the chain.

The same view is made from a proof, whose entries are checked, and from a node's answers:

    {"registration": {"id", "number", "height", "seed", "made"} or null,
     "lineage": [{"submission", "submitter", "outcome", "assurance", "height"}, ...], "more": false}

The parents come nearest first; `more` says that the line goes on beyond those listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from milepost.errors import Refused
from milepost_consensus.origin import MAX_ANCESTORS, Origin
from milepost_consensus.verdicts import FULL_REGISTERED, VALID, Verdict, qualify_assurance
from milepost_consensus.views import to_view

if TYPE_CHECKING:
    from milepost.api import Client

View = dict[str, Any]


def view_origin(origin: Origin, verdict: Verdict) -> View:
    """Out of a proof."""
    registration = to_view(origin.registration) if origin.registration is not None else None
    parents = [to_view(ancestor.verdict) for ancestor in origin.ancestors]
    return _make_view(registration, verdict.registrations, parents)


def fetch_origin(client: Client, answer: View) -> View:
    """From a node, for the submission that it gave as `answer`."""
    submit, verdict = answer["submission"]["submit"], answer["verdict"]
    registration = client.registration(submit["registration"]) if submit["registration"] else None
    made = verdict["registrations"] if verdict is not None else 0
    parents: list[View] = []
    parent = submit["parent"]
    while parent and len(parents) < MAX_ANCESTORS:
        try:
            found = client.submission(parent)["verdict"]
        except Refused:
            break
        if found is None:
            break
        parents.append(found)
        parent = found["parent"]
    return _make_view(registration, made, parents)


def _make_view(registration: View | None, made: int, parents: Sequence[View]) -> View:
    shown = None
    if registration is not None:
        number = registration["register"]["attempt"] + 1
        shown = {
            "id": registration["id"],
            "number": number,
            "height": registration["height"],
            "seed": registration["seed"],
            "made": max(made, number),
        }
    lineage = [
        {
            "submission": parent["submission"],
            "submitter": parent["sender"],
            "outcome": parent["outcome"],
            "assurance": qualify_assurance(parent["assurance"], parent["tolerance_ppb"]),
            "height": parent["height"],
        }
        for parent in parents
    ]
    return {
        "registration": shown,
        "lineage": lineage,
        "more": bool(parents and parents[-1]["parent"]),
    }


def describe_origin(view: View, names: Mapping[str, str]) -> list[str]:
    """In lines; empty for a run that is neither registered nor a child."""
    lines = []
    registration = view["registration"]
    if registration is not None:
        text = (
            f"registration {registration['number']} of this submitter, at height"
            f" {registration['height']} ({registration['id'][:8]})"
        )
        if registration["made"] > registration["number"]:
            text += f"; {registration['made']} were made before the run was submitted"
        lines.append(text)
    for distance, parent in enumerate(view["lineage"]):
        word = ("parent", "grandparent")[distance] if distance < 2 else f"ancestor {distance + 1}"
        submitter = names.get(parent["submitter"], parent["submitter"][:16])
        lines.append(
            f"{word} sub_{parent['submission'][:8]} of {submitter}: {parent['outcome']},"
            f" assurance {parent['assurance']}, block {parent['height']}"
        )
    if view["more"]:
        lines.append("and older ones: milepost show on the last one listed")
    return lines


def describe_gaps(view: View) -> list[str]:
    """What stays open about where the model comes from, one sentence each."""
    lines = []
    registration, lineage = view["registration"], view["lineage"]
    if registration is None:
        what = (
            "the order of the data was"
            if lineage
            else "initial weights and the order of the data were"
        )
        lines.append(
            f"Whether {what} chosen for a purpose: the run was not registered, so its submitter"
            " was free to."
        )
    elif registration["made"] > 1:
        lines.append(
            f"How many seeds were tried: this submitter had made {registration['made']}"
            " registrations by then and may have kept the run that suited."
        )
    if lineage and not is_registered_throughout(view):
        lines.append(
            "The same of its ancestors: not all of them are VALID with assurance FULL+REGISTERED,"
            " bit for bit."
        )
    return lines


def is_registered_throughout(view: View) -> bool:
    """Whether every parent listed is VALID with full assurance and no tolerance, up to the first
    of the line."""
    return not view["more"] and all(
        parent["outcome"] == VALID and parent["assurance"] == FULL_REGISTERED
        for parent in view["lineage"]
    )
