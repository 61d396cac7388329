"""Makes the options of a failing schedule smaller for as long as it still fails in the same way.

Delta debugging (Zeller and Hildebrandt 2002) over the faults, runs and changes; then every number
that can be nothing is tried as nothing, and times are halved.  A schedule fails in the same way if
the law that it breaks has the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from tests.simulation.options import Change, Fault, Options, Run

T = TypeVar("T")

Fails = Callable[[Options], bool]
TRIES = 400
"""Schedules that are played at most."""

_NOTHING: tuple[tuple[str, Any], ...] = (
    ("drop_permille", 0),
    ("duplicate_permille", 0),
    ("skews_ms", ()),
    ("drifts_ppm", ()),
    ("habits", ()),
    ("late", ()),
    ("withdrawals", ()),
    ("onions", ()),
    ("careless", ()),
    ("twins", ()),
    ("liars", ()),
    ("silent", False),
    ("real_signatures", False),
    ("max_delay_ms", 1),
    ("heights", 1),
)


class _OutOfTries(Exception):
    pass


def minimise(options: Options, find_violation: Callable[[Options], str | None]) -> Options:
    """The smallest options found that break the same law; the given ones must break one."""
    first = find_violation(options)
    assert first is not None
    law, tries = _get_law(first), 0

    def fails(candidate: Options) -> bool:
        nonlocal tries
        tries += 1
        if tries > TRIES:
            raise _OutOfTries
        found = find_violation(candidate)
        return found is not None and _get_law(found) == law

    best = options

    def keep(candidate: Options) -> bool:
        nonlocal best
        if candidate != best and fails(candidate):
            best = candidate
            return True
        return False

    try:
        while _shrink(lambda: best, keep):
            pass
    except _OutOfTries:
        pass
    return best


def _get_law(violation: str) -> str:
    """The name of the law in "at 12 ms: S1: two blocks"; the whole text where there is none."""
    parts = violation.split(": ")
    return parts[1] if len(parts) > 2 else violation.partition("(")[0][-40:]


def _shrink(get: Callable[[], Options], keep: Callable[[Options], bool]) -> bool:
    """One pass over everything; whether anything became smaller."""
    before = get()

    def keep_faults(faults: Sequence[Fault]) -> bool:
        return keep(replace(get(), faults=tuple(faults)))

    def keep_runs(runs: Sequence[Run]) -> bool:
        return keep(replace(get(), runs=tuple(runs)))

    def keep_changes(changes: Sequence[Change]) -> bool:
        return keep(replace(get(), changes=tuple(changes)))

    _drop_parts(list(get().faults), keep_faults)
    _drop_parts(list(get().runs), keep_runs)
    _drop_parts(list(get().changes), keep_changes)
    for name, nothing in _NOTHING:
        if not (name == "liars" and get().twins):
            keep(replace(get(), **{name: nothing}))
    while get().calm_ms > 20 and keep(replace(get(), calm_ms=get().calm_ms // 2)):
        pass
    for index, fault in enumerate(get().faults):
        for size in (1, 2):
            links = get().faults[index].links
            if len(links) > size:
                smaller = replace(fault, links=links[: len(links) // 2])
                faults = (*get().faults[:index], smaller, *get().faults[index + 1 :])
                keep(replace(get(), faults=faults))
    return get() != before


def _drop_parts(items: list[T], keep: Callable[[Sequence[T]], bool]) -> None:
    """Leave out halves, quarters, ... single items."""
    size = max(1, len(items) // 2)
    while items:
        position = 0
        while position < len(items):
            rest = [*items[:position], *items[position + size :]]
            if keep(rest):
                items = rest
            else:
                position += size
        if size == 1:
            return
        size //= 2
