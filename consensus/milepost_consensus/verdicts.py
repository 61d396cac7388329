"""The outcome of verification as it stands in the ledger state: what was checked and what was not."""

from __future__ import annotations

from math import comb
from typing import Final

from milepost_consensus.encoding import Wire

VALID: Final = "VALID"
INVALID: Final = "INVALID"
UNDECIDED: Final = "UNDECIDED"

FULL: Final = "FULL"
SAMPLED: Final = "SAMPLED"
ANCHORED_ONLY: Final = "ANCHORED"


class IntervalResult(Wire, frozen=True):
    """How one retraced interval came out: how many retrained it, how many agreed."""

    interval: int
    flagged: int
    assigned: int
    agreed: int
    differed: int


class Refutation(Wire, frozen=True):
    """A step that the panel found not to follow from the submitter's own state."""

    interval: int
    step: int


class Verdict(Wire, frozen=True):
    """The network's answer about one submission, final once its block is.

    VALID says that the retraced intervals follow from the recipe and the committed data; it says
    nothing about the intervals not retraced and nothing about whether the data is harmless.
    """

    submission: bytes
    sender: bytes
    model_digest: bytes
    outcome: str
    reason: str
    """One line in words."""
    assurance: str
    profile: str
    rule: str
    intervals: int
    retraced: tuple[IntervalResult, ...]
    refuted: tuple[Refutation, ...]
    """Upheld witnesses, first interval first; the first one names an INVALID verdict."""
    overruled: tuple[bytes, ...]
    """Verifiers whose witness or panel answer the panel's majority contradicted."""
    seed: bytes
    anchored_height: int
    height: int


def compute_miss_ppm(intervals: int, retraced: int, altered: int) -> int:
    """Probability, in 10^-6 rounded up, that none of `altered` intervals is among those retraced.

    Hypergeometric: C(n - b, r) / C(n, r) for r of n intervals drawn without regard to content.
    """
    if altered > intervals - retraced:
        return 0
    total = comb(intervals, retraced)
    return -(-comb(intervals - altered, retraced) * 1_000_000 // total)
