"""Each way in which a vote or proposal can be wrong before anybody looks at the ledger."""

from __future__ import annotations

import msgspec
import pytest

from milepost_consensus.admission import MAX_ROUND, validate_proposal, validate_vote
from milepost_consensus.blocks import Block, compute_tx_root
from milepost_consensus.encoding import MAX_UINT
from milepost_consensus.errors import InvalidBlock, InvalidInput, InvalidMessage, InvalidSignature
from milepost_consensus.payloads import Hold
from milepost_consensus.transactions import make_tx
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote, sign_proposal
from tests.support.validators import Validators, make_signer

FOUR = Validators(4)
BLOCK, _ = FOUR.make_block()
BLOCK_ID = FOUR.get_id(BLOCK)
POLC = FOUR.make_votes((1, 2, 3), PREVOTE, BLOCK_ID)

LATER, _ = FOUR.make_block(1)
LATER_POLC = FOUR.make_votes((1, 2, 3), PREVOTE, FOUR.get_id(LATER), round_=0)


def check_vote(vote: Vote) -> None:
    validate_vote(vote, FOUR.state.validators, FOUR.network)


def check_proposal(proposal: Proposal) -> None:
    validate_proposal(proposal, FOUR.state.validators, FOUR.network)


@pytest.mark.parametrize("block_id", [NIL, BLOCK_ID])
@pytest.mark.parametrize("type_", [PREVOTE, PRECOMMIT])
def test_good_votes_pass(type_: int, block_id: bytes) -> None:
    check_vote(FOUR.make_vote(2, type_, block_id, round_=7, height=3))


@pytest.mark.parametrize(
    "vote",
    [
        FOUR.make_vote(0, 0, NIL),
        FOUR.make_vote(0, 3, NIL),
        FOUR.make_vote(0, PREVOTE, b"\1" * 31),
        FOUR.make_vote(0, PREVOTE, NIL, round_=-1),
        FOUR.make_vote(0, PREVOTE, NIL, round_=MAX_ROUND + 1),
        FOUR.make_vote(0, PREVOTE, NIL, height=0),
        FOUR.make_vote(0, PREVOTE, NIL, height=MAX_UINT + 1),
    ],
)
def test_votes_that_no_correct_validator_signs(vote: Vote) -> None:
    with pytest.raises(InvalidMessage):
        check_vote(vote)


def test_a_vote_of_a_stranger() -> None:
    stranger = make_signer("a stranger")
    vote = msgspec.structs.replace(FOUR.make_vote(0, PREVOTE, NIL), sender=stranger.public)
    with pytest.raises(InvalidMessage, match="not a validator"):
        check_vote(vote)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 2},
        {"round": 1},
        {"type": PRECOMMIT},
        {"block_id": BLOCK_ID},
        {"sender": FOUR.signers[1].public},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
)
def test_a_signature_covers_the_whole_vote(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidSignature):
        check_vote(msgspec.structs.replace(FOUR.make_vote(0, PREVOTE, NIL), **changes))


def test_a_vote_of_another_network() -> None:
    other = Validators(4)
    with pytest.raises(InvalidSignature):
        validate_vote(other.make_vote(0, PREVOTE, NIL), FOUR.state.validators, b"\7" * 32)


def test_good_proposals_pass() -> None:
    check_proposal(FOUR.make_proposal(BLOCK))
    check_proposal(FOUR.make_proposal(BLOCK, round_=3, polc=POLC))


