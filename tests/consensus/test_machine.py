"""One script per rule of the machine and per guard of a rule.

Four validators; the machine under test is validator 0, which proposes in round 3 of height 1, and
the test speaks for 1, 2 and 3, which propose in rounds 0, 1 and 2.
"""

from __future__ import annotations

import msgspec
import pytest

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidBlock, InvalidInput, InvalidSignature
from milepost_consensus.events import (
    BlockFetched,
    Broadcast,
    Effect,
    NeedTransactions,
    PersistDecision,
    PersistJournal,
    ProposalInput,
    ReceivedProposal,
    SetTimer,
    Start,
    TimeoutFired,
    Timer,
    TimerKind,
    TransactionsWaiting,
)
from milepost_consensus.journal import Journal
from milepost_consensus.keyguard import Signing
from milepost_consensus.machine import Machine, Step
from milepost_consensus.params import Params
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.desk import NOW_MS, Desk, get_messages, get_timers, pick
from tests.support.validators import GENESIS_MS, Validators, make_signer

FOUR = Validators(4)
ALL = (0, 1, 2, 3)
OTHERS = (1, 2, 3)


@pytest.fixture
def desk() -> Desk:
    """Validator 0 in round 0 of height 1."""
    desk = Desk(FOUR)
    desk.start()
    return desk


def make_block(round_: int = 0, *, later_ms: int = 0) -> tuple[Block, bytes]:
    block, _ = FOUR.make_block(round_, later_ms=later_ms)
    return block, FOUR.get_id(block)


def make_bad_block(round_: int = 0) -> tuple[Block, bytes]:
    """A block that only execution shows to be wrong."""
    block, _ = FOUR.make_block(round_)
    header = msgspec.structs.replace(block.header, state_root=b"\7" * 32)
    bad = Block(header, block.txs)
    return bad, FOUR.get_id(bad)


def lock(desk: Desk) -> tuple[Block, bytes]:
    """Lock the machine on a block in its round."""
    round_ = desk.machine.round
    block, block_id = make_block(round_, later_ms=round_)
    desk.hear(FOUR.make_proposal(block))
    said = desk.said(desk.hear_votes((1, 2), PREVOTE, block_id))
    assert said == [(PRECOMMIT, round_, block_id)]
    return block, block_id


# Rule 11: a round starts -------------------------------------------------------------------------


def test_rule_11_everybody_starts_a_propose_timer() -> None:
    desk = Desk(FOUR)
    assert get_timers(desk.start()) == [(TimerKind.PROPOSE, 0, 2_000)]
    assert (desk.machine.round, desk.machine.step) == (0, Step.PROPOSE)


def test_rule_11_the_proposer_asks_for_transactions_and_proposes_what_it_builds() -> None:
    desk = Desk(FOUR, me=1)
    assert NeedTransactions(1, 0) in desk.start()
    effects = desk.tell(ProposalInput(1, 0, (), NOW_MS))
    proposal, vote = get_messages(effects)
    assert isinstance(proposal, Proposal)
    assert isinstance(vote, Vote)
    assert (proposal.height, proposal.round, proposal.valid_round) == (1, 0, 0)
    assert proposal.block.header.time_ms == NOW_MS
    assert (vote.type, vote.block_id) == (PREVOTE, FOUR.get_id(proposal.block))
    # The others accept exactly this proposal.
    other = Desk(FOUR)
    other.start()
    assert other.said(other.hear(proposal)) == [(PREVOTE, 0, vote.block_id)]


def test_rule_11_nobody_but_the_proposer_asks_for_transactions(desk: Desk) -> None:
    assert pick(Desk(FOUR).start(), NeedTransactions) == []
    # Nor is an input taken that was not asked for.
    assert desk.tell(ProposalInput(1, 0, (), NOW_MS)) == []


def test_rule_11_a_block_is_no_earlier_than_the_ledger_allows() -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    proposal = get_messages(desk.tell(ProposalInput(1, 0, (), GENESIS_MS - 5_000)))[0]
    assert isinstance(proposal, Proposal)
    assert proposal.block.header.time_ms > GENESIS_MS


