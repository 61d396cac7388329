"""How many heights a phase may take: windows of the genesis, stretched for large and slow runs.

A busy network makes blocks faster, and must not shorten the time to fetch a record or to retrain.
So what the declared bytes or steps take is added in blocks at the fastest pace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from milepost_consensus.duties import Terms
from milepost_consensus.params import Params
from milepost_consensus.payloads import Submit, get_interval_steps, get_stride_place
from milepost_consensus.step_digests import get_stride
from milepost_consensus.submissions import OPEN, Accusation, Duty
from milepost_consensus.tolerance import TOLERANCE

MAX_STRETCH: Final = 1_000_000
"""Heights that a run can add to a window: a day at ten blocks a second."""
STRETCH_FACTOR: Final = 3
"""A verifier may need three times what the submitter's machine declared."""

HOLD_BYTES_PER_MS: Final = 5_000
"""A validator may fetch and check a record at no more than that."""


def compute_hold_window(submit: Submit, params: Params) -> int:
    """Heights in which validators can say that they hold a record: for its bytes (R8)."""
    stretch = submit.size_bytes // (HOLD_BYTES_PER_MS * max(1, params.min_block_ms))
    return params.hold_window + min(MAX_STRETCH, stretch)


def compute_attest_window(duties: Sequence[Duty], submit: Submit, terms: Terms) -> int:
    """Heights in which open duties can be answered: for the steps of the busiest verifier (R14)."""
    steps: Counter[bytes] = Counter()
    for duty in duties:
        steps[duty.verifier] += len(get_interval_steps(submit, duty.interval))
    return terms.params.attest_window + _stretch(max(steps.values(), default=0), submit, terms)


def compute_panel_window(accusations: Sequence[Accusation], submit: Submit, terms: Terms) -> int:
    """Heights in which a panel can answer: for the steps of all that is open (R16)."""
    steps = sum(
        len(_get_disputed(accusation, submit))
        for accusation in accusations
        if accusation.outcome == OPEN
    )
    return terms.params.panel_window + _stretch(steps, submit, terms)


def _get_disputed(accusation: Accusation, submit: Submit) -> range:
    """The steps that a panel recomputes for an accusation."""
    steps = get_interval_steps(submit, accusation.interval)
    if submit.profile == TOLERANCE:
        return steps
    place = get_stride_place(submit, accusation.interval, accusation.step)
    return get_stride(steps, submit.steps_per_digest, place)


def _stretch(steps: int, submit: Submit, terms: Terms) -> int:
    """Heights at the fastest pace for three times the declared cost of so many steps."""
    pace_us = 1_000 * max(1, terms.params.min_block_ms)
    return min(MAX_STRETCH, -(-STRETCH_FACTOR * submit.step_us * steps // pace_us))
