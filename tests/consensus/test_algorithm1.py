"""Guards of Algorithm 1 that only a story of several rounds, or of several steps, puts to the test.

What one event shows about one rule is in test_machine.py.  Four validators; the machine under test
proposes in round 3 of height 1, the test speaks for the proposers of rounds 0, 1 and 2.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidMessage
from milepost_consensus.events import (
    Behind,
    Broadcast,
    Effect,
    Event,
    GossipDue,
    NeedTransactions,
    PersistDecision,
    PersistJournal,
    ProposalInput,
    Start,
    TimeoutFired,
    Timer,
    TimerKind,
)
from milepost_consensus.journal import Journal
from milepost_consensus.machine import Machine, Step
from milepost_consensus.params import Params
from milepost_consensus.tally import ROUNDS_BEHIND
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.desk import NOW_MS, Desk, get_messages, get_timers, pick
from tests.support.validators import Validators

FOUR = Validators(4)
ME = FOUR.get_turn(1, 3)
A, B, C = (FOUR.get_turn(1, round_) for round_ in range(3))
OTHERS = (A, B, C)


@pytest.fixture
def desk() -> Desk:
    """The machine in round 0 of height 1."""
    desk = Desk(FOUR, ME)
    desk.start()
    return desk


def make_block(round_: int = 0, *, later_ms: int = 0) -> tuple[Block, bytes]:
    block, _ = FOUR.make_block(round_, later_ms=later_ms)
    return block, FOUR.get_id(block)


def leave(desk: Desk) -> list[Effect]:
    """The round fails: the others precommit nil, and the precommit timer runs out."""
    desk.hear_votes(OTHERS, PRECOMMIT, NIL)
    return desk.fire(TimerKind.PRECOMMIT)


def lock(desk: Desk) -> tuple[Block, bytes]:
    """Lock the machine on a fresh block of its round."""
    round_ = desk.machine.round
    block, block_id = make_block(round_)
    desk.hear(FOUR.make_proposal(block))
    said = desk.said(desk.hear_votes((A, B), PREVOTE, block_id))
    assert said == [(PRECOMMIT, round_, block_id)]
    return block, block_id


def propose_fresh(desk: Desk) -> tuple[list[tuple[int, int, bytes]], bytes]:
    """What the machine says to a fresh block of its round, and the block's id."""
    block, block_id = make_block(desk.machine.round, later_ms=7)
    return desk.said(desk.hear(FOUR.make_proposal(block))), block_id


# A lock holds until prevotes of a later round release it ------------------------------------------


def test_2f_plus_1_prevotes_for_nil_release_no_lock(desk: Desk) -> None:
    # The paper's first drafts unlocked here; with it a decided block can be forgotten.
    lock(desk)
    leave(desk)
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.hear_votes(OTHERS, PREVOTE, NIL)) == [(PRECOMMIT, 1, NIL)]
    leave(desk)
    assert propose_fresh(desk)[0] == [(PREVOTE, 2, NIL)]


def test_timeouts_release_no_lock(desk: Desk) -> None:
    lock(desk)
    leave(desk)
    desk.fire(TimerKind.PROPOSE)
    desk.hear_votes((A,), PREVOTE, b"\1" * 32)
    desk.hear_votes((B,), PREVOTE, NIL)
    assert desk.said(desk.fire(TimerKind.PREVOTE)) == [(PRECOMMIT, 1, NIL)]
    leave(desk)
    assert propose_fresh(desk)[0] == [(PREVOTE, 2, NIL)]


def test_a_round_skip_releases_no_lock(desk: Desk) -> None:
    lock(desk)
    desk.hear_votes((A, B), PRECOMMIT, NIL, round_=2)
    assert desk.machine.round == 2
    assert propose_fresh(desk)[0] == [(PREVOTE, 2, NIL)]


def test_f_plus_1_prevotes_of_a_later_round_release_no_lock(desk: Desk) -> None:
    _, locked_id = lock(desk)
    leave(desk)
    said, fresh_id = propose_fresh(desk)
    assert said == [(PREVOTE, 1, NIL)]
    desk.hear_votes((A, B), PREVOTE, fresh_id)
    desk.hear_votes((C,), PREVOTE, NIL)
    assert desk.said(desk.fire(TimerKind.PREVOTE)) == [(PRECOMMIT, 1, NIL)]
    # Nor did they make the block valid: the locked one is proposed.
    leave(desk)
    proposal = get_messages(leave(desk))[0]
    assert isinstance(proposal, Proposal)
    assert (FOUR.get_id(proposal.block), proposal.valid_round) == (locked_id, 1)


