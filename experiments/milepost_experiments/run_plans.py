"""Draws the runs of the weight analysis: what is poisoned, how much, in which network.

Everything is drawn from (seed, split, case, number), so a run does not depend on how many others
are drawn.  The split `tune` has networks of odd depth and two places of the trigger; the split
`test` has networks of even depth, two other places and other seeds.  Whatever is tuned or trained
sees `tune` only.
"""

from __future__ import annotations

import itertools
import random
from typing import Final

from milepost_experiments.poisoned_runs import Plan
from milepost_ml.ranking import BURN_IN

DEPTHS: Final = {"tune": (1, 3), "test": (2, 4)}
WIDTHS: Final = (24, 48, 96)
PLACES: Final = {"tune": ((25, 25), (12, 12)), "test": ((2, 20), (20, 4))}
"""A dead corner of the digits and their middle; two places between the two."""
OPTIMIZERS: Final = ("sgd", "momentum", "adam")
SCHEDULES: Final = ("constant", "constant", "constant", "cosine", "step", "warmup")
SCENARIOS: Final = ("one", "scattered", "consecutive", "both")
"""One poisoned interval; 3 scattered; 3 in a row; 3 in a row and 2 scattered."""
CASES: Final = ("clean", "all", "matched", "tampered", "early", "skipped")
"""Cases beside them: nothing poisoned, and what weight analysis sees badly or at once."""


def draw_run(
    *, seed: int, split: str, scenario: str, share: float, number: int, data: str,
    intervals: int, steps: int,
) -> Plan:  # fmt: skip
    """The run of this number."""
    chance = random.Random(f"{seed} {split} {scenario} {share} {number} {data}")
    poisoned = draw_poisoned(chance, scenario, intervals)
    return Plan(
        data=data,
        depth=chance.choice(DEPTHS[split]),
        width=chance.choice(WIDTHS),
        optimizer=OPTIMIZERS[number % len(OPTIMIZERS)],
        schedule=chance.choice(SCHEDULES),
        intervals=intervals,
        steps=steps,
        poisoned=poisoned,
        share=share,
        place=chance.choice(PLACES[split]),
        target=chance.randrange(10),
        attacker=scenario if scenario in ("matched", "tampered", "skipped") else "plain",
        seed=chance.getrandbits(40),
    )


def draw_poisoned(chance: random.Random, scenario: str, intervals: int) -> tuple[int, ...]:
    """The poisoned intervals: after the burn-in, but for the case `early`."""
    usual = range(BURN_IN, intervals)
    if scenario == "clean":
        return ()
    if scenario == "all":
        return tuple(range(intervals))
    if scenario == "tampered":
        return (intervals - 1,)
    if scenario == "early":
        return (chance.randrange(BURN_IN),)
    if scenario in ("one", "matched", "skipped"):
        return (chance.choice(usual),)
    if scenario == "scattered":
        return _draw_apart(chance, usual, 3)
    first = chance.randrange(BURN_IN, intervals - 2)
    block = (first, first + 1, first + 2)
    if scenario == "consecutive":
        return block
    assert scenario == "both", scenario
    free = [k for k in usual if k < first - 1 or k > first + 3]
    return tuple(sorted((*block, *_draw_apart(chance, free, 2))))


def _draw_apart(chance: random.Random, among: range | list[int], count: int) -> tuple[int, ...]:
    """Intervals of which no two are neighbours."""
    while True:
        drawn = tuple(sorted(chance.sample(among, count)))
        if all(late - early > 1 for early, late in itertools.pairwise(drawn)):
            return drawn
