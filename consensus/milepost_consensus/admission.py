"""What a message must be before the machine looks at it.

Everything here follows from the message, the validator set and the order of turns.  Whether the
ledger rules accept the block of a proposal is not asked: a proposal that is well made but carries a
block that breaks a rule is answered with a prevote for NIL, as Algorithm 1 demands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from milepost_consensus.blocks import compute_block_id, compute_tx_root
from milepost_consensus.encoding import MAX_UINT
from milepost_consensus.errors import InvalidBlock, InvalidMessage
from milepost_consensus.members import Member, compute_quorum
from milepost_consensus.rules import get_proposer
from milepost_consensus.state import LedgerState
from milepost_consensus.votes import PREVOTE, Proposal, Vote, verify_proposal, verify_vote

MAX_ROUND: Final = 2**31
"""No network reaches it: sixty years of rounds of one second."""


def validate_vote(vote: Vote, validators: Sequence[Member], network: bytes) -> None:
    """Raises InvalidMessage or InvalidSignature unless a validator signed a well-formed vote."""
    _validate_origin(vote, validators)
    verify_vote(vote, network)


def validate_turn(proposal: Proposal, state: LedgerState) -> None:
    """Raises InvalidMessage unless the sender is the proposer of its round in the next height."""
    proposer = get_proposer(state, proposal.height, proposal.round).id
    if proposal.sender != proposer:
        raise InvalidMessage(
            f"{proposal.sender.hex()[:16]} proposes in height {proposal.height}, round"
            f" {proposal.round}: the turn is {proposer.hex()[:16]}'s"
        )


def validate_proposal(proposal: Proposal, validators: Sequence[Member], network: bytes) -> None:
    """Check everything about a proposal except whose turn it is and the rules for its block.

    Raises InvalidMessage where it is not one that a validator makes, InvalidSignature where it or
    one of its prevotes is not signed, InvalidBlock where the transactions are not those that the
    header names.
    """
    _validate_origin(proposal, validators)
    height, round_, valid_round = proposal.height, proposal.round, proposal.valid_round
    header = proposal.block.header
    if valid_round:
        fits = 0 <= header.round < valid_round <= round_
    else:
        fits = header.round == round_ and header.proposer == proposal.sender
    if not fits or header.height != height:
        raise InvalidMessage(
            f"a block of height {header.height}, round {header.round} cannot be proposed in height"
            f" {height}, round {round_} with valid round {valid_round}"
        )
    verify_proposal(proposal, network)
    if header.tx_root != compute_tx_root(proposal.block.txs, network):
        raise InvalidBlock("the transactions are not those that the header commits to")
    _verify_polc(proposal, validators, network)


def _validate_origin(message: Vote | Proposal, validators: Sequence[Member]) -> None:
    if not (0 < message.height <= MAX_UINT and 0 <= message.round <= MAX_ROUND):
        raise InvalidMessage(f"height {message.height}, round {message.round} is never reached")
    if all(message.sender != member.id for member in validators):
        raise InvalidMessage(f"{message.sender.hex()[:16]} is not a validator")


def _verify_polc(proposal: Proposal, validators: Sequence[Member], network: bytes) -> None:
    """A proposal of valid round r carries a quorum of r's prevotes for its block, others none."""
    if not proposal.valid_round:
        if proposal.polc:
            raise InvalidMessage("a fresh proposal carries prevotes")
        return
    quorum = compute_quorum(len(validators))
    senders = {vote.sender for vote in proposal.polc}
    if len(senders) != len(proposal.polc) or len(senders) < quorum:
        raise InvalidMessage(
            f"{len(proposal.polc)} prevotes of {len(senders)} senders justify the proposal,"
            f" {quorum} different ones are needed"
        )
    block_id = compute_block_id(proposal.block.header, network)
    subject = (PREVOTE, proposal.height, proposal.valid_round - 1, block_id)
    for vote in proposal.polc:
        if (vote.type, vote.height, vote.round, vote.block_id) != subject:
            raise InvalidMessage("a prevote that justifies the proposal is for something else")
        validate_vote(vote, validators, network)
