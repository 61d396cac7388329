"""The outcome of verification in the ledger state: what was checked and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from milepost_consensus.audits import compute_miss_ppm
from milepost_consensus.encoding import Uint, Wire
from milepost_consensus.payloads import CLASS, EXACT, ROUNDED
from milepost_consensus.tolerance import TOLERANCE, format_tolerance

VALID: Final = "VALID"
INVALID: Final = "INVALID"
UNDECIDED: Final = "UNDECIDED"

FULL: Final = "FULL"
FULL_REGISTERED: Final = "FULL+REGISTERED"
SAMPLED: Final = "SAMPLED"
ANCHORED_ONLY: Final = "ANCHORED"


PROFILE_MEANINGS: Final = {
    EXACT: "equal bits on every processor",
    ROUNDED: "float64 rounded to float32, equal bits nearly always",
    CLASS: "equal bits on machines of the recorder's device class",
    TOLERANCE: "retrained ends lie within a share of each interval's movement, bits differ",
}
"""What it means that retraining under an arithmetic profile agreed."""


class IntervalResult(Wire, frozen=True):
    """How one retraced interval came out: how many retrained it, how many agreed."""

    interval: Uint
    flagged: Uint
    assigned: Uint
    agreed: Uint
    differed: Uint


class Miss(Wire, frozen=True):
    """The chance, in 10^-6, that `altered` intervals that look ordinary escaped every verifier."""

    altered: Uint
    ppm: Uint


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
    registration: bytes
    """The registration that gave the run its seed; empty without one."""
    parent: bytes
    """The submission whose model the run started from; empty without one."""
    registrations: Uint
    """How many registrations the submitter had made when it submitted; 0 without one.  Who asks
    for a hundred seeds can keep the run that suits."""
    eligible: Uint
    """Verifiers that could be elected: they served the run's device class and were not of its
    submitter's operator or in jail.  The fewer, the easier they collude."""
    verifiers: Uint
    """How many verifiers the network had at the election; 0 where there was none."""
    coverage: tuple[Miss, ...]
    """What altered intervals could have hoped for."""
    tolerance_ppb: Uint = 0
    """For profile `tolerance`: how far, in 10^-9 of its movement, each interval may have been moved
    unseen; 0 for all others."""


def qualify_assurance(assurance: str, tolerance_ppb: int) -> str:
    """An assurance as it is shown: with the suffix T(e) where intervals were compared within e."""
    if not tolerance_ppb or assurance == ANCHORED_ONLY:
        return assurance
    return f"{assurance} T({format_tolerance(tolerance_ppb)})"


COVERAGE_ALTERED: Final = (1, 2, 5)
"""Numbers of altered intervals for which coverage states the chance of having missed them."""


def compute_coverage(
    results: Sequence[IntervalResult], *, intervals: int, rule: str
) -> tuple[Miss, ...]:
    """What an altered run had hoped for.

    An adversary sees beforehand which intervals will be flagged, and under rule witness that the
    first and the last are always retraced; only what was drawn among the others counts against it.
    """
    retraced = {result.interval for result in results if result.agreed + result.differed}
    foreseen = {result.interval for result in results if result.flagged}
    if rule == "witness":
        foreseen |= {0, intervals - 1}
    return tuple(
        Miss(
            altered,
            compute_miss_ppm(intervals - len(foreseen), len(retraced - foreseen), altered),
        )
        for altered in COVERAGE_ALTERED
        if altered <= intervals
    )
