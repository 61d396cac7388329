"""A submission in words: the lines that `submit --wait`, `status` and `show` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milepost import lineage
from milepost.cli import output
from milepost.coverage import (
    describe_assurance,
    describe_drift,
    describe_election,
    get_coverage,
)
from milepost_consensus.payloads import CLASS
from milepost_consensus.tolerance import format_tolerance
from milepost_consensus.verdicts import PROFILE_MEANINGS, Verdict
from milepost_consensus.views import from_view

PHASES = {
    "anchored": "waiting until enough validators hold the record",
    "seeding": "held; waiting for the seed of the election",
    "retracing": "verifiers retrain their intervals",
    "witnessing": "all duties answered; last chance to point at a wrong step",
    "panel": "all verifiers recompute the accused steps",
    "decided": "the verdict is in a block",
}
STYLES = {"VALID": "green", "INVALID": "red", "UNDECIDED": "yellow"}
ANSWERS = {"agrees": "✓", "differs": "✗", "missed": "…", "lazy": "z", "": "·"}


def get_short_id(view: dict[str, Any]) -> str:
    return f"sub_{view['id'][:8]}"


def name_members(genesis: dict[str, Any]) -> dict[str, str]:
    """Member names by id, from a genesis view."""
    return {member["id"]: member["name"] for member in genesis["members"]}


def get_step_range(submit: dict[str, Any], interval: int) -> str:
    """The steps of an interval, as people count them: from its first to its last."""
    first = interval * submit["steps_per_interval"]
    last = min(first + submit["steps_per_interval"], submit["steps"]) - 1
    return f"{first}-{last}"


def format_distance(ppb: int) -> str:
    """A distance in 10^-9 of the interval's movement."""
    return "0" if ppb == 0 else f"{ppb / 1e9:.1e}"


def describe_answers(
    submission: dict[str, Any], duties: list[dict[str, Any]], names: Mapping[str, str]
) -> str:
    """`✓ birch  ✗ elm (refuted) ...` for the duties of one interval; with their distances, where
    answers have any."""
    outcomes = {
        (accusation["interval"], accuser): accusation["outcome"]
        for accusation in submission["accusations"]
        if accusation["outcome"] in ("refuted", "dismissed")
        for accuser in accusation["accusers"]
    }
    parts = []
    for duty in duties:
        text = f"{ANSWERS[duty['answer']]} {names.get(duty['verifier'], duty['verifier'][:8])}"
        outcome = outcomes.get((duty["interval"], duty["verifier"]))
        if outcome is not None:
            text += f" ({outcome})"
        elif duty["distance_ppb"]:
            text += f" ({format_distance(duty['distance_ppb'])})"
        parts.append(text)
    return "  ".join(parts)


def group_duties(submission: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The duties by interval, intervals in order."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for duty in sorted(submission["duties"], key=lambda duty: duty["interval"]):
        groups.setdefault(duty["interval"], []).append(duty)
    return groups


def format_interval(
    submission: dict[str, Any],
    interval: int,
    duties: list[dict[str, Any]],
    names: Mapping[str, str],
) -> str:
    """One line for one interval: number, steps, why it is retraced, who got what."""
    why = "flagged" if interval in submission["flagged"] else "audit"
    steps = get_step_range(submission["submit"], interval)
    return f"{interval:>8}  {steps:<13} {why:<8} {describe_answers(submission, duties, names)}"


INTERVAL_HEADING = f"{'interval':>8}  {'steps':<13} {'why':<8} who retraced it"


def print_accusations(submission: dict[str, Any], names: Mapping[str, str]) -> None:
    """What the panel made of each accused step."""
    for accusation in sorted(submission["accusations"], key=lambda a: (a["interval"], a["step"])):
        by = ", ".join(names.get(each, each[:8]) for each in accusation["accusers"])
        against = sum(
            1 for answer in accusation["answers"] if answer["recomputed"] != accusation["leaf"]
        )
        outcome = {
            "upheld": "upheld, the step does not follow",
            "refuted": "refuted, the step is as recorded",
            "unsettled": "unsettled",
            "dismissed": "dismissed, a panel had proved everybody wrong who says so",
            "": "open",
        }[accusation["outcome"]]
        output.say(
            f"  interval {accusation['interval']}, step {accusation['step']}: accused by {by};"
            f" {outcome} ({against} of {len(accusation['answers'])} verifiers got another result)"
        )


def print_submission(answer: dict[str, Any], names: Mapping[str, str]) -> None:
    """Everything a person wants to see about one submission."""
    submission, verdict = answer["submission"], answer["verdict"]
    submit = submission["submit"]
    count = len(submit["step_roots"])
    output.say(f"{get_short_id(submission)}  {submit['name']}", style="bold")
    sender = names.get(submission["sender"], submission["sender"][:16])
    output.say(
        f"  {count} intervals of {submit['steps_per_interval']} steps,"
        f" {submit['records']:,} records; profile {describe_profile(submit)}"
    )
    output.say(f"  submitted by {sender} in block {submission['anchored_height']}")
    output.say(f"  {PHASES.get(submission['phase'], submission['phase'])}")
    if submission["duties"]:
        output.say()
        output.say(INTERVAL_HEADING, style="dim")
        for interval, duties in group_duties(submission).items():
            output.say(format_interval(submission, interval, duties, names))
    if submission["accusations"]:
        output.say()
        print_accusations(submission, names)
    for line in lineage.describe_origin(answer["origin"], names) if "origin" in answer else ():
        output.say(f"  {line}")
    if verdict is not None:
        output.say()
        output.say(describe_verdict(verdict, names), style=STYLES.get(verdict["outcome"], ""))


def describe_profile(submit: dict[str, Any]) -> str:
    """The arithmetic profile, with what it means or whose it is."""
    profile: str = submit["profile"]
    meaning = submit["device_class"] if profile == CLASS else PROFILE_MEANINGS.get(profile)
    if submit["tolerance_ppb"]:
        meaning = f"{meaning}; tolerance {format_tolerance(submit['tolerance_ppb'])}"
    return f"{profile} ({meaning})" if meaning else profile


def describe_verdict(verdict: dict[str, Any], names: Mapping[str, str]) -> str:
    """The verdict in a line or two."""
    judged = from_view(Verdict, verdict)
    drift = describe_drift(get_coverage(judged, quorum=0))
    text = (
        f"{judged.outcome}  block {judged.height} · assurance {describe_assurance(judged)} ·"
        f" profile {judged.profile} · {describe_election(judged)} · {judged.reason}"
    )
    if drift:
        text += f" · drift budget {drift}"
    if verdict["overruled"]:
        overruled = ", ".join(names.get(each, each[:8]) for each in verdict["overruled"])
        text += f" · overruled: {overruled}"
    return text
