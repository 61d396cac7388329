"""What a verdict does to the standings of those who verified.

Being wrong is one offence per verdict however often it was said, being silent one per row of
submissions: a machine that was down for an afternoon is nobody's liar.  Rule numbers refer to
docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from milepost_consensus.params import Params
from milepost_consensus.payloads import CLASS, EXACT
from milepost_consensus.standings import Standing, strike
from milepost_consensus.submissions import MISSED, Submission
from milepost_consensus.verdicts import Verdict


def apply_verdict(
    standings: Mapping[bytes, Standing],
    submission: Submission,
    verdict: Verdict,
    params: Params,
    *,
    height: int,
) -> dict[bytes, Standing]:
    """R27: the standings that a verdict changes.

    Only `exact` arithmetic strikes the overruled: with the others an honest machine may get other
    bits, or stand on the other side of a bound.  Silence about profile `class` is no fault: few
    machines can repeat it.
    """
    changed: dict[bytes, Standing] = {}
    if submission.submit.profile == EXACT:
        for member in verdict.overruled:
            changed[member] = strike_liar(standings[member], params, height)
    if submission.submit.profile != CLASS:
        for member, silent in _find_silent(submission):
            before = changed.get(member, standings[member])
            after = miss_duties(before, params, height) if silent else answer_duties(before)
            if after is not before:
                changed[member] = after
    return changed


def strike_liar(standing: Standing, params: Params, height: int) -> Standing:
    """R26, R27: what the member said about training was found wrong."""
    return strike(replace(standing, lies=standing.lies + 1), params, height)


def miss_duties(standing: Standing, params: Params, height: int) -> Standing:
    """R27: the member answered none of its duties of a submission."""
    missed = standing.missed_duties + 1
    if missed < params.max_missed_duties:
        return replace(standing, missed_duties=missed)
    return strike(replace(standing, missed_duties=0), params, height)


def answer_duties(standing: Standing) -> Standing:
    """R27: any answer ends the row of silence."""
    return replace(standing, missed_duties=0) if standing.missed_duties else standing


def _find_silent(submission: Submission) -> Iterable[tuple[bytes, bool]]:
    """Every verifier that had duties, and whether it missed them all."""
    heard: dict[bytes, bool] = {}
    for duty in submission.duties:
        heard[duty.verifier] = heard.get(duty.verifier, False) or duty.answer != MISSED
    return [(verifier, not answered) for verifier, answered in sorted(heard.items())]
