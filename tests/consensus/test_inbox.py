"""Messages of other heights and rounds, copies, contradictions, stragglers."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from milepost_consensus.crypto import verify_signature
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    Behind,
    BlockFetched,
    Broadcast,
    Equivocation,
    GossipDue,
    PersistDecision,
    ReceivedProposal,
    ReceivedVote,
    Start,
    TimerKind,
    TransactionsWaiting,
)
from milepost_consensus.inbox import Inbox
from milepost_consensus.machine import Step
from milepost_consensus.tally import ROUNDS_AHEAD, ROUNDS_BEHIND
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.desk import NOW_MS, Desk, get_messages, get_timers, pick
from tests.support.validators import Validators

FOUR = Validators(4)
BLOCK, AFTER = FOUR.make_block()
BLOCK_ID = FOUR.get_id(BLOCK)
OTHERS = (1, 2, 3)


@pytest.fixture
def desk() -> Desk:
    """Validator 0 in round 0 of height 1."""
    desk = Desk(FOUR)
    desk.start()
    return desk


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Senders whose signatures were verified, in order."""
    seen = list[bytes]()

    def count(public: bytes, signature: bytes, *, kind: str, body: bytes, network: bytes) -> None:
        seen.append(public)
        verify_signature(public, signature, kind=kind, body=body, network=network)

    monkeypatch.setattr("milepost_consensus.votes.verify_signature", count)
    return seen


def decide(desk: Desk) -> None:
    desk.hear(FOUR.make_proposal(BLOCK))
    desk.hear_votes(OTHERS, PRECOMMIT, BLOCK_ID, round_=0)
    assert desk.machine.height == 2


# Copies ------------------------------------------------------------------------------------------


def test_a_copy_costs_no_verification(desk: Desk, checks: list[bytes]) -> None:
    messages: list[Vote | Proposal] = [
        FOUR.make_proposal(BLOCK),
        FOUR.make_vote(1, PREVOTE, NIL),
        FOUR.make_vote(2, PREVOTE, NIL, round_=ROUNDS_AHEAD + 1),
        FOUR.make_vote(2, PREVOTE, NIL, height=2),
        FOUR.make_vote(3, PREVOTE, NIL, height=9),
    ]
    desk.hear(*messages)
    assert len(checks) == len(messages)
    assert desk.hear(*messages) == []
    assert len(checks) == len(messages)


def test_a_refused_copy_does_not_take_the_place_of_the_good_one(desk: Desk) -> None:
    good = FOUR.make_proposal(BLOCK)
    with pytest.raises(InvalidInput):
        desk.hear(msgspec.structs.replace(good, signature=bytes(64)))
    assert desk.said(desk.hear(good)) == [(PREVOTE, 0, BLOCK_ID)]
    early = FOUR.make_vote(1, PREVOTE, NIL, height=2)
    with pytest.raises(InvalidInput):
        desk.hear(msgspec.structs.replace(early, signature=bytes(64)))
    assert pick(desk.hear(early), Behind) == [Behind(2, early.sender)]


# Contradictions ----------------------------------------------------------------------------------


def test_a_second_vote_is_reported_once_and_not_counted(desk: Desk, checks: list[bytes]) -> None:
    desk.hear(FOUR.make_proposal(BLOCK))
    first, second = (FOUR.make_vote(1, PREVOTE, block_id) for block_id in (NIL, BLOCK_ID))
    third = FOUR.make_vote(1, PREVOTE, b"\1" * 32)
    assert desk.hear(first, second) == [Equivocation(first, second)]
    before = len(checks)
    assert desk.hear(second, third) == []
    assert len(checks) == before
    assert desk.said(desk.hear_votes((2,), PREVOTE, BLOCK_ID)) == []
    assert desk.said(desk.hear_votes((3,), PREVOTE, BLOCK_ID)) == [(PRECOMMIT, 0, BLOCK_ID)]


def test_a_forged_second_vote_accuses_nobody(desk: Desk) -> None:
    first = FOUR.make_vote(1, PREVOTE, NIL)
    desk.hear(first)
    with pytest.raises(InvalidInput):
        desk.hear(msgspec.structs.replace(first, block_id=BLOCK_ID))


@pytest.mark.parametrize(
    "second",
    [
        FOUR.make_proposal(FOUR.make_block(1, later_ms=1)[0]),
        FOUR.make_proposal(BLOCK, round_=1, polc=FOUR.make_votes(OTHERS, PREVOTE, BLOCK_ID)),
    ],
)
def test_a_second_proposal_is_reported_once_and_not_followed(desk: Desk, second: Proposal) -> None:
    block, _ = FOUR.make_block(1)
    first = FOUR.make_proposal(block)
    assert desk.hear(first, second) == [Equivocation(first, second)]
    assert desk.hear(second) == []
    assert desk.said(desk.next_round()) == [(PREVOTE, 1, FOUR.get_id(block))]