@pytest.mark.parametrize(
    ("proposal", "error"),
    [
        (FOUR.make_proposal(BLOCK, sender=2), InvalidMessage),
        # A block of an earlier round without the prevotes for it, or of a later one.
        (FOUR.make_proposal(BLOCK, round_=1), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=4), InvalidMessage),  # the same proposer's turn
        (FOUR.make_proposal(FOUR.make_block(1)[0], round_=0), InvalidMessage),
        # A valid round that is not in the past, or before the block was made.
        (FOUR.make_proposal(BLOCK, round_=0, polc=POLC), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=2, valid_round=2), InvalidMessage),
        (FOUR.make_proposal(LATER, round_=2, polc=LATER_POLC), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=2, valid_round=-4), InvalidMessage),
        # Prevotes that do not say what they should.
        (FOUR.make_proposal(BLOCK, polc=POLC, valid_round=-1), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=1, valid_round=0), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=1, polc=POLC[:2]), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=1, polc=(*POLC[:2], POLC[1])), InvalidMessage),
        (FOUR.make_proposal(BLOCK, round_=1, polc=(*POLC, POLC[1])), InvalidMessage),
        (
            FOUR.make_proposal(
                BLOCK, round_=1, polc=(*POLC[:2], FOUR.make_vote(0, PRECOMMIT, BLOCK_ID))
            ),
            InvalidMessage,
        ),
        (
            FOUR.make_proposal(
                BLOCK, round_=1, polc=(*POLC[:2], FOUR.make_vote(0, PREVOTE, b"\1" * 32))
            ),
            InvalidMessage,
        ),
        (
            FOUR.make_proposal(
                BLOCK, round_=2, polc=(*POLC[:2], FOUR.make_vote(0, PREVOTE, BLOCK_ID, round_=1))
            ),
            InvalidMessage,
        ),
        # All of them of one round, but not of the one that the proposal names.
        (FOUR.make_proposal(BLOCK, round_=2, polc=POLC, valid_round=1), InvalidMessage),
        (
            FOUR.make_proposal(
                BLOCK, round_=1, polc=(*POLC[:2], FOUR.make_vote(0, PREVOTE, BLOCK_ID, height=2))
            ),
            InvalidMessage,
        ),
        (
            FOUR.make_proposal(
                BLOCK,
                round_=1,
                polc=(*POLC[:2], msgspec.structs.replace(POLC[2], signature=bytes(64))),
            ),
            InvalidSignature,
        ),
        (
            FOUR.make_proposal(
                BLOCK,
                round_=1,
                polc=(
                    *POLC[:2],
                    msgspec.structs.replace(POLC[2], sender=make_signer("a stranger").public),
                ),
            ),
            InvalidMessage,
        ),
    ],
)
def test_proposals_that_no_correct_proposer_makes(
    proposal: Proposal, error: type[InvalidInput]
) -> None:
    with pytest.raises(error):
        check_proposal(proposal)


def test_a_block_of_another_height_cannot_be_proposed() -> None:
    # Height 5 is the same proposer's turn, so that nothing else is wrong.
    block = Block(msgspec.structs.replace(BLOCK.header, height=5), ())
    signer = FOUR.signers[1]
    proposal = sign_proposal(Proposal(1, 0, 0, block, (), signer.public), signer, FOUR.network)
    with pytest.raises(InvalidMessage):
        check_proposal(proposal)


def test_a_fresh_block_is_its_proposers_own() -> None:
    header = msgspec.structs.replace(BLOCK.header, proposer=FOUR.signers[2].public)
    with pytest.raises(InvalidMessage):
        check_proposal(FOUR.make_proposal(Block(header, ())))


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 4},  # the same proposer's turn
        {"valid_round": 1, "polc": POLC, "round": 4},
        {"block": FOUR.make_block(0, later_ms=1)[0]},
        {"signature": bytes(64)},
    ],
)
def test_a_signature_covers_the_proposals_claim(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_proposal(msgspec.structs.replace(FOUR.make_proposal(BLOCK), **changes))
    if changes.keys() != {"round"}:
        assert caught.type is InvalidSignature


def test_nobody_can_change_the_transactions_of_a_signed_proposal() -> None:
    """Neither drop one nor spoil the signature of one: the block's id covers both."""
    tx = make_tx(Hold(bytes(32)), signer=FOUR.signers[0], valid_until=9, network=FOUR.network)
    header = msgspec.structs.replace(BLOCK.header, tx_root=compute_tx_root((tx,), FOUR.network))
    good = FOUR.make_proposal(Block(header, (tx,)))
    check_proposal(good)
    spoiled = msgspec.structs.replace(tx, signature=bytes(64))
    for txs in ((), (spoiled,), (tx, tx)):
        with pytest.raises(InvalidBlock):
            check_proposal(msgspec.structs.replace(good, block=Block(header, txs)))