def test_prevotes_that_come_after_our_precommit_make_valid_and_leave_the_lock(desk: Desk) -> None:
    locked, locked_id = lock(desk)
    leave(desk)
    _, fresh_id = propose_fresh(desk)
    desk.hear_votes((A, B), PREVOTE, fresh_id)
    assert desk.said(desk.fire(TimerKind.PREVOTE)) == [(PRECOMMIT, 1, NIL)]
    assert desk.said(desk.hear_votes((C,), PREVOTE, fresh_id)) == []
    leave(desk)
    # Still locked on the first block: backed by no more than its own prevotes, it gets ours.
    polc = FOUR.make_votes((A, B, ME), PREVOTE, locked_id)
    again = FOUR.make_proposal(locked, round_=2, polc=polc)
    assert desk.said(desk.hear(again)) == [(PREVOTE, 2, locked_id)]
    # And yet we propose the later one.
    proposal = get_messages(leave(desk))[0]
    assert isinstance(proposal, Proposal)
    assert (FOUR.get_id(proposal.block), proposal.valid_round) == (fresh_id, 2)


# The valid value is the latest, with the prevotes of its round ------------------------------------


def test_a_block_backed_again_is_proposed_with_the_later_prevotes(desk: Desk) -> None:
    block, block_id = lock(desk)
    leave(desk)
    polc = FOUR.make_votes((A, B, ME), PREVOTE, block_id)
    desk.hear(FOUR.make_proposal(block, round_=1, polc=polc))
    assert desk.said(desk.hear_votes((B, C), PREVOTE, block_id)) == [(PRECOMMIT, 1, block_id)]
    leave(desk)
    proposal = get_messages(leave(desk))[0]
    assert isinstance(proposal, Proposal)
    assert (proposal.valid_round, {vote.round for vote in proposal.polc}) == (2, {1})
    assert {vote.sender for vote in proposal.polc} == {FOUR.signers[i].public for i in (ME, B, C)}


def test_prevotes_of_two_rounds_back_nothing(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((A,), PREVOTE, block_id)
    desk.hear_votes((B, C), PREVOTE, block_id, round_=1)  # f+1: round 1 starts
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.fire(TimerKind.PREVOTE)) == [(PRECOMMIT, 1, NIL)]
    desk.hear_votes((B, C), PREVOTE, block_id, round_=2)
    assert desk.machine.round == 2
    assert NeedTransactions(1, 3) in leave(desk)


def test_our_own_earlier_prevote_does_not_count_in_a_later_round(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    leave(desk)
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.hear_votes((A, B), PREVOTE, block_id)) == []
    assert desk.said(desk.hear_votes((C,), PREVOTE, block_id)) == [(PRECOMMIT, 1, block_id)]


# Decisions ----------------------------------------------------------------------------------------


def test_a_block_that_a_later_re_proposal_brings_is_decided(desk: Desk) -> None:
    block, block_id = make_block()
    assert pick(desk.hear_votes(OTHERS, PRECOMMIT, block_id), PersistDecision) == []
    desk.fire(TimerKind.PRECOMMIT)
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id)
    effects = desk.hear(FOUR.make_proposal(block, round_=1, polc=polc))
    decision = pick(effects, PersistDecision)[0]
    assert (decision.block, decision.certificate.round) == (block, 0)


def test_a_decision_does_not_ask_what_we_are_locked_on(desk: Desk) -> None:
    lock(desk)
    leave(desk)
    _, fresh_id = propose_fresh(desk)
    effects = desk.hear_votes(OTHERS, PRECOMMIT, fresh_id)
    assert pick(effects, PersistDecision)[0].certificate.block_id == fresh_id


def test_our_own_precommit_counts_towards_the_decision(desk: Desk) -> None:
    _, block_id = lock(desk)
    assert pick(desk.hear_votes((A,), PRECOMMIT, block_id), PersistDecision) == []
    decision = pick(desk.hear_votes((B,), PRECOMMIT, block_id), PersistDecision)[0]
    assert ME in decision.certificate.signers


def test_2f_plus_1_precommits_of_which_one_is_for_nil_decide_nothing(desk: Desk) -> None:
    _, block_id = lock(desk)
    desk.hear_votes((A,), PRECOMMIT, block_id)
    effects = desk.hear_votes((B,), PRECOMMIT, NIL)
    assert pick(effects, PersistDecision) == []
    assert get_timers(effects) == [(TimerKind.PRECOMMIT, 0, 2_000)]


# Rounds and timers --------------------------------------------------------------------------------


