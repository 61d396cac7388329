"""The bound of profile `tolerance`: which bounds there are, and how they are written.

Retraining under this profile gives other bits on other machines, so a verifier compares where an
interval ends: within a share of its movement, or beyond.  The share counts in units of 10^-9.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.params import MAX_TOLERANCE_PPB, MAX_TOLERANCE_STEPS

TOLERANCE: Final = "tolerance"
_ONE_DIGITS: Final = 10
"""How many digits 1 has in units of 10^-9."""


def validate_tolerance(
    profile: str, tolerance_ppb: int, *, steps_per_interval: int, steps_per_digest: int
) -> None:
    """R8: raises InvalidInput (bad-tolerance) unless the bound belongs to the profile, and the
    intervals are short enough for it to tell noise from poison.

    A digest then covers one step: only ends of intervals are compared, which no stride makes
    cheaper, and the accused step is the interval's last."""
    if profile != TOLERANCE:
        if tolerance_ppb:
            raise InvalidTransaction(
                f"a tolerance belongs to profile {TOLERANCE}; {profile} compares all bits",
                slug="bad-tolerance",
            )
        return
    if not 1 <= tolerance_ppb <= MAX_TOLERANCE_PPB:
        raise InvalidTransaction(
            f"a tolerance of {tolerance_ppb} * 1e-9 of an interval's movement; possible are 1e-9 to"
            f" {format_tolerance(MAX_TOLERANCE_PPB)}",
            slug="bad-tolerance",
        )
    if steps_per_interval > MAX_TOLERANCE_STEPS:
        raise InvalidTransaction(
            f"intervals of {steps_per_interval} steps; profile {TOLERANCE} allows"
            f" {MAX_TOLERANCE_STEPS}, because over more steps the noise of another machine grows"
            " until no bound tells it from poison",
            slug="bad-tolerance",
        )
    if steps_per_digest != 1:
        raise InvalidTransaction(
            f"step digests of {steps_per_digest} steps; under profile {TOLERANCE} each covers one",
            slug="bad-tolerance",
        )


def format_tolerance(ppb: int) -> str:
    """A bound in units of 10^-9 as people write it: 100000 is "1e-4", 25 is "2.5e-8"."""
    digits = str(ppb)
    first, rest = digits[0], digits[1:].rstrip("0")
    return f"{first}{'.' if rest else ''}{rest}e{len(digits) - _ONE_DIGITS}"