@pytest.mark.parametrize(("height", "round_"), [(2, 0), (1, 1), (0, 0)])
def test_rule_11_input_for_another_round_is_too_late(height: int, round_: int) -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    assert desk.tell(ProposalInput(height, round_, (), NOW_MS)) == []


def test_rule_11_input_after_the_propose_timeout_is_too_late() -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]
    assert desk.tell(ProposalInput(1, 0, (), NOW_MS)) == []


def test_rule_11_a_second_input_yields_no_second_proposal() -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    assert desk.tell(ProposalInput(1, 0, (), NOW_MS)) != []
    assert desk.tell(ProposalInput(1, 0, (), NOW_MS + 1)) == []


def test_rule_11_a_proposer_with_a_valid_value_proposes_it_with_its_prevotes(desk: Desk) -> None:
    block, block_id = lock(desk)
    for _ in range(2):
        desk.next_round()
    effects = desk.next_round()
    assert pick(effects, NeedTransactions) == []
    proposal = get_messages(effects)[0]
    assert isinstance(proposal, Proposal)
    assert (proposal.round, proposal.valid_round, proposal.block) == (3, 1, block)
    assert {vote.sender for vote in proposal.polc} == {FOUR.signers[i].public for i in (0, 1, 2)}
    # And the others accept it.
    other = Desk(FOUR, me=3)
    other.start()
    for _ in range(3):
        other.hear_votes((0, 1, 2), PRECOMMIT, NIL)
        other.fire(TimerKind.PRECOMMIT)
    assert other.said(other.hear(proposal)) == [(PREVOTE, 3, block_id)]


def test_rule_11_timeouts_grow_by_a_step_per_round_up_to_the_cap() -> None:
    four = Validators(4, Params(timeout_ms=2_000, timeout_step_ms=700, timeout_cap_ms=3_000))
    desk = Desk(four)
    delays = [delay for kind, _, delay in get_timers(desk.start()) if kind is TimerKind.PROPOSE]
    for _ in range(3):
        delays += [d for kind, _, d in get_timers(desk.next_round()) if kind is TimerKind.PROPOSE]
    assert delays == [2_000, 2_700, 3_000, 3_000]


# Rule 22: a fresh proposal -----------------------------------------------------------------------


def test_rule_22_a_valid_block_gets_a_prevote(desk: Desk) -> None:
    block, block_id = make_block()
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == [(PREVOTE, 0, block_id)]
    assert desk.machine.step is Step.PREVOTE


def test_rule_22_a_block_that_breaks_a_ledger_rule_gets_nil(desk: Desk) -> None:
    block, _ = make_bad_block()
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == [(PREVOTE, 0, NIL)]


def test_rule_22_a_block_too_far_ahead_of_the_clock_gets_nil(desk: Desk) -> None:
    block, _ = make_block()
    drift_ms = FOUR.genesis.params.max_clock_drift_ms
    late = ReceivedProposal(FOUR.make_proposal(block), block.header.time_ms - drift_ms - 1)
    assert desk.said(desk.tell(late)) == [(PREVOTE, 0, NIL)]
    other = Desk(FOUR, me=2)
    other.start()
    just = ReceivedProposal(FOUR.make_proposal(block), block.header.time_ms - drift_ms)
    assert other.said(other.tell(just)) == [(PREVOTE, 0, FOUR.get_id(block))]


def test_rule_22_who_is_locked_on_another_block_prevotes_nil(desk: Desk) -> None:
    lock(desk)
    desk.next_round()
    block, _ = make_block(1)
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == [(PREVOTE, 1, NIL)]


def test_rule_22_waits_for_its_round_and_votes_once(desk: Desk) -> None:
    block, block_id = make_block(1)
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == []
    assert desk.said(desk.next_round()) == [(PREVOTE, 1, block_id)]
    assert desk.hear(FOUR.make_proposal(block)) == []


def test_rule_22_only_while_nothing_was_prevoted(desk: Desk) -> None:
    block, _ = make_block()
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == []


# Rule 28: a proposal that carries its prevotes ---------------------------------------------------


def test_rule_28_who_is_locked_earlier_follows_a_later_valid_round(desk: Desk) -> None:
    lock(desk)
    desk.next_round()
    desk.next_round()
    block, block_id = make_block(1)
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id, round_=1)
    proposal = FOUR.make_proposal(block, round_=2, polc=polc)
    assert desk.said(desk.hear(proposal)) == [(PREVOTE, 2, block_id)]


