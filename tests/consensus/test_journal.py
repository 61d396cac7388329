"""A machine that comes back from its journal keeps what it promised."""

from __future__ import annotations

import pytest

from milepost_consensus.encoding import MAX_OBJECT_BYTES, decode, encode
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.events import (
    Effect,
    GossipDue,
    NeedTransactions,
    PersistDecision,
    PersistJournal,
    ProposalInput,
    Start,
    TimerKind,
)
from milepost_consensus.journal import Journal
from milepost_consensus.machine import Step
from milepost_consensus.params import MAX_BLOCK_BYTES
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.desk import NOW_MS, Desk, get_messages, pick
from tests.support.validators import Validators

FOUR = Validators(4)
BLOCK, AFTER = FOUR.make_block()
BLOCK_ID = FOUR.get_id(BLOCK)
OTHERS = (1, 2, 3)


def restart(desk: Desk, me: int = 0) -> Desk:
    """The machine anew, from the journal as the desk's disk has it."""
    assert desk.journal is not None
    return Desk(FOUR, me, journal=desk.journal)


def lock(desk: Desk) -> None:
    desk.hear(FOUR.make_proposal(BLOCK))
    desk.hear_votes((1, 2), PREVOTE, BLOCK_ID)
    assert desk.machine.step is Step.PRECOMMIT


@pytest.fixture
def desk() -> Desk:
    """Validator 0 in round 0 of height 1."""
    desk = Desk(FOUR)
    desk.start()
    return desk


def test_round_and_step_are_restored(desk: Desk) -> None:
    desk.next_round()
    desk.fire(TimerKind.PROPOSE)
    again = restart(desk)
    assert (again.machine.round, again.machine.step) == (1, Step.PREVOTE)
    assert again.tell(Start(NOW_MS)) == []


def test_no_other_vote_is_signed_in_place_of_one(desk: Desk) -> None:
    desk.fire(TimerKind.PROPOSE)
    again = restart(desk)
    again.tell(Start(NOW_MS))
    assert again.said(again.hear(FOUR.make_proposal(BLOCK))) == []
    # Going on is fine: the precommit was not signed yet.
    assert again.said(again.hear_votes(OTHERS, PREVOTE, BLOCK_ID)) == [(PRECOMMIT, 0, BLOCK_ID)]
    third = restart(again)
    third.tell(Start(NOW_MS))
    assert third.said(third.fire(TimerKind.PREVOTE)) == []


def test_no_second_proposal_is_signed() -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    proposal = get_messages(desk.tell(ProposalInput(1, 0, (), NOW_MS)))[0]
    again = restart(desk, me=1)
    effects = again.tell(Start(NOW_MS))
    effects += again.fire(TimerKind.NEW_HEIGHT)
    effects += again.tell(ProposalInput(1, 0, (), NOW_MS + 5))
    assert effects == []
    # The very same bytes are passed on.
    assert proposal in get_messages(again.tell(GossipDue()))


def test_the_lock_holds(desk: Desk) -> None:
    lock(desk)
    again = restart(desk)
    again.tell(Start(NOW_MS))
    again.next_round()
    fresh, _ = FOUR.make_block(1)
    assert again.said(again.hear(FOUR.make_proposal(fresh))) == [(PREVOTE, 1, NIL)]
    # As it does after a second restart, from a journal that the restored machine wrote.
    third = restart(again)
    third.tell(Start(NOW_MS))
    third.next_round()
    fresh, _ = FOUR.make_block(2)
    assert third.said(third.hear(FOUR.make_proposal(fresh))) == [(PREVOTE, 2, NIL)]


def test_the_lock_is_of_its_round(desk: Desk) -> None:
    old, _ = FOUR.make_block(later_ms=9)
    old_polc = FOUR.make_votes(OTHERS, PREVOTE, FOUR.get_id(old))
    desk.next_round()
    block, _ = FOUR.make_block(1)
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((1, 2), PREVOTE, FOUR.get_id(block))
    again = restart(desk)
    again.tell(Start(NOW_MS))
    again.next_round()
    stale = FOUR.make_proposal(old, round_=2, polc=old_polc)
    assert again.said(again.hear(stale)) == [(PREVOTE, 2, NIL)]


def test_the_valid_value_is_proposed_again_with_its_prevotes(desk: Desk) -> None:
    lock(desk)
    again = restart(desk)
    again.tell(Start(NOW_MS))
    for _ in range(2):
        again.next_round()
    effects = again.next_round()
    assert pick(effects, NeedTransactions) == []
    proposal = get_messages(effects)[0]
    assert isinstance(proposal, Proposal)
    assert (proposal.round, proposal.valid_round, proposal.block) == (3, 1, BLOCK)
    other = Desk(FOUR, me=3)
    other.start()
    other.hear_votes((1, 2), PREVOTE, NIL, round_=3)
    assert other.said(other.hear(proposal)) == [(PREVOTE, 3, BLOCK_ID)]