def test_one_block_with_two_valid_rounds_is_a_contradiction_too(desk: Desk) -> None:
    first, second = (
        FOUR.make_proposal(
            BLOCK, round_=2, polc=FOUR.make_votes(OTHERS, PREVOTE, BLOCK_ID, round_=round_)
        )
        for round_ in (0, 1)
    )
    assert desk.hear(first, second) == [Equivocation(first, second)]


# Other rounds ------------------------------------------------------------------------------------


def test_rounds_too_far_ahead_leave_only_their_number(desk: Desk) -> None:
    far = ROUNDS_AHEAD + 1
    vote = FOUR.make_vote(1, PREVOTE, NIL, round_=far)
    desk.hear(vote)
    desk.hear_votes((2, 3), PREVOTE, NIL, round_=far)
    assert desk.machine.round == far
    # The first two came when they were too far ahead: 3 alone was kept.  A copy is counted.
    desk.fire(TimerKind.PROPOSE)
    assert desk.said(desk.hear(vote)) == [(PRECOMMIT, far, NIL)]


def test_rounds_too_far_behind_are_dropped(desk: Desk, checks: list[bytes]) -> None:
    desk.hear(FOUR.make_proposal(BLOCK))
    desk.hear_votes((1, 2), PRECOMMIT, BLOCK_ID)
    desk.hear_votes((2, 3), PREVOTE, NIL, round_=ROUNDS_BEHIND + 1)
    before = len(checks)
    assert desk.hear_votes(OTHERS, PRECOMMIT, BLOCK_ID, round_=0) == []
    assert len(checks) == before


def test_the_last_round_that_is_kept_still_decides(desk: Desk) -> None:
    desk.hear(FOUR.make_proposal(BLOCK))
    desk.hear_votes((1, 2), PRECOMMIT, BLOCK_ID)
    desk.hear_votes((2, 3), PREVOTE, NIL, round_=ROUNDS_BEHIND)
    effects = desk.hear_votes((3,), PRECOMMIT, BLOCK_ID, round_=0)
    assert len(pick(effects, PersistDecision)) == 1


# Other heights -----------------------------------------------------------------------------------


def test_a_higher_height_says_that_we_are_behind_once_between_gossips(desk: Desk) -> None:
    vote = FOUR.make_vote(1, PREVOTE, NIL, height=7)
    assert desk.hear(vote) == [Behind(7, vote.sender)]
    lower, higher = (FOUR.make_vote(1, PREVOTE, NIL, height=height) for height in (6, 8))
    assert desk.hear(vote, lower) == []
    assert desk.hear(higher) == [Behind(8, vote.sender)]
    desk.tell(GossipDue())
    assert desk.hear(vote) == [Behind(7, vote.sender)]


def test_a_higher_height_needs_a_validators_signature(desk: Desk) -> None:
    vote = FOUR.make_vote(1, PREVOTE, NIL, height=7)
    with pytest.raises(InvalidInput):
        desk.hear(msgspec.structs.replace(vote, height=8))


def test_the_start_of_the_next_height_is_kept(desk: Desk) -> None:
    second, _ = FOUR.make_block(state=AFTER)
    second_id = FOUR.get_id(second)
    desk.hear(FOUR.make_proposal(second), FOUR.make_vote(3, PREVOTE, second_id, height=2))
    decide(desk)
    # Proposer and voter are f+1, so height 2 began at once, with their words in the tally.
    vote = FOUR.make_vote(1, PREVOTE, second_id, height=2)
    assert desk.said(desk.hear(vote)) == [(PRECOMMIT, 0, second_id)]


def test_early_words_end_with_their_height() -> None:
    first = FOUR.make_block()[1]
    second = FOUR.make_block(state=first)[1]
    for state, kept in ((first, 1), (second, 0)):
        inbox = Inbox(FOUR.state, ())
        inbox.receive(ReceivedVote(FOUR.make_vote(1, PREVOTE, NIL, height=2)), round_=0)
        inbox.open(state, ())
        assert inbox.tally.count(0, PREVOTE) == kept


def test_an_early_proposal_counts_only_if_it_is_its_senders_turn() -> None:
    """Whose turn it is in the first height of an epoch is known when the one before is final."""
    after = FOUR.make_block()[1]
    block, _ = FOUR.make_block(state=after)
    turn = FOUR.get_turn(2, 0)
    wrong = replace(block, header=replace(block.header, proposer=FOUR.signers[turn - 1].public))
    for proposal, counts in (
        (FOUR.make_proposal(block), True),
        (FOUR.make_proposal(wrong, sender=turn - 1), False),
    ):
        inbox = Inbox(FOUR.state, ())
        assert inbox.receive(ReceivedProposal(proposal, NOW_MS), round_=0)
        inbox.open(after, ())
        assert bool(inbox.tally.proposals) == counts