def test_rule_28_who_is_locked_later_than_the_valid_round_prevotes_nil(desk: Desk) -> None:
    old, old_id = make_block(0, later_ms=9)
    desk.next_round()
    lock(desk)
    desk.next_round()
    polc = FOUR.make_votes(OTHERS, PREVOTE, old_id, round_=0)
    proposal = FOUR.make_proposal(old, round_=2, polc=polc)
    assert desk.said(desk.hear(proposal)) == [(PREVOTE, 2, NIL)]


def test_rule_28_a_lock_of_the_valid_round_itself_gives_way(desk: Desk) -> None:
    # Two blocks with 2f+1 prevotes in one round take more than f liars; the rule says <= all the
    # same, and with our own vote among three others' it can be shown.
    _, locked_id = lock(desk)
    desk.next_round()
    block, block_id = make_block(0, later_ms=9)
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id, round_=0)
    proposal = FOUR.make_proposal(block, round_=1, polc=polc)
    assert block_id != locked_id
    assert desk.said(desk.hear(proposal)) == [(PREVOTE, 1, block_id)]


def test_rule_28_the_locked_block_itself_is_always_fine(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.next_round()
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id, round_=0)
    again = FOUR.make_proposal(block, round_=1, polc=polc)
    desk.hear(again)
    assert desk.said(desk.hear_votes((1, 2), PREVOTE, block_id)) == [(PRECOMMIT, 1, block_id)]
    desk.next_round()
    # Locked in round 1, and the proposal only knows of round 0.
    assert desk.said(desk.hear(FOUR.make_proposal(block, round_=2, polc=polc))) == [
        (PREVOTE, 2, block_id)
    ]


def test_rule_28_backed_or_not_a_block_that_breaks_a_rule_gets_nil(desk: Desk) -> None:
    block, block_id = make_bad_block()
    desk.next_round()
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id, round_=0)
    proposal = FOUR.make_proposal(block, round_=1, polc=polc)
    assert desk.said(desk.hear(proposal)) == [(PREVOTE, 1, NIL)]


def test_rule_28_does_not_look_at_the_clock(desk: Desk) -> None:
    block, block_id = make_block()
    desk.next_round()
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id, round_=0)
    early = ReceivedProposal(FOUR.make_proposal(block, round_=1, polc=polc), 0)
    assert desk.said(desk.tell(early)) == [(PREVOTE, 1, block_id)]


def test_rule_28_only_while_nothing_was_prevoted(desk: Desk) -> None:
    block, block_id = make_block()
    desk.next_round()
    desk.fire(TimerKind.PROPOSE)
    polc = FOUR.make_votes(OTHERS, PREVOTE, block_id, round_=0)
    assert desk.said(desk.hear(FOUR.make_proposal(block, round_=1, polc=polc))) == []


# Rule 34: 2f+1 prevotes for whatever -------------------------------------------------------------


