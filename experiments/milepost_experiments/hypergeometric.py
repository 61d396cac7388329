"""Exact chances that a network judges a model rightly, however many of its members lie.

Members are seats, liars are dealt to seats without replacement; a group is the verifiers of one
interval.  Chances are counted with polynomials: the coefficient of x^m is the number of ways to
put m liars into the groups so that something holds of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb
from typing import Final

ORDERED: Final = "ordered"
CHAOTIC: Final = "chaotic"
MODES: Final = (ORDERED, CHAOTIC)


def compute_chance(seats: int, liars: int, groups: Iterable[tuple[int, Sequence[int]]]) -> float:
    """The chance that every group has a number of liars that is allowed in it.

    Each group is its size and the allowed numbers; groups do not overlap, liars are anywhere among
    the seats with equal chance.
    """
    ways, used = [1], 0
    for size, allowed in groups:
        used += size
        ways = _multiply(ways, [comb(size, k) if k in allowed else 0 for k in range(size + 1)])
    assert used <= seats, (used, seats)
    total = sum(
        count * comb(seats - used, liars - inside)
        for inside, count in enumerate(ways)
        if inside <= liars
    )
    return total / comb(seats, liars)


def compute_majority_accuracy(
    *, nodes: int, liars: int, size: int, selected: int, poisoned: int, mode: str
) -> float:
    """The paper's rule where every poisoned interval is selected; half of the models are clean.

    An interval passes if more than half of its sub-quorum says so; one that fails makes the model
    invalid.
    """
    few = range((size + 1) // 2)  # honest members are more than half
    many = range(size // 2 + 1, size + 1)
    any_number = range(size + 1)
    passing = few if mode == CHAOTIC else any_number
    clean = compute_chance(nodes, liars, [(size, passing)] * selected)
    missed = compute_chance(
        nodes, liars, [(size, many)] * poisoned + [(size, passing)] * (selected - poisoned)
    )
    return (clean + 1 - missed) / 2


def compute_witness_accuracy(*, nodes: int, liars: int, size: int) -> float:
    """Rule witness with one poisoned, flagged interval; half of the models are clean.

    It passes only if its whole sub-quorum lies.  Holds while honest members are more than half.
    """
    return 1 - compute_chance(nodes, liars, [(size, (size,))]) / 2


def compute_miss(*, nodes: int, liars: int, sizes: Sequence[int]) -> float:
    """The chance that nobody honest looks at any interval of groups of these sizes."""
    return compute_chance(nodes, liars, [(size, (size,)) for size in sizes])


def _multiply(left: Sequence[int], right: Sequence[int]) -> list[int]:
    product = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        if a:
            for j, b in enumerate(right):
                product[i + j] += a * b
    return product