def test_a_round_entered_late_is_caught_up_in_one_go(desk: Desk) -> None:
    block, block_id = make_block(2)
    desk.hear(FOUR.make_proposal(block))
    said = desk.said(desk.hear_votes((A, B), PREVOTE, block_id, round_=2))
    assert said == [(PREVOTE, 2, block_id), (PRECOMMIT, 2, block_id)]
    assert desk.machine.round == 2


def test_f_voices_of_a_higher_round_and_one_of_a_lower_are_not_enough(desk: Desk) -> None:
    desk.hear_votes((A,), PREVOTE, NIL, round_=3)
    desk.hear_votes((B,), PREVOTE, NIL, round_=0)
    assert (desk.machine.round, desk.machine.step) == (0, Step.PROPOSE)
    # The lower one of two higher rounds is where f+1 are.
    desk.hear_votes((B,), PREVOTE, NIL, round_=1)
    assert (desk.machine.round, desk.machine.step) == (1, Step.PROPOSE)


def test_every_round_sets_each_of_its_timers_anew(desk: Desk) -> None:
    for round_, delay_ms in ((0, 2_000), (1, 3_000), (2, 4_000)):
        effects = desk.fire(TimerKind.PROPOSE)
        effects += desk.hear_votes((A,), PREVOTE, b"\1" * 32)
        effects += desk.hear_votes((B,), PREVOTE, NIL)
        effects += desk.fire(TimerKind.PREVOTE)
        effects += desk.hear_votes((A, B), PRECOMMIT, NIL)
        effects += desk.hear_votes((C,), PRECOMMIT, b"\1" * 32)
        assert get_timers(effects) == [
            (TimerKind.PREVOTE, round_, delay_ms),
            (TimerKind.PRECOMMIT, round_, delay_ms),
        ]
        timers = get_timers(desk.fire(TimerKind.PRECOMMIT))
        assert timers == [(TimerKind.PROPOSE, round_ + 1, delay_ms + 1_000)]


def test_the_cap_holds_for_every_timer_of_a_late_round() -> None:
    four = Validators(4, Params(timeout_ms=2_000, timeout_step_ms=700, timeout_cap_ms=3_000))
    desk = Desk(four, ME)
    desk.start()
    effects = desk.hear_votes((A, B), PREVOTE, NIL, round_=4)
    effects += desk.fire(TimerKind.PROPOSE)
    effects += desk.hear_votes((A, B), PRECOMMIT, NIL)
    assert {delay_ms for _, _, delay_ms in get_timers(effects)} == {3_000}
    assert {kind for kind, _, _ in get_timers(effects)} == {
        TimerKind.PROPOSE,
        TimerKind.PRECOMMIT,
    }


def test_a_timer_of_the_height_before_does_nothing_in_the_next(desk: Desk) -> None:
    _, block_id = lock(desk)
    desk.hear_votes((A, B), PRECOMMIT, block_id)
    assert desk.machine.height == 2
    for kind in TimerKind:
        assert desk.tell(TimeoutFired(Timer(kind, 1, 0))) == []
    assert desk.machine.step is Step.NEW_HEIGHT


def test_the_pause_of_a_height_that_began_early_does_nothing(desk: Desk) -> None:
    desk.fire(TimerKind.PROPOSE)
    for kind in (TimerKind.NEW_HEIGHT, TimerKind.IDLE):
        assert desk.fire(kind) == []
    assert (desk.machine.round, desk.machine.step) == (0, Step.PREVOTE)


def test_what_is_known_of_a_round_far_behind_is_forgotten(desk: Desk) -> None:
    """However many rounds a height takes, memory holds the last few."""
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes(OTHERS, PRECOMMIT, b"\1" * 32)
    # A quorum for a block that never came is asked about as long as it is known.
    assert len(pick(desk.tell(GossipDue()), Behind)) == 1
    far = ROUNDS_BEHIND + 1
    desk.hear_votes((A, B), PREVOTE, NIL, round_=far)
    assert desk.machine.round == far
    assert pick(desk.tell(GossipDue()), Behind) == []
    assert block_id not in desk.machine._after


# Re-proposals -------------------------------------------------------------------------------------


def test_prevotes_of_an_earlier_round_than_claimed_release_no_lock(desk: Desk) -> None:
    # A lock of round 1 must not give way to prevotes of round 0 that are called those of round 1.
    old, old_id = make_block(0, later_ms=9)
    leave(desk)
    lock(desk)
    leave(desk)
    polc = FOUR.make_votes(OTHERS, PREVOTE, old_id, round_=0)
    lie = FOUR.make_proposal(old, round_=2, polc=polc, valid_round=1)
    with pytest.raises(InvalidMessage, match="for something else"):
        desk.hear(lie)
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 2, NIL)]