def test_rule_34_starts_one_prevote_timer(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    assert get_timers(desk.hear_votes((1,), PREVOTE, NIL)) == []
    assert get_timers(desk.hear_votes((2,), PREVOTE, NIL)) == [(TimerKind.PREVOTE, 0, 2_000)]
    assert get_timers(desk.hear_votes((3,), PREVOTE, block_id)) == []


def test_rule_34_only_after_our_own_prevote(desk: Desk) -> None:
    effects = desk.hear_votes((1,), PREVOTE, NIL)
    effects += desk.hear_votes((2, 3), PREVOTE, b"\1" * 32)
    assert get_timers(effects) == []
    assert get_timers(desk.fire(TimerKind.PROPOSE)) == [(TimerKind.PREVOTE, 0, 2_000)]


def test_rule_34_counts_prevotes_of_the_round_only(desk: Desk) -> None:
    desk.fire(TimerKind.PROPOSE)
    assert get_timers(desk.hear_votes((1,), PREVOTE, b"\1" * 32)) == []
    assert get_timers(desk.hear_votes((2,), PREVOTE, NIL, round_=1)) == []
    assert get_timers(desk.hear_votes((2,), PRECOMMIT, NIL)) == []


# Rule 36: 2f+1 prevotes for a valid block --------------------------------------------------------


def test_rule_36_locks_and_precommits(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    assert desk.said(desk.hear_votes((1,), PREVOTE, block_id)) == []
    assert desk.said(desk.hear_votes((2,), PREVOTE, block_id)) == [(PRECOMMIT, 0, block_id)]
    assert desk.machine.step is Step.PRECOMMIT


def test_rule_36_waits_for_the_block(desk: Desk) -> None:
    block, block_id = make_block()
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.hear_votes(OTHERS, PREVOTE, block_id)) == []
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == [(PRECOMMIT, 0, block_id)]


def test_rule_36_no_precommit_for_a_block_that_breaks_a_rule(desk: Desk) -> None:
    block, block_id = make_bad_block()
    desk.hear(FOUR.make_proposal(block))
    assert desk.said(desk.hear_votes(OTHERS, PREVOTE, block_id)) == []


def test_rule_36_only_after_our_own_prevote(desk: Desk) -> None:
    # The prevotes and an earlier round's proposal are there before this round's proposal.
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.next_round()
    assert desk.said(desk.hear_votes(OTHERS, PREVOTE, block_id)) == []
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 1, NIL), (PRECOMMIT, 1, block_id)]


def test_rule_36_after_our_precommit_the_block_becomes_valid_but_not_locked(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((1,), PREVOTE, block_id)
    desk.hear_votes((2,), PREVOTE, NIL)
    assert desk.said(desk.fire(TimerKind.PREVOTE)) == [(PRECOMMIT, 0, NIL)]
    assert desk.said(desk.hear_votes((3,), PREVOTE, block_id)) == []
    desk.next_round()
    # Not locked: another block is fine.
    fresh, fresh_id = make_block(1)
    assert desk.said(desk.hear(FOUR.make_proposal(fresh))) == [(PREVOTE, 1, fresh_id)]
    # Valid: when our turn comes, the block is what we propose.
    desk.next_round()
    proposal = get_messages(desk.next_round())[0]
    assert isinstance(proposal, Proposal)
    assert (proposal.block, proposal.valid_round) == (block, 1)


def test_rule_36_another_rounds_prevotes_do_not_lock(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.next_round()
    assert desk.said(desk.hear_votes((1, 2), PREVOTE, block_id, round_=0)) == []


def test_rule_36_a_later_quorum_moves_the_lock(desk: Desk) -> None:
    lock(desk)
    desk.next_round()
    block, block_id = make_block(1)
    desk.hear(FOUR.make_proposal(block))
    assert desk.said(desk.hear_votes(OTHERS, PREVOTE, block_id)) == [(PRECOMMIT, 1, block_id)]
    desk.next_round()
    fresh, _ = make_block(2)
    assert desk.said(desk.hear(FOUR.make_proposal(fresh))) == [(PREVOTE, 2, NIL)]


# Rule 44: 2f+1 prevotes for nil ------------------------------------------------------------------


def test_rule_44_precommits_nil(desk: Desk) -> None:
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.hear_votes((1,), PREVOTE, NIL)) == []
    assert desk.said(desk.hear_votes((2,), PREVOTE, NIL)) == [(PRECOMMIT, 0, NIL)]


def test_rule_44_only_after_our_own_prevote(desk: Desk) -> None:
    assert desk.said(desk.hear_votes(OTHERS, PREVOTE, NIL)) == []
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL), (PRECOMMIT, 0, NIL)]


def test_rule_44_not_for_prevotes_that_differ(desk: Desk) -> None:
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.hear_votes((1,), PREVOTE, NIL)) == []
    assert desk.said(desk.hear_votes((2,), PREVOTE, b"\1" * 32)) == []


# Rule 47: 2f+1 precommits for whatever -----------------------------------------------------------


def test_rule_47_starts_one_precommit_timer_in_any_step(desk: Desk) -> None:
    assert get_timers(desk.hear_votes((1,), PRECOMMIT, NIL)) == []
    assert get_timers(desk.hear_votes((2,), PRECOMMIT, b"\1" * 32)) == []
    assert get_timers(desk.hear_votes((3,), PRECOMMIT, NIL)) == [(TimerKind.PRECOMMIT, 0, 2_000)]
    desk.fire(TimerKind.PROPOSE)
    assert get_timers(desk.fire(TimerKind.PREVOTE)) == []


