"""What answers say about distances, under profile `tolerance` and under the others.

Two machines measure two distances, so a panel could never agree on one.  It agrees on one bit,
within the bound or beyond it, which stands in the place of a recomputed digest.  Rule numbers refer
to docs/spec/rules.md.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.encoding import validate_uint
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.payloads import Submit, Witness
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_consensus.tolerance import TOLERANCE, format_tolerance

MAX_DISTANCE_PPB: Final = 10**15
"""Distances are capped by whoever measures them: a million times the interval's movement."""


def validate_distance(submit: Submit, distance_ppb: int, *, agrees: bool) -> None:
    """R10, R11: raises InvalidInput unless a distance says the same as the answer it is part of;
    where bits are compared, there is none."""
    validate_uint("distance_ppb", distance_ppb, high=MAX_DISTANCE_PPB)
    if submit.profile != TOLERANCE:
        if distance_ppb:
            raise InvalidTransaction(
                f"a distance of {distance_ppb}; profile {submit.profile} compares bits, not"
                " distances"
            )
    elif agrees != (distance_ppb <= submit.tolerance_ppb):
        raise InvalidTransaction(
            f"a distance of {distance_ppb} * 1e-9 does not go with"
            f" {'agreeing' if agrees else 'differing'}: the run's tolerance is"
            f" {format_tolerance(submit.tolerance_ppb)}"
        )


def validate_beyond(submit: Submit, witness: Witness, *, steps: range) -> None:
    """R11: raises InvalidInput unless a witness about a run with a tolerance speaks of the whole
    interval, whose steps these are."""
    if submit.profile != TOLERANCE:
        return
    if witness.step != steps[-1] or any(witness.pre_state):
        raise InvalidTransaction(
            f"under profile {TOLERANCE} a witness names the last step of the interval,"
            f" {steps[-1]}, and no state before it"
        )
    validate_answer(submit, witness.recomputed, leaf=witness.leaf)


def validate_answer(submit: Submit, recomputed: bytes, *, leaf: bytes) -> None:
    """R11, R12: raises InvalidInput unless what a verifier got for an accused step is, under
    profile `tolerance`, the committed digest ("within") or its "beyond" digest."""
    if submit.profile == TOLERANCE and recomputed not in (leaf, compute_beyond_digest(leaf)):
        raise InvalidTransaction(
            f"under profile {TOLERANCE} an interval is within or beyond: the answer is the"
            ' committed digest or its "beyond" digest'
        )
