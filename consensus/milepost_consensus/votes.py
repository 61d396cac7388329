"""What validators say to each other while they agree on one height."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from milepost_consensus.blocks import Block, compute_block_id
from milepost_consensus.crypto import ZERO_DIGEST, Signer, verify_signature
from milepost_consensus.encoding import Uint, Wire, encode
from milepost_consensus.errors import InvalidMessage
from milepost_consensus.params import MAX_MEMBERS

PREVOTE: Final = 1
PRECOMMIT: Final = 2
NIL: Final = ZERO_DIGEST
"""The block id of a vote for no block."""


class Vote(Wire, frozen=True):
    """A prevote or precommit for a block id, or for NIL."""

    height: Uint
    round: Uint
    type: Uint
    block_id: bytes
    sender: bytes
    signature: bytes = b""


class Proposal(Wire, frozen=True):
    """A proposer's block for a round.

    `valid_round` is 0 for a fresh block, otherwise 1 + the round in which the proposer saw the
    block gather a quorum of prevotes; `polc` then carries those prevotes.
    """

    height: Uint
    round: Uint
    valid_round: Uint
    block: Block
    polc: Annotated[tuple[Vote, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
    sender: bytes
    signature: bytes = b""


class ProposalClaim(Wire, frozen=True):
    """The part of a proposal that its signature covers: the block by id, the POLC not at all."""

    height: Uint
    round: Uint
    valid_round: Uint
    block_id: bytes
    sender: bytes


def sign_vote(vote: Vote, signer: Signer, network: bytes) -> Vote:
    """The vote with the signer's signature over all its other fields."""
    bare = Vote(vote.height, vote.round, vote.type, vote.block_id, signer.public)
    return Vote(
        vote.height,
        vote.round,
        vote.type,
        vote.block_id,
        signer.public,
        signer.sign("vote", encode(bare), network),
    )


def verify_vote(vote: Vote, network: bytes) -> None:
    """Raises InvalidMessage for a malformed vote and InvalidSignature for an unsigned one."""
    if vote.type not in (PREVOTE, PRECOMMIT) or len(vote.block_id) != 32:
        raise InvalidMessage(f"vote of type {vote.type} for {len(vote.block_id)} bytes")
    bare = Vote(vote.height, vote.round, vote.type, vote.block_id, vote.sender)
    verify_signature(vote.sender, vote.signature, kind="vote", body=encode(bare), network=network)


def sign_proposal(proposal: Proposal, signer: Signer, network: bytes) -> Proposal:
    """The proposal with the signer's signature over its claim."""
    claim = get_claim(proposal, signer.public, network)
    return Proposal(
        proposal.height,
        proposal.round,
        proposal.valid_round,
        proposal.block,
        proposal.polc,
        signer.public,
        signer.sign("proposal", encode(claim), network),
    )


def get_claim(proposal: Proposal, sender: bytes, network: bytes) -> ProposalClaim:
    """What the signature of a proposal covers."""
    return ProposalClaim(
        proposal.height,
        proposal.round,
        proposal.valid_round,
        compute_block_id(proposal.block.header, network),
        sender,
    )


def verify_proposal(proposal: Proposal, network: bytes) -> None:
    """Raises InvalidSignature unless the sender signed the proposal's claim."""
    claim = get_claim(proposal, proposal.sender, network)
    verify_signature(
        proposal.sender,
        proposal.signature,
        kind="proposal",
        body=encode(claim),
        network=network,
    )