def test_rule_47_counts_precommits_of_the_round_only(desk: Desk) -> None:
    desk.hear_votes((1, 2), PRECOMMIT, NIL)
    assert get_timers(desk.hear_votes((3,), PREVOTE, NIL)) == []
    assert get_timers(desk.hear_votes((3,), PRECOMMIT, NIL, round_=1)) == []


# Rule 49: the decision ---------------------------------------------------------------------------


def test_rule_49_decides_persists_and_goes_on(desk: Desk) -> None:
    block, after = FOUR.make_block()
    block_id = FOUR.get_id(block)
    desk.hear(FOUR.make_proposal(block))
    assert pick(desk.hear_votes((1, 2), PRECOMMIT, block_id), PersistDecision) == []
    effects = desk.hear_votes((3,), PRECOMMIT, block_id)
    decision, timer = effects
    assert isinstance(decision, PersistDecision)
    assert decision.block == block
    assert (decision.state.height, decision.state.last_id) == (1, block_id)
    assert decision.state.root == after.root
    assert decision.certificate.signers == OTHERS
    assert timer == SetTimer(Timer(TimerKind.NEW_HEIGHT, 2, 0), 100)
    assert desk.machine.height == 2
    assert desk.machine.step is Step.NEW_HEIGHT
    assert desk.machine.state is decision.state


def test_rule_49_decides_in_a_round_long_past(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((1, 2), PRECOMMIT, block_id)
    desk.hear_votes((2, 3), PREVOTE, NIL, round_=3)
    assert desk.machine.round == 3
    decision = pick(desk.hear_votes((3,), PRECOMMIT, block_id, round_=0), PersistDecision)[0]
    assert (decision.certificate.round, decision.block) == (0, block)


def test_rule_49_waits_for_the_block(desk: Desk) -> None:
    block, block_id = make_block()
    assert pick(desk.hear_votes(OTHERS, PRECOMMIT, block_id), PersistDecision) == []
    assert len(pick(desk.hear(FOUR.make_proposal(block)), PersistDecision)) == 1


def test_rule_49_precommits_of_two_rounds_do_not_add_up(desk: Desk) -> None:
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((1, 2), PRECOMMIT, block_id)
    assert pick(desk.hear_votes((3,), PRECOMMIT, block_id, round_=1), PersistDecision) == []


def test_rule_49_never_decides_nil_or_what_breaks_a_rule(desk: Desk) -> None:
    block, block_id = make_bad_block()
    desk.hear(FOUR.make_proposal(block))
    assert pick(desk.hear_votes(OTHERS, PRECOMMIT, block_id), PersistDecision) == []
    desk.next_round()
    assert pick(desk.hear_votes(OTHERS, PRECOMMIT, NIL), PersistDecision) == []
    assert desk.machine.height == 1


def test_rule_49_lock_and_valid_value_end_with_the_height(desk: Desk) -> None:
    _, block_id = lock(desk)
    effects = desk.hear_votes((1, 2), PRECOMMIT, block_id)
    state = pick(effects, PersistDecision)[0].state
    second, _ = FOUR.make_block(state=state)
    desk.tell(TransactionsWaiting())
    desk.fire(TimerKind.NEW_HEIGHT)
    effects = desk.hear(FOUR.make_proposal(second))
    assert desk.said(effects) == [(PREVOTE, 0, FOUR.get_id(second))]


# Rule 55: others are in a higher round -----------------------------------------------------------


def test_rule_55_follows_f_plus_1_into_a_higher_round(desk: Desk) -> None:
    desk.hear_votes((1,), PREVOTE, NIL, round_=2)
    assert desk.machine.round == 0
    effects = desk.hear_votes((2,), PRECOMMIT, NIL, round_=2)
    assert (desk.machine.round, desk.machine.step) == (2, Step.PROPOSE)
    assert get_timers(effects) == [(TimerKind.PROPOSE, 2, 4_000)]


def test_rule_55_one_validator_twice_is_not_f_plus_1(desk: Desk) -> None:
    desk.hear_votes((1,), PREVOTE, NIL, round_=2)
    desk.hear_votes((1,), PRECOMMIT, NIL, round_=2)
    assert desk.machine.round == 0


def test_rule_55_takes_the_highest_round_that_f_plus_1_reached(desk: Desk) -> None:
    desk.hear_votes((1,), PREVOTE, NIL, round_=4)
    desk.hear_votes((2,), PREVOTE, NIL, round_=3)
    assert desk.machine.round == 3


def test_rule_55_counts_a_proposal_as_a_message(desk: Desk) -> None:
    block, block_id = make_block(2)
    desk.hear_votes((1,), PREVOTE, NIL, round_=2)
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == [(PREVOTE, 2, block_id)]


def test_rule_55_reaches_rounds_beyond_those_that_are_kept(desk: Desk) -> None:
    desk.hear_votes((1, 2), PREVOTE, NIL, round_=5_000)
    assert desk.machine.round == 5_000


def test_rule_55_does_not_go_back(desk: Desk) -> None:
    desk.next_round()
    desk.next_round()
    desk.hear_votes(OTHERS, PREVOTE, NIL, round_=1)
    assert desk.machine.round == 2


# Rules 57, 61, 65: timeouts ----------------------------------------------------------------------


def test_rule_57_propose_timeout_prevotes_nil(desk: Desk) -> None:
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]
    assert desk.machine.step is Step.PREVOTE
    assert desk.fire(TimerKind.PROPOSE) == []