def test_nobody_proposes_out_of_turn(desk: Desk) -> None:
    """Neither a block of one's own nor a backed one: the place belongs to the round's proposer."""
    block, block_id = make_block()
    own = Block(replace(block.header, proposer=FOUR.signers[B].public), ())
    leave(desk)
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id)
    for proposal in (
        FOUR.make_proposal(own, sender=B),
        FOUR.make_proposal(block, round_=1, polc=polc, sender=C),
    ):
        with pytest.raises(InvalidMessage, match="the turn is"):
            desk.hear(proposal)
    backed = FOUR.make_proposal(block, round_=1, polc=polc)
    assert desk.said(desk.hear(backed)) == [(PREVOTE, 1, block_id)]


def test_a_proposer_without_its_onion_passes_in_round_0_and_proposes_later() -> None:
    desk = Desk(FOUR, A)
    desk.machine = Machine(FOUR.state, FOUR.signers[A])
    desk.start()
    assert desk.tell(ProposalInput(1, 0, (), NOW_MS)) == []
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]
    for _ in range(4):
        desk.hear_votes((B, C, ME), PRECOMMIT, NIL)
        effects = desk.fire(TimerKind.PRECOMMIT)
    assert NeedTransactions(1, 4) in effects
    proposal = get_messages(desk.tell(ProposalInput(1, 4, (), NOW_MS)))[0]
    assert isinstance(proposal, Proposal)
    assert (proposal.round, proposal.block.header.reveal) == (4, b"")


def test_the_prevotes_that_a_re_proposal_carries_are_not_votes_of_our_round(desk: Desk) -> None:
    block, block_id = make_block()
    leave(desk)
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id)
    again = FOUR.make_proposal(block, round_=1, polc=polc)
    assert desk.said(desk.hear(again)) == [(PREVOTE, 1, block_id)]
    assert desk.said(desk.hear_votes((A,), PREVOTE, block_id)) == []
    assert desk.said(desk.hear_votes((B,), PREVOTE, block_id)) == [(PRECOMMIT, 1, block_id)]


# Persist before send ------------------------------------------------------------------------------


class Watched(Desk):
    """Asserts that whatever leaves and is signed here stands in a journal that left before."""

    def __init__(self) -> None:
        super().__init__(FOUR, ME)
        self.held = set[bytes]()
        self.sent = list[tuple[int, int]]()

    def tell(self, event: Event) -> list[Effect]:
        effects = super().tell(event)
        for effect in effects:
            if isinstance(effect, PersistJournal):
                journal = decode(Journal, effect.data)
                self.held.update(vote.signature for vote in journal.votes)
                self.held.update(proposal.signature for proposal in journal.proposals)
            if isinstance(effect, Broadcast) and effect.message.sender == self.public:
                message = effect.message
                assert message.signature in self.held
                kind = message.type if isinstance(message, Vote) else 0
                self.sent.append((message.round, kind))
        return effects


def test_whatever_is_signed_stands_in_a_journal_before_it_leaves() -> None:
    """A lock, a nil round, timeouts, a proposal of our own, and the precommit that decides it."""
    desk = Watched()
    desk.start()
    _, block_id = lock(desk)
    leave(desk)
    desk.fire(TimerKind.PROPOSE)
    desk.hear_votes((A, B), PREVOTE, NIL)
    leave(desk)
    desk.fire(TimerKind.PROPOSE)
    desk.hear_votes((A,), PREVOTE, b"\1" * 32)
    desk.hear_votes((B,), PREVOTE, NIL)
    desk.fire(TimerKind.PREVOTE)
    leave(desk)
    desk.hear_votes((A, B), PRECOMMIT, block_id)
    desk.hear_votes((A, B), PREVOTE, block_id)
    assert desk.machine.height == 2
    votes = [(round_, kind) for round_ in range(4) for kind in (PREVOTE, PRECOMMIT)]
    assert desk.sent == [*votes[:6], (3, 0), *votes[6:]]


def test_our_restored_prevote_counts_and_is_not_signed_again(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    again = Desk(FOUR, ME, journal=desk.journal)
    again.tell(Start(NOW_MS))
    # The others pass the block on; our own prevote is in the journal.
    assert again.said(again.hear(FOUR.make_proposal(block))) == []
    assert again.said(again.hear_votes((A, B), PREVOTE, block_id)) == [(PRECOMMIT, 0, block_id)]


def test_our_restored_precommit_counts_towards_the_decision(desk: Desk) -> None:
    _, block_id = lock(desk)
    again = Desk(FOUR, ME, journal=desk.journal)
    again.tell(Start(NOW_MS))
    decision = pick(again.hear_votes((A, B), PRECOMMIT, block_id), PersistDecision)[0]
    assert ME in decision.certificate.signers
