"""How the released code of the Diffusion paper judges a model, with the truth put in.

Its interval selection, dealing and voting as published (`TaskDelegation`, `deriveQuorum`); the
generator is Python's instead of java.util.Random: the distribution is the same, except that the
original can draw only as many quorums as there are nodes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from milepost_experiments.hypergeometric import CHAOTIC


class Judgement(NamedTuple):
    """The network's answer about one model, and how many intervals were retrained for it."""

    valid: bool
    intervals: tuple[int, ...]
    """Those that every member of the quorum was dealt, one a member."""


def select_intervals(
    count: int, target: int, flagged: Sequence[int], chance: random.Random
) -> list[int]:
    """All flagged intervals, filled up to `target` by a weighted draw without replacement.

    The weight of an interval is how far the normal density at it lies below the highest one among
    those that are left, with their mean and deviation: the ends are likely, the middle is not.
    """
    selected = list(flagged)
    rest = [interval for interval in range(count) if interval not in selected]
    while len(selected) < target and rest:
        weights = _compute_weights(rest)
        chosen = chance.choices(rest, weights)[0] if sum(weights) > 0 else rest[0]
        rest.remove(chosen)
        selected.append(chosen)
    return selected


def _compute_weights(rest: Sequence[int]) -> list[float]:
    mean = sum(rest) / len(rest)
    variance = sum((interval - mean) ** 2 for interval in rest) / len(rest)
    if variance == 0:
        return [1.0] * len(rest)
    density = [math.exp(-((interval - mean) ** 2) / (2 * variance)) for interval in rest]
    highest = max(density)
    return [highest - value for value in density]


def judge(
    agrees: Sequence[bool],
    flagged: Sequence[int],
    *,
    nodes: int,
    liars: int,
    quorum: int,
    share: float,
    mode: str,
    chance: random.Random,
) -> Judgement:
    """The vote about a model whose intervals retrace or not; the first `liars` nodes lie.

    A quorum is drawn, the selected intervals are dealt to it in turn, an interval is valid if more
    of its members say so than not, a model if all its selected intervals are.
    """
    selected = select_intervals(len(agrees), round(share * len(agrees)), flagged, chance)
    members = chance.sample(range(nodes), quorum)
    dealt = [selected[turn % len(selected)] for turn in range(quorum)]
    balance = dict.fromkeys(selected, 0)
    for member, interval in zip(members, dealt, strict=True):
        says = agrees[interval]
        if member < liars:
            says = not says if mode == CHAOTIC else True
        balance[interval] += 1 if says else -1
    return Judgement(all(votes > 0 for votes in balance.values()), tuple(dealt))