def test_rule_57_does_not_lead_back_to_an_earlier_step(desk: Desk) -> None:
    lock(desk)
    assert desk.fire(TimerKind.PROPOSE) == []
    assert desk.machine.step is Step.PRECOMMIT


def test_rule_61_prevote_timeout_precommits_nil(desk: Desk) -> None:
    assert desk.fire(TimerKind.PREVOTE) == []  # not before our prevote
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.fire(TimerKind.PREVOTE)) == [(PRECOMMIT, 0, NIL)]
    assert desk.fire(TimerKind.PREVOTE) == []


def test_rule_61_no_second_precommit_after_a_lock(desk: Desk) -> None:
    lock(desk)
    assert desk.fire(TimerKind.PREVOTE) == []


def test_rule_65_precommit_timeout_starts_the_next_round(desk: Desk) -> None:
    effects = desk.fire(TimerKind.PRECOMMIT)
    assert (desk.machine.round, desk.machine.step) == (1, Step.PROPOSE)
    assert get_timers(effects) == [(TimerKind.PROPOSE, 1, 3_000)]


@pytest.mark.parametrize("kind", [TimerKind.PROPOSE, TimerKind.PREVOTE, TimerKind.PRECOMMIT])
def test_a_timer_of_another_round_or_height_does_nothing(desk: Desk, kind: TimerKind) -> None:
    desk.next_round()
    for height, round_ in ((1, 0), (1, 2), (2, 1), (0, 1)):
        assert desk.tell(TimeoutFired(Timer(kind, height, round_))) == []


# Heights -----------------------------------------------------------------------------------------


def test_an_idle_chain_says_nothing() -> None:
    desk = Desk(FOUR, me=1)
    start = desk.tell(Start(NOW_MS))
    assert start[1:] == [SetTimer(Timer(TimerKind.NEW_HEIGHT, 1, 0), 100)]
    assert isinstance(start[0], PersistJournal)
    assert desk.fire(TimerKind.NEW_HEIGHT) == []
    assert desk.machine.step is Step.NEW_HEIGHT
    assert NeedTransactions(1, 0) in desk.tell(TransactionsWaiting())


def test_transactions_do_not_shorten_the_pause_between_blocks() -> None:
    desk = Desk(FOUR, me=1)
    desk.tell(Start(NOW_MS))
    assert desk.tell(TransactionsWaiting()) == []
    assert NeedTransactions(1, 0) in desk.fire(TimerKind.NEW_HEIGHT)


