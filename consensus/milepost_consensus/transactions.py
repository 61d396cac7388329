"""Signed transactions: which kinds there are, what each carries, and who signed it."""

from __future__ import annotations

from typing import Final

from milepost_consensus.crypto import Signer, compute_digest, verify_signature
from milepost_consensus.encoding import Uint, Wire, decode, encode
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.payloads import (
    Attest,
    Evidence,
    Hold,
    MemberUpdate,
    OnionRefresh,
    PanelVote,
    Register,
    Serve,
    Submit,
    Witness,
    WorkRefutation,
)

REGISTER: Final = "register"
SUBMIT: Final = "submit"
HOLD: Final = "hold"
ATTEST: Final = "attest"
WITNESS: Final = "witness"
REFUTE_WORK: Final = "refute-work"
PANEL_VOTE: Final = "panel-vote"
EVIDENCE: Final = "evidence"
MEMBER_UPDATE: Final = "member-update"
ONION_REFRESH: Final = "onion-refresh"
SERVE: Final = "serve"

Answer = Hold | Attest | Witness | WorkRefutation | PanelVote
"""What is said about a submission on the chain."""
Governance = Evidence | MemberUpdate | OnionRefresh | Serve
"""What is said about members."""
Payload = Register | Submit | Answer | Governance
PAYLOADS: Final[dict[str, type[Payload]]] = {
    REGISTER: Register,
    SUBMIT: Submit,
    HOLD: Hold,
    ATTEST: Attest,
    WITNESS: Witness,
    REFUTE_WORK: WorkRefutation,
    PANEL_VOTE: PanelVote,
    EVIDENCE: Evidence,
    MEMBER_UPDATE: MemberUpdate,
    ONION_REFRESH: OnionRefresh,
    SERVE: Serve,
}
_KINDS: Final = {payload: kind for kind, payload in PAYLOADS.items()}


class Tx(Wire, frozen=True):
    """A signed transaction.  `payload` holds the canonical bytes of what `kind` names."""

    kind: str
    sender: bytes
    valid_until: Uint
    """Last height at which a block may carry it."""
    payload: bytes
    signature: bytes = b""


def make_tx(payload: Payload, *, signer: Signer, valid_until: int, network: bytes) -> Tx:
    """Wrap and sign a payload."""
    kind = _KINDS[type(payload)]
    bare = Tx(kind, signer.public, valid_until, encode(payload))
    return Tx(
        kind,
        signer.public,
        valid_until,
        bare.payload,
        signer.sign("tx", encode(bare), network),
    )


def compute_tx_id(tx: Tx, network: bytes) -> bytes:
    """The digest of the transaction without its signature."""
    return compute_digest("tx", encode(Tx(tx.kind, tx.sender, tx.valid_until, tx.payload)), network)


def verify_tx(tx: Tx, network: bytes) -> None:
    """Raises InvalidSignature unless the sender signed the transaction for this network."""
    body = encode(Tx(tx.kind, tx.sender, tx.valid_until, tx.payload))
    verify_signature(tx.sender, tx.signature, kind="tx", body=body, network=network)


def decode_payload(tx: Tx) -> Payload:
    """The payload of a transaction; raises InvalidTransaction for an unknown kind."""
    kind = PAYLOADS.get(tx.kind)
    if kind is None:
        raise InvalidTransaction(f"unknown transaction kind {tx.kind!r}")
    return decode(kind, tx.payload)
