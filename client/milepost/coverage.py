"""What a verdict covers and what it leaves open, in numbers and in words."""

from __future__ import annotations

from typing import Any, NamedTuple

from milepost_consensus.audits import MILLION, compute_capture_ppm
from milepost_consensus.members import compute_fault_limit
from milepost_consensus.tolerance import format_tolerance
from milepost_consensus.verdicts import SAMPLED, Miss, Verdict, qualify_assurance


class Coverage(NamedTuple):
    """How much of a run was retrained, by how many, and what would have gone unseen."""

    intervals: int
    retraced: int
    flagged: int
    retrainings: int
    """Retrainings that were assigned over all intervals."""
    smallest: int
    """Verifiers on the least watched of the retraced intervals."""
    quorum: int
    """Verifiers among whom the retrainings were dealt."""
    misses: tuple[Miss, ...]
    """The chance that altered intervals which looked ordinary escaped, for several numbers."""
    tolerance_ppb: int = 0
    """How far each interval may have been moved unseen, in 10^-9 of its movement."""

    @property
    def percent(self) -> float:
        return 100.0 * self.retraced / self.intervals if self.intervals else 0.0

    @property
    def drift_ppb(self) -> int:
        """The drift budget n * e: what all intervals together may have been moved unseen."""
        return self.intervals * self.tolerance_ppb

    @property
    def detections(self) -> dict[int, int]:
        """Probability, in 10^-6, that one of so many altered ordinary intervals was retraced."""
        return {miss.altered: MILLION - miss.ppm for miss in self.misses}

    def capture_ppm(self, liars: int) -> int:
        """Probability, in 10^-6, that only `liars` of the quorum saw the least watched interval."""
        if not self.smallest or not self.quorum or liars < self.smallest:
            return 0
        return compute_capture_ppm(self.quorum, liars, self.smallest)

    def to_view(self) -> dict[str, Any]:
        return {
            "intervals": self.intervals,
            "retraced": self.retraced,
            "percent": round(self.percent, 3),
            "flagged": self.flagged,
            "retrainings": self.retrainings,
            "fewest_verifiers": self.smallest,
            "quorum": self.quorum,
            "detect_ppm": {str(altered): ppm for altered, ppm in self.detections.items()},
            "tolerance_ppb": self.tolerance_ppb,
            "drift_ppb": self.drift_ppb,
        }


def get_coverage(verdict: Verdict, *, quorum: int) -> Coverage:
    """The coverage that a verdict records, with the size of the quorum it was dealt to."""
    answered = [result for result in verdict.retraced if result.agreed + result.differed]
    return Coverage(
        intervals=verdict.intervals,
        retraced=len(answered),
        flagged=sum(1 for result in verdict.retraced if result.flagged),
        retrainings=sum(result.assigned for result in verdict.retraced),
        smallest=min((result.agreed + result.differed for result in answered), default=0),
        quorum=quorum,
        misses=verdict.coverage,
        tolerance_ppb=verdict.tolerance_ppb,
    )


def describe_drift(coverage: Coverage) -> str:
    """The drift budget of a run that was compared within a tolerance; empty for others."""
    if not coverage.tolerance_ppb:
        return ""
    return (
        f"{coverage.intervals} x {format_tolerance(coverage.tolerance_ppb)} ="
        f" {coverage.drift_ppb / 1e7:.4g} % of an interval's movement"
    )


def describe_assurance(verdict: Verdict) -> str:
    """The assurance in words: of a sample also how large it is and what it would have missed, and
    within what tolerance."""
    if verdict.assurance != SAMPLED:
        return qualify_assurance(verdict.assurance, verdict.tolerance_ppb)
    retraced = sum(1 for result in verdict.retraced if result.agreed + result.differed)
    missed = next(miss.ppm for miss in verdict.coverage if miss.altered == 1)
    text = (
        f"SAMPLED({retraced} of {verdict.intervals}, one altered interval is missed with"
        f" {percent(missed, up=True)})"
    )
    return qualify_assurance(text, verdict.tolerance_ppb)


def describe_election(verdict: Verdict) -> str:
    """Among how many the quorum was drawn: few who serve a device class collude more easily."""
    if not verdict.verifiers:
        return "no election"
    return f"elected from {verdict.eligible} of {verdict.verifiers} verifiers"


def percent(ppm: int, *, up: bool = False) -> str:
    """Parts per million as a percentage that is never 0 or 100 unless exactly.

    Rounded down as a promise is, or up as a risk is.
    """
    if ppm in (0, MILLION):
        return f"{ppm // 10_000} %"
    fine = not 10_000 <= ppm < 990_000
    unit = 100 if fine else 10_000
    count = -(-ppm // unit) if up else ppm // unit
    return f"{min(max(count, 1), 9_999) / 100:.2f} %" if fine else f"{count} %"


def describe_gaps(coverage: Coverage) -> list[str]:
    """What the verdict does not show, one sentence each."""
    lines = []
    left = coverage.intervals - coverage.retraced
    if left:
        chances = ", ".join(
            f"{altered} with {percent(ppm)}" for altered, ppm in coverage.detections.items()
        )
        lines.append(
            f"{left} of {coverage.intervals} intervals were not retraced. Altered intervals that"
            f" looked ordinary would have been noticed: {chances} probability."
        )
    liars = max(1, compute_fault_limit(coverage.quorum))
    capture = coverage.capture_ppm(liars)
    if capture:
        lines.append(
            f"If {liars} of the {coverage.quorum} verifiers had lied together, an interval that"
            f" {coverage.smallest} of them retraced would have been theirs with probability"
            f" {percent(capture, up=True)}."
        )
    if coverage.tolerance_ppb:
        lines.append(
            "Forgeries within the tolerance cannot be excluded: every interval may have been moved"
            f" by {format_tolerance(coverage.tolerance_ppb)} of its movement on purpose, together"
            f" by a drift of {describe_drift(coverage)}, and what later training makes of that is"
            " not bounded. Losses and gradients were not compared."
        )
    lines.append(
        "Whether the data is harmless or rightly used: retraining repeats the data that was"
        " declared, whatever it teaches."
    )
    return lines
