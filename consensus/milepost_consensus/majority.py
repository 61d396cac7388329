"""Rule majority: the decision of the Diffusion paper, kept as a baseline to compare with.

Every selected interval is put to a vote of the verifiers it was dealt to; a strict majority must
agree, and a single interval without one makes the model INVALID.  Nobody recomputes anything
together, so enough liars in one small group decide.
"""

from __future__ import annotations

from milepost_consensus.duties import Terms
from milepost_consensus.outcomes import decide_outvoted, decide_valid
from milepost_consensus.submissions import AGREES, DIFFERS, Submission
from milepost_consensus.verdicts import Verdict


def is_outvoted(submission: Submission, interval: int) -> bool:
    """Whether an interval lacks a strict majority of those who answered; a tie or silence does."""
    answers = [duty.answer for duty in submission.duties if duty.interval == interval]
    return answers.count(AGREES) <= answers.count(DIFFERS)


def decide_by_majority(submission: Submission, terms: Terms, *, height: int) -> Verdict:
    """The verdict once all duties are answered or missed (R19)."""
    selected = sorted({duty.interval for duty in submission.duties})
    outvoted = [interval for interval in selected if is_outvoted(submission, interval)]
    if outvoted:
        return decide_outvoted(submission, outvoted, terms, height=height)
    return decide_valid(submission, terms, height=height)