def test_a_valid_value_that_is_not_locked_survives_beside_the_lock(desk: Desk) -> None:
    lock(desk)
    desk.next_round()
    fresh, _ = FOUR.make_block(1)
    fresh_id = FOUR.get_id(fresh)
    desk.hear(FOUR.make_proposal(fresh))  # nil, we are locked
    desk.hear_votes((1, 2), PREVOTE, fresh_id)
    desk.fire(TimerKind.PREVOTE)
    desk.hear_votes((3,), PREVOTE, fresh_id)  # 2f+1, too late for our precommit
    desk.next_round()
    desk.fire(TimerKind.PROPOSE)
    again = restart(desk)
    again.tell(Start(NOW_MS))
    proposal = get_messages(again.next_round())[0]
    assert isinstance(proposal, Proposal)
    assert (proposal.block, proposal.valid_round) == (fresh, 2)
    # The lock is still the old one, which its own prevotes release.
    polc = FOUR.make_votes((0, 1, 2), PREVOTE, BLOCK_ID)
    other = restart(desk)
    other.tell(Start(NOW_MS))
    for _ in range(2):
        other.next_round()
    backed = FOUR.make_proposal(BLOCK, round_=4, polc=polc)
    assert other.said(other.hear(backed)) == [(PREVOTE, 4, BLOCK_ID)]


def test_a_block_with_a_quorum_is_decided_after_the_restart(desk: Desk) -> None:
    lock(desk)
    again = restart(desk)
    again.tell(Start(NOW_MS))
    decision = pick(again.hear_votes((1, 2), PRECOMMIT, BLOCK_ID), PersistDecision)[0]
    assert decision.block == BLOCK


def test_votes_of_others_are_passed_on_after_the_restart(desk: Desk) -> None:
    """Otherwise those who wait for them could wait for ever, if the sender is gone."""
    desk.hear_votes(OTHERS, PRECOMMIT, NIL)
    desk.fire(TimerKind.PRECOMMIT)
    desk.fire(TimerKind.PROPOSE)
    again = restart(desk)
    again.tell(Start(NOW_MS))
    messages = get_messages(again.tell(GossipDue()))
    assert set(FOUR.make_votes(OTHERS, PRECOMMIT, NIL)) <= {
        message for message in messages if isinstance(message, Vote)
    }


def test_a_journal_of_a_past_height_is_over(desk: Desk) -> None:
    lock(desk)
    again = Desk(FOUR, state=AFTER, journal=desk.journal)
    assert (again.machine.height, again.machine.step) == (2, Step.NEW_HEIGHT)
    again.start()
    second, _ = FOUR.make_block(state=AFTER)
    assert again.said(again.hear(FOUR.make_proposal(second))) == [(PREVOTE, 0, FOUR.get_id(second))]


def test_a_journal_ahead_of_the_chain_stops_us() -> None:
    desk = Desk(FOUR, state=AFTER)
    desk.start()
    desk.fire(TimerKind.PROPOSE)
    with pytest.raises(AssertionError, match="the chain lost a block"):
        Desk(FOUR, journal=desk.journal)


def test_a_damaged_journal_is_refused(desk: Desk) -> None:
    lock(desk)
    assert desk.journal is not None
    for bad in (desk.journal[:-1], desk.journal + b"\0", b""):
        with pytest.raises(InvalidEncoding):
            Desk(FOUR, journal=bad)


def test_a_restart_after_every_journal_contradicts_nothing() -> None:
    """All four, two rounds and a decision: each journal yields a machine that signs the same."""
    desks = [Desk(FOUR, me=i) for i in range(4)]
    journals = 0

    def pass_on(desk: Desk, messages: list[Vote | Proposal]) -> None:
        for message in messages:
            for other in desks:
                if other is not desk and other.machine.height == message.height:
                    say(other, other.hear(message))

    def say(desk: Desk, effects: list[Effect]) -> None:
        nonlocal journals
        signed = get_messages(effects)
        if pick(effects, PersistJournal) and desk.machine.height == 1:
            journals += 1
            again = restart(desk, desks.index(desk))
            again.tell(Start(NOW_MS))
            assert again.machine.round == desk.machine.round
            assert again.machine.step == desk.machine.step
            relays = again.tell(GossipDue())
            assert all(message in get_messages(relays) for message in signed)
            places = {vote[:2] for vote in again.said(relays)}
            for kind in (TimerKind.PROPOSE, TimerKind.PREVOTE):
                assert all(vote[:2] not in places for vote in again.said(again.fire(kind)))
        pass_on(desk, signed)

    for desk in desks:
        desk.start()
    for desk in desks:  # nobody proposes in round 0
        say(desk, desk.fire(TimerKind.PROPOSE))
    for desk in desks:
        desk.fire(TimerKind.PRECOMMIT)
    say(desks[2], desks[2].tell(ProposalInput(1, 1, (), NOW_MS)))
    assert [desk.machine.height for desk in desks] == [2, 2, 2, 2]
    assert journals > 10


def test_a_journal_with_two_full_blocks_can_be_read() -> None:
    assert 2 * MAX_BLOCK_BYTES + 1024 * 1024 <= MAX_OBJECT_BYTES


def test_the_journal_keeps_no_block_twice() -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    proposal = get_messages(desk.tell(ProposalInput(1, 0, (), NOW_MS)))[0]
    assert isinstance(proposal, Proposal)
    block_id = FOUR.get_id(proposal.block)
    desk.hear_votes((2, 3), PREVOTE, block_id)
    journal = decode(Journal, desk.journal or b"")
    assert (journal.locked_id, journal.blocks, journal.proposals) == (block_id, (), (proposal,))
    assert encode(journal) == desk.journal
    again = restart(desk, me=1)
    decision = pick(again.hear_votes((2, 3), PRECOMMIT, block_id), PersistDecision)[0]
    assert decision.block == proposal.block
