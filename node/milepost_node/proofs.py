"""Proof files: made when a verdict becomes final, while the state it stands in is at hand."""

from __future__ import annotations

import msgspec

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.light import dump_proof, make_bundle
from milepost_consensus.state import LedgerState


def build_proofs(
    before: LedgerState, after: LedgerState, block: Block, certificate: Certificate
) -> dict[bytes, bytes]:
    """The proof file, as JSON bytes, of every submission that `block` decided."""
    return {
        submission_id: msgspec.json.encode(
            dump_proof(make_bundle(after, block.header, certificate, submission_id))
        )
        for submission_id in after.verdicts.keys() - before.verdicts.keys()
    }