def test_an_empty_block_comes_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_consensus.machine.get_block_delay_ms", lambda state: 1_000)
    desk = Desk(FOUR, me=1)
    desk.tell(Start(NOW_MS))
    # The pause of 100 ms has passed already.
    assert get_timers(desk.fire(TimerKind.NEW_HEIGHT)) == [(TimerKind.IDLE, 0, 900)]
    assert NeedTransactions(1, 0) in desk.fire(TimerKind.IDLE)


def test_one_voice_starts_the_height_after_the_pause() -> None:
    block, block_id = make_block()
    desk = Desk(FOUR)
    desk.tell(Start(NOW_MS))
    assert desk.hear(FOUR.make_proposal(block)) == []
    assert desk.said(desk.fire(TimerKind.NEW_HEIGHT)) == [(PREVOTE, 0, block_id)]
    other = Desk(FOUR)
    other.tell(Start(NOW_MS))
    other.fire(TimerKind.NEW_HEIGHT)
    assert other.said(other.hear(FOUR.make_proposal(block))) == [(PREVOTE, 0, block_id)]


def test_f_plus_1_voices_start_the_height_at_once() -> None:
    desk = Desk(FOUR)
    desk.tell(Start(NOW_MS))
    assert get_timers(desk.hear_votes((1, 2), PREVOTE, NIL)) == [(TimerKind.PROPOSE, 0, 2_000)]


def test_a_decision_does_not_wait_for_the_height_to_start() -> None:
    block, block_id = make_block()
    desk = Desk(FOUR)
    desk.hear(FOUR.make_proposal(block))
    assert len(pick(desk.hear_votes(OTHERS, PRECOMMIT, block_id), PersistDecision)) == 1


def test_a_single_validator_is_a_network() -> None:
    one = Validators(1)
    desk = Desk(one)
    desk.start()
    effects = desk.tell(ProposalInput(1, 0, (), NOW_MS))
    kinds = [type(effect) for effect in effects]
    assert kinds == [PersistJournal, Broadcast, Broadcast, Broadcast, PersistDecision, SetTimer]
    assert desk.machine.height == 2


def test_a_follower_decides_and_signs_nothing() -> None:
    machine = Machine(FOUR.state, make_signer("a stranger"))
    block, block_id = make_block()
    effects: list[Effect] = machine.handle(Start(NOW_MS))
    effects += machine.handle(ReceivedProposal(FOUR.make_proposal(block), NOW_MS))
    desk = Desk(FOUR)
    desk.machine = machine
    effects += desk.hear_votes(OTHERS, PREVOTE, block_id)
    effects += desk.hear_votes(OTHERS, PRECOMMIT, block_id)
    assert len(pick(effects, PersistDecision)) == 1
    assert get_messages(effects) == []


# Blocks that a peer serves -----------------------------------------------------------------------


def test_a_fetched_block_is_decided(desk: Desk) -> None:
    block, _ = make_block()
    certificate = FOUR.make_certificate(block, OTHERS)
    decision = desk.tell(BlockFetched(block, certificate))[0]
    assert isinstance(decision, PersistDecision)
    assert (decision.block, decision.certificate) == (block, certificate)
    assert desk.machine.height == 2
    assert desk.tell(BlockFetched(block, certificate)) == []


def test_a_fetched_block_needs_its_certificate(desk: Desk) -> None:
    block, _ = make_block()
    other, _ = make_block(later_ms=1)
    forged = msgspec.structs.replace(
        FOUR.make_certificate(block, OTHERS), signatures=(bytes(64),) * 3
    )
    for certificate, error in (
        (FOUR.make_certificate(other, OTHERS), InvalidBlock),
        (forged, InvalidSignature),
    ):
        with pytest.raises(error):
            desk.tell(BlockFetched(block, certificate))
    assert desk.machine.height == 1


def test_a_fetched_block_must_extend_our_chain(desk: Desk) -> None:
    _, after = FOUR.make_block()
    second, _ = FOUR.make_block(state=after)
    with pytest.raises(InvalidBlock, match="does not follow"):
        desk.tell(BlockFetched(second, FOUR.make_certificate(second, OTHERS)))
    first, _ = make_block()
    stray = Block(msgspec.structs.replace(first.header, prev_id=b"\7" * 32), ())
    with pytest.raises(InvalidBlock, match="does not follow"):
        desk.tell(BlockFetched(stray, FOUR.make_certificate(stray, OTHERS)))


