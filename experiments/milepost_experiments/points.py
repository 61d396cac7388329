"""Points of the robustness figure: many elections about many models, counted.

A *set* is which runs are judged: `five`, the paper's test set with five poisoned intervals in half
of the runs, or `one`, clean runs and as many with a single poisoned interval that is flagged: the
worst case, in which one sub-quorum is all that stands against the liars.  Flags are `recorded`
(what the network computes from the record's own scores) or `perfect` (exactly the poisoned
intervals, as the paper's simulation assumes).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from milepost_consensus.flagging import compute_flags
from milepost_consensus.params import Params
from milepost_consensus.verdicts import INVALID, UNDECIDED, VALID
from milepost_experiments.experiment import Row
from milepost_experiments.mnist_runs import CLEAN, SINGLE, Run
from milepost_experiments.released_rule import judge
from milepost_experiments.witness_play import make_terms, play

FIVE: Final = "five"
ONE: Final = "one"
RECORDED: Final = "recorded"
PERFECT: Final = "perfect"
COUNTS: Final = ("right", "valid", "invalid", "undecided", "trained", "panel", "extended")


class Count(NamedTuple):
    """How often what came out for one run, and what it took."""

    right: int = 0
    valid: int = 0
    invalid: int = 0
    undecided: int = 0
    trained: int = 0
    """Steps trained for duties, in all elections together."""
    panel: int = 0
    """Steps recomputed by panels."""
    extended: int = 0
    """Elections in which duties had to pass on."""


def get_flags(run: Run) -> tuple[int, ...]:
    """The intervals that the network flags, from the scores in the record."""
    return compute_flags(run.submit.change_scores, run.submit.rate_sums, Params().flag_rule)


def choose_runs(runs: Sequence[Run], which: str) -> list[Run]:
    """The runs of a set: all but the single ones, or clean ones and as many flagged single ones."""
    if which == FIVE:
        return [run for run in runs if run.plan.kind != SINGLE]
    clean = [run for run in runs if run.plan.kind == CLEAN]
    single = [
        run
        for run in runs
        if run.plan.kind == SINGLE and set(run.plan.poisoned) <= set(get_flags(run))
    ]
    count = min(len(clean), len(single))
    return [*clean[:count], *single[:count]]


def count_liars(nodes: int, malicious: float, *, up: bool = False) -> int:
    """How many of the nodes lie: rounded down, or up as in the paper's code."""
    exact = round(nodes * malicious, 9)
    return math.ceil(exact) if up else math.floor(exact)


def make_seed(*parts: object) -> bytes:
    """32 bytes that depend on nothing else."""
    return hashlib.sha256(repr(parts).encode()).digest()


def count_witness(
    run: Run, *, nodes: int, liars: int, mode: str, seeds: int, params: Params, salt: str
) -> Count:
    """Elections under rule witness, each with its own liars and its own seed."""
    terms = make_terms(nodes, params)
    members = [member.id for member in terms.verifiers]
    total = Count()
    for number in range(seeds):
        seed = make_seed("witness", salt, nodes, liars, mode, run.plan.name, number)
        lying = frozenset(random.Random(seed).sample(members, liars))
        done = play(run, terms, liars=lying, mode=mode, seed=seed)
        outcome = done.verdict.outcome
        total = _add(
            total,
            Count(
                right=int(outcome == (VALID if run.valid else INVALID)),
                valid=int(outcome == VALID),
                invalid=int(outcome == INVALID),
                undecided=int(outcome == UNDECIDED),
                trained=done.duty_steps,
                panel=done.panel_steps,
                extended=int(done.extensions > 0),
            ),
        )
    return total


def count_majority(
    run: Run,
    *,
    nodes: int,
    liars: int,
    quorum: int,
    share: float,
    flags: str,
    mode: str,
    seeds: int,
    salt: str,
) -> Count:
    """Elections by the released rule.  Everybody trains its whole interval: the rule wants a vote,
    not a step."""
    agrees = [truth.agrees for truth in run.truths]
    flagged = get_flags(run) if flags == RECORDED else _get_false(agrees)
    steps = [run.submit.steps_per_interval] * len(agrees)
    total = Count()
    for number in range(seeds):
        seed = make_seed("majority", salt, nodes, liars, mode, flags, run.plan.name, number)
        done = judge(
            agrees,
            flagged,
            nodes=nodes,
            liars=liars,
            quorum=quorum,
            share=share,
            mode=mode,
            chance=random.Random(seed),
        )
        total = _add(
            total,
            Count(
                right=int(done.valid == run.valid),
                valid=int(done.valid),
                invalid=int(not done.valid),
                trained=sum(steps[interval] for interval in done.intervals),
            ),
        )
    return total


def _get_false(agrees: Sequence[bool]) -> tuple[int, ...]:
    return tuple(interval for interval, true in enumerate(agrees) if not true)


def _add(left: Count, right: Count) -> Count:
    return Count(*(a + b for a, b in zip(left, right, strict=True)))


class Summary(NamedTuple):
    """All runs of a point together."""

    models: int
    trials: int
    right: int
    false_rejections: int
    """Clean runs that came out INVALID."""
    missed: int
    """Poisoned runs that came out VALID."""
    undecided: int
    cost: float
    """Steps trained and recomputed by all verifiers over the steps of the training itself."""
    panel_cost: float
    """The panels' part of it."""
    extended: float
    """Share of the elections in which duties had to pass on."""


def summarise(rows: Sequence[Row]) -> Summary:
    """The rows that `make_row` made for one point."""
    trials = sum(int(row["seeds"]) for row in rows)
    training = sum(int(row["steps"]) * int(row["seeds"]) for row in rows)
    total = {name: sum(int(row[name]) for row in rows) for name in COUNTS}
    return Summary(
        models=len(rows),
        trials=trials,
        right=total["right"],
        false_rejections=sum(int(row["invalid"]) for row in rows if row["truth"]),
        missed=sum(int(row["valid"]) for row in rows if not row["truth"]),
        undecided=total["undecided"],
        cost=(total["trained"] + total["panel"]) / training,
        panel_cost=total["panel"] / training,
        extended=total["extended"] / trials,
    )


def make_row(run: Run, count: Count, seeds: int, point: Mapping[str, str | int | float]) -> Row:
    """The count of one run at one point."""
    return {
        "kind": "count",
        **point,
        "run": run.plan.name,
        "truth": int(run.valid),
        "steps": run.submit.steps,
        "seeds": seeds,
        **count._asdict(),
    }
