"""Registrations: what a submitter said of a run before the network gave the run its seed.

Who can choose a seed can choose initial weights, the order of the data and every mask of a dropout,
and can train many times and keep the run that suits.  A registered run has the seed that the beacon
gave after the recipe and the data were named, and the chain counts how often its submitter asked.
Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import Uint, Wire
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.payloads import Register, Submit, compute_registration_id, validate_register
from milepost_consensus.standings import Standing
from milepost_consensus.verdicts import VALID, Verdict


class Registration(Wire, frozen=True):
    """A registration as the ledger sees it.  It never expires."""

    id: bytes
    sender: bytes
    register: Register
    height: Uint
    seed: bytes = b""
    """Of the run; empty until the beacon gives it."""
    submission: bytes = b""
    """The last submission that used it."""


def compute_registered_seed(randomness: bytes, registration_id: bytes) -> bytes:
    """The seed of a registered run, from the beacon's mix or the id of a block."""
    return compute_digest("registered", randomness + registration_id)


def apply_register(
    register: Register, standing: Standing, *, height: int, network: bytes
) -> tuple[Registration, Standing]:
    """R28: the sender's next registration, and its standing that counts it."""
    validate_register(register)
    if register.attempt != standing.registrations:
        raise InvalidTransaction(
            f"attempt {register.attempt}; this member made {standing.registrations} registrations",
            slug="wrong-attempt",
        )
    made = Registration(
        id=compute_registration_id(standing.id, register, network),
        sender=standing.id,
        register=register,
        height=height,
    )
    return made, replace(standing, registrations=standing.registrations + 1)


def validate_use(registration: Registration, submit: Submit, *, sender: bytes) -> None:
    """R8: a submission is what its sender registered, after the seed was there."""
    register = registration.register
    if registration.sender != sender:
        raise InvalidTransaction(
            "the registration is another member's", slug="unknown-registration"
        )
    if not registration.seed:
        raise InvalidTransaction(
            "the registration has no seed yet, so the run cannot have used it", slug="no-seed"
        )
    said = (submit.dataset_root, submit.records, submit.parent)
    if said != (register.dataset_root, register.records, register.parent):
        raise InvalidTransaction(
            "the registration names other data, or another parent, than the submission",
            slug="not-as-registered",
        )


def validate_parent(submit: Submit, verdicts: Mapping[bytes, Verdict]) -> None:
    """R8: the run starts from the model of a submission that is VALID."""
    parent = verdicts.get(submit.parent)
    if parent is None or parent.outcome != VALID:
        raise InvalidTransaction(
            f"submission {submit.parent.hex()[:8]} has no verdict VALID, so nothing can start from"
            " its model",
            slug="bad-parent",
        )
    if parent.model_digest != submit.initial_model_digest:
        raise InvalidTransaction(
            f"the run does not start from the model of submission {submit.parent.hex()[:8]}",
            slug="bad-parent",
        )
