"""The learning rates of a run that is registered: known for every step before the first is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from milepost_ml.errors import RecordingError
from milepost_ml.updates import Rates


def validate_foreseen(rates: Sequence[tuple[float, ...]], *, steps: int, groups: int) -> None:
    """Raises RecordingError (bad-plan) unless there is a rate for every step and group."""
    if len(rates) != steps or not all(
        len(each) == groups and all(math.isfinite(rate) and rate >= 0 for rate in each)
        for each in rates
    ):
        raise RecordingError(
            f"schedule= gives {len(rates)} learning rates for {steps} steps; give one finite"
            f" number of at least 0 for every step, or one for each of {groups} groups",
            slug="bad-plan",
        )


def validate_rates(step: int, used: Sequence[float], registered: Sequence[float]) -> None:
    """Raises RecordingError (not-registered-recipe) if a step used other rates than registered."""
    if tuple(used) != tuple(registered):
        raise RecordingError(
            f"step {step} used the learning rate {format_rates(used)}, registered was"
            f" {format_rates(registered)}. Tell the run its schedule: schedule=",
            slug="not-registered-recipe",
        )


def compress_rates(rates: Sequence[tuple[float, ...]]) -> list[Rates]:
    """Rates by step as run lengths by group."""
    return [
        tuple((len(list(run)), rate) for rate, run in groupby(group))
        for group in zip(*rates, strict=True)
    ]


def validate_recorded(step: int, scheduled: Sequence[float], recorded: Sequence[float]) -> None:
    """Raises RecordingError (cannot-resume) if a schedule is not the one of the earlier run."""
    if tuple(scheduled) != tuple(recorded):
        raise RecordingError(
            f"the run cannot be resumed: its schedule gives step {step} the learning rate"
            f" {format_rates(scheduled)}, recorded was {format_rates(recorded)}",
            slug="cannot-resume",
        )


def format_rates(rates: Sequence[float]) -> str:
    """One step's learning rates for people."""
    return ", ".join(f"{rate:g}" for rate in rates)
