"""The outcome of verification in the ledger state: what was checked and what was not."""

from __future__ import annotations

from math import comb
from typing import Final, NamedTuple

from milepost_consensus.encoding import Uint, Wire
from milepost_consensus.payloads import CLASS, EXACT, ROUNDED

VALID: Final = "VALID"
INVALID: Final = "INVALID"
UNDECIDED: Final = "UNDECIDED"

FULL: Final = "FULL"
SAMPLED: Final = "SAMPLED"
ANCHORED_ONLY: Final = "ANCHORED"


PROFILE_MEANINGS: Final = {
    EXACT: "equal bits on every processor",
    ROUNDED: "float64 rounded to float32, equal bits nearly always",
    CLASS: "equal bits on machines of the recorder's device class",
}
"""What it means that retraining under an arithmetic profile agreed."""


class IntervalResult(Wire, frozen=True):
    """How one retraced interval came out: how many retrained it, how many agreed."""

    interval: Uint
    flagged: Uint
    assigned: Uint
    agreed: Uint
    differed: Uint


class Refutation(Wire, frozen=True):
    """A step that the panel found not to follow from the submitter's own state."""

    interval: Uint
    step: Uint


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
    """What retraining compared: with `exact`, the same bits on every processor."""
    rule: str
    intervals: Uint
    retraced: tuple[IntervalResult, ...]
    refuted: tuple[Refutation, ...]
    """Upheld witnesses, first interval first; the first one names an INVALID verdict."""
    overruled: tuple[bytes, ...]
    """Verifiers that the panel's majority contradicted: in a witness, a panel answer, or by having
    attested an interval that was refuted."""
    seed: bytes
    anchored_height: Uint
    height: Uint


COVERAGE_ALTERED: Final = (1, 2, 5)
"""Numbers of altered intervals for which coverage states the chance of having missed them."""


class Miss(NamedTuple):
    """The chance, in 10^-6, that `altered` intervals that look ordinary escaped every verifier."""

    altered: int
    ppm: int


class Coverage(NamedTuple):
    """How much of a run a verdict rests on."""

    intervals: int
    retraced: int
    misses: tuple[Miss, ...]


def compute_coverage(verdict: Verdict) -> Coverage:
    """What a verdict covers, and what an altered run had hoped for.

    An adversary sees beforehand which intervals will be flagged, and under rule witness that the
    first and the last are always retraced; only what was drawn among the others counts against it.
    """
    retraced = {result.interval for result in verdict.retraced if result.agreed + result.differed}
    foreseen = {result.interval for result in verdict.retraced if result.flagged}
    if verdict.rule == "witness" and verdict.intervals:
        foreseen |= {0, verdict.intervals - 1}
    misses = tuple(
        Miss(
            altered,
            compute_miss_ppm(verdict.intervals - len(foreseen), len(retraced - foreseen), altered),
        )
        for altered in COVERAGE_ALTERED
        if altered <= verdict.intervals
    )
    return Coverage(verdict.intervals, len(retraced), misses)


def compute_miss_ppm(intervals: int, retraced: int, altered: int) -> int:
    """Probability, in 10^-6 rounded up, that none of `altered` intervals is among those retraced.

    Hypergeometric: C(n - b, r) / C(n, r) for r of n intervals drawn without regard to content.
    """
    if altered > intervals - retraced:
        return 0
    total = comb(intervals, retraced)
    return -(-comb(intervals - altered, retraced) * 1_000_000 // total)