def test_a_fetched_block_must_keep_the_ledger_rules(desk: Desk) -> None:
    block, _ = make_bad_block()
    with pytest.raises(InvalidBlock):
        desk.tell(BlockFetched(block, FOUR.make_certificate(block, OTHERS)))
    assert desk.machine.height == 1


# What we sign ------------------------------------------------------------------------------------


def test_the_journal_stands_before_the_messages_it_covers() -> None:
    desk = Desk(FOUR, me=1)
    desk.start()
    effects = desk.tell(ProposalInput(1, 0, (), NOW_MS))
    assert [type(effect) for effect in effects] == [PersistJournal, Broadcast, Broadcast]


def test_a_decision_is_persisted_before_anything_of_the_next_height(desk: Desk) -> None:
    block, state = FOUR.make_block()
    block_id = FOUR.get_id(block)
    second, _ = FOUR.make_block(state=state)
    # f+1 voices of height 2 are waiting, so that height starts with the decision.
    desk.hear(FOUR.make_proposal(second))
    desk.hear(FOUR.make_vote(3, PREVOTE, FOUR.get_id(second), height=2))
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((1, 2), PREVOTE, block_id)
    effects = desk.hear_votes((1, 2), PRECOMMIT, block_id)
    assert [type(effect) for effect in effects] == [
        PersistDecision,
        SetTimer,
        SetTimer,
        PersistJournal,
        Broadcast,
    ]
    assert desk.said(effects) == [(PREVOTE, 0, FOUR.get_id(second))]


def test_a_precommit_that_ends_the_height_is_journalled_before_the_decision() -> None:
    # Our precommit completes the quorum: it is signed and the block decided in the same call.
    desk = Desk(FOUR)
    desk.start()
    block, block_id = make_block()
    desk.hear(FOUR.make_proposal(block))
    desk.hear_votes((1, 2), PRECOMMIT, block_id)
    effects = desk.hear_votes((1, 2), PREVOTE, block_id)
    assert [type(effect) for effect in effects] == [
        PersistJournal,
        Broadcast,
        PersistDecision,
        SetTimer,
    ]
    # The journal is that of the height at which we signed, not of the one that begins.
    journal = decode(Journal, pick(effects, PersistJournal)[0].data)
    assert journal.height == 1
    assert get_messages(effects)[0] in journal.votes


def test_a_vote_of_ours_that_comes_back_is_not_contradicted(desk: Desk) -> None:
    # As after a restart without the journal: the others still know what we said.
    block, _ = make_block()
    desk.hear(FOUR.make_vote(0, PREVOTE, NIL))
    assert desk.said(desk.hear(FOUR.make_proposal(block))) == []
    assert desk.machine.step is Step.PREVOTE
    assert desk.machine.signing is Signing.QUARANTINE


def test_a_proposal_of_ours_that_comes_back_is_not_contradicted() -> None:
    block, _ = make_block()
    desk = Desk(FOUR, me=1)
    desk.tell(Start(NOW_MS))
    desk.hear(FOUR.make_proposal(block))
    effects = desk.tell(TransactionsWaiting())
    effects += desk.fire(TimerKind.NEW_HEIGHT)
    assert effects == [SetTimer(Timer(TimerKind.PROPOSE, 1, 0), FOUR.genesis.params.timeout_ms)]
    assert desk.machine.signing is Signing.QUARANTINE


def test_an_event_that_breaks_a_rule_leaves_no_trace(desk: Desk) -> None:
    block, _ = make_block()
    good = FOUR.make_vote(1, PREVOTE, NIL)
    bad = (
        msgspec.structs.replace(good, signature=bytes(64)),
        msgspec.structs.replace(good, sender=make_signer("a stranger").public),
        msgspec.structs.replace(FOUR.make_proposal(block), signature=bytes(64)),
        FOUR.make_proposal(block, sender=2),
    )
    for message in bad:
        with pytest.raises(InvalidInput):
            desk.hear(message)
    assert desk.fire(TimerKind.PREVOTE) == []
    assert (desk.machine.height, desk.machine.round, desk.machine.step) == (1, 0, Step.PROPOSE)
    assert desk.hear(good) == []
