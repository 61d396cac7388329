"""Who may send which transaction, and how long it may wait.

Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.members import SUBMITTER, VALIDATOR, VERIFIER
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import (
    ATTEST,
    EVIDENCE,
    HOLD,
    MEMBER_UPDATE,
    ONION_REFRESH,
    PANEL_VOTE,
    REFUTE_WORK,
    REGISTER,
    SERVE,
    SUBMIT,
    WITNESS,
    Payload,
    Tx,
    decode_payload,
    verify_tx,
)

MAX_VALID_AHEAD: Final = 1_000
"""Heights that a transaction may wait: nodes need not remember it for longer."""

_ROLES: Final = {
    REGISTER: SUBMITTER,
    SUBMIT: SUBMITTER,
    HOLD: VALIDATOR,
    ATTEST: VERIFIER,
    WITNESS: VERIFIER,
    REFUTE_WORK: VERIFIER | SUBMITTER,
    PANEL_VOTE: VERIFIER,
    EVIDENCE: VALIDATOR,
    MEMBER_UPDATE: VALIDATOR,
    ONION_REFRESH: VALIDATOR,
    SERVE: VERIFIER,
}


def check_envelope(tx: Tx, state: LedgerState) -> Payload:
    """R7: a member with the right role signed it for this network and about this time."""
    height = state.height + 1
    role = _ROLES.get(tx.kind)
    if role is None:
        raise InvalidTransaction(f"unknown transaction kind {tx.kind!r}")
    member = state.members.get(tx.sender)
    if member is None or not member.roles & role:
        raise InvalidTransaction(
            f"{tx.sender.hex()[:8]} is not a member that may send {tx.kind}",
            slug="not-a-member",
        )
    if not height <= tx.valid_until <= height + MAX_VALID_AHEAD:
        raise InvalidTransaction(
            f"valid until height {tx.valid_until}; block {height} takes"
            f" {height} to {height + MAX_VALID_AHEAD}",
            slug="expired",
        )
    verify_tx(tx, state.network)
    return decode_payload(tx)
