"""Proof files: made when a verdict becomes final, while the state it stands in is at hand."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.dsse import sign_envelope
from milepost_consensus.light import Handover, dump_proof, load_proof, make_bundle, seal_bundle
from milepost_consensus.state import LedgerState

ReadBlock = Callable[[int], tuple[Block, Certificate]]
"""The final block at a height."""


def build_proofs(
    before: LedgerState,
    after: LedgerState,
    block: Block,
    certificate: Certificate,
    read_block: ReadBlock,
) -> dict[bytes, bytes]:
    """The proof file, as JSON bytes, of every submission that `block` decided."""
    decided = after.verdicts.keys() - before.verdicts.keys()
    handovers = _build_handovers(before, read_block) if decided else []
    return {
        submission_id: msgspec.json.encode(
            dump_proof(
                seal_bundle(
                    make_bundle(
                        after, block.header, certificate, submission_id, handovers=handovers
                    )
                )
            )
        )
        for submission_id in decided
    }


def sign_proof(stored: bytes, signer: Ed25519Signer) -> bytes:
    """The stored proof file as this node hands it out: its envelope signed with the member key."""
    envelope = load_proof(msgspec.json.decode(stored))
    return msgspec.json.encode(dump_proof(sign_envelope(envelope, signer)))


def _build_handovers(state: LedgerState, read_block: ReadBlock) -> list[Handover]:
    handovers: list[Handover] = []
    for change in state.set_changes:
        block, certificate = read_block(change.height)
        handovers.append(Handover(block.header, certificate, change.before, change.after))
    return handovers
