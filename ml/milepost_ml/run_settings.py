"""The settings of a run that do not depend on a framework: its name, intervals and batches."""

from __future__ import annotations

import re
from typing import Final

from milepost_consensus.params import MAX_INTERVALS, MAX_STEPS_PER_INTERVAL
from milepost_consensus.payloads import KNOWN_PROFILES
from milepost_ml.errors import RecordingError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _refuse(what: str, slug: str) -> RecordingError:
    return RecordingError(what, slug=slug)


def validate_name(name: str) -> None:
    """Raises RecordingError (bad-name) unless a run and its folder can be called so."""
    if not _NAME.fullmatch(name):
        raise _refuse(
            f"a run cannot be called {name!r}: use up to 64 letters, digits, '.', '_' and '-',"
            " starting with a letter or digit",
            "bad-name",
        )


def validate_settings(*, every: int, profile: str | None) -> None:
    """Raises RecordingError: bad-plan, bad-profile."""
    if not 1 <= every <= MAX_STEPS_PER_INTERVAL:
        raise _refuse(
            f"every={every}: an interval has 1 to {MAX_STEPS_PER_INTERVAL:,} steps", "bad-plan"
        )
    if profile is not None and profile not in KNOWN_PROFILES:
        raise _refuse(
            f"profile={profile!r} is not one of {', '.join(KNOWN_PROFILES)}", "bad-profile"
        )


def validate_plan(*, records: int, batch_size: int, steps: int, every: int) -> None:
    """Raises RecordingError (bad-plan) for batches or intervals that cannot be."""
    if not 1 <= batch_size <= records:
        raise RecordingError(
            f"batch_size={batch_size}: the data have {records} records", slug="bad-plan"
        )
    intervals = -(-steps // every)
    if not 1 <= intervals <= MAX_INTERVALS:
        raise RecordingError(
            f"steps={steps} make {intervals:,} intervals of {every} steps; 1 to {MAX_INTERVALS:,}"
            " are possible. Choose another every=",
            slug="bad-plan",
        )