def test_only_the_start_of_the_next_height_is_kept(desk: Desk) -> None:
    desk.hear(*(FOUR.make_vote(1, PREVOTE, NIL, height=2, round_=r) for r in (0, 1, 2, 3)))
    desk.hear(FOUR.make_vote(2, PREVOTE, NIL, height=3))
    decide(desk)
    assert desk.machine.step is Step.NEW_HEIGHT
    assert [(m.height, m.round) for m in get_messages(desk.tell(GossipDue()))] == [(2, 0), (2, 1)]


def test_lower_heights_are_dropped_unread(desk: Desk, checks: list[bytes]) -> None:
    decide(desk)
    before = len(checks)
    assert desk.hear(FOUR.make_proposal(BLOCK), FOUR.make_vote(2, PREVOTE, NIL)) == []
    assert len(checks) == before


# Relay -------------------------------------------------------------------------------------------


def test_relay_says_all_again_that_is_known_of_this_round_and_the_last(desk: Desk) -> None:
    desk.hear(FOUR.make_proposal(BLOCK))
    desk.hear(FOUR.make_vote(1, PREVOTE, NIL))
    desk.next_round()
    vote = FOUR.make_vote(2, PREVOTE, NIL, round_=1)
    desk.hear(vote)
    effects = desk.tell(GossipDue())
    assert [type(effect) for effect in effects] == [Broadcast] * len(effects)
    messages = get_messages(effects)
    own = FOUR.make_vote(0, PREVOTE, BLOCK_ID)
    nil = FOUR.make_votes(OTHERS, PRECOMMIT, NIL)
    expected = [FOUR.make_proposal(BLOCK), own, FOUR.make_vote(1, PREVOTE, NIL), *nil, vote]
    assert len(messages) == len(expected)
    assert all(message in messages for message in expected)
    desk.next_round()
    assert all(m.round >= 1 for m in get_messages(desk.tell(GossipDue())))


def test_relay_has_nothing_to_say_on_an_idle_chain(desk: Desk) -> None:
    decide(desk)
    desk.fire(TimerKind.NEW_HEIGHT)
    assert desk.tell(GossipDue()) == []


def test_who_still_prevotes_below_gets_the_last_certificates_votes(desk: Desk) -> None:
    decide(desk)
    precommits = list(FOUR.make_votes(OTHERS, PRECOMMIT, BLOCK_ID))
    prevote = FOUR.make_vote(3, PREVOTE, NIL)
    # Late votes are usual right after a decision.
    desk.hear(prevote)
    assert desk.tell(GossipDue()) == []
    # Precommits may be an echo of our own help.
    desk.hear(FOUR.make_vote(3, PRECOMMIT, BLOCK_ID))
    assert desk.tell(GossipDue()) == []
    desk.hear(prevote)
    assert get_messages(desk.tell(GossipDue())) == precommits
    assert desk.tell(GossipDue()) == []


def test_the_last_certificate_is_known_after_a_restart() -> None:
    certificate = FOUR.make_certificate(BLOCK, OTHERS)
    desk = Desk(FOUR, state=AFTER, last_certificate=certificate)
    desk.tell(Start(NOW_MS))
    desk.tell(GossipDue())
    desk.hear(FOUR.make_vote(3, PREVOTE, NIL))
    precommits = list(FOUR.make_votes(OTHERS, PRECOMMIT, BLOCK_ID))
    assert get_messages(desk.tell(GossipDue())) == precommits
    fetched = Desk(FOUR)
    fetched.tell(BlockFetched(BLOCK, certificate))
    fetched.tell(GossipDue())
    fetched.hear(FOUR.make_vote(3, PREVOTE, NIL))
    assert get_messages(fetched.tell(GossipDue())) == precommits


def test_a_final_block_that_never_came_is_asked_for(desk: Desk) -> None:
    desk.hear_votes(OTHERS, PRECOMMIT, BLOCK_ID)
    asked = [pick(desk.tell(GossipDue()), Behind) for _ in range(3)]
    assert {behind.height for behinds in asked for behind in behinds} == {2}
    assert {behind.sender for behinds in asked for behind in behinds} == {
        FOUR.signers[i].public for i in OTHERS
    }


def test_early_words_wake_the_next_height(desk: Desk) -> None:
    desk.hear(FOUR.make_vote(3, PREVOTE, NIL, height=2))
    decide(desk)
    assert get_timers(desk.fire(TimerKind.NEW_HEIGHT)) == [(TimerKind.PROPOSE, 0, 2_000)]


def test_transactions_of_the_last_height_do_not_wake_the_next(desk: Desk) -> None:
    desk.tell(TransactionsWaiting())
    decide(desk)
    assert desk.fire(TimerKind.NEW_HEIGHT) == []
