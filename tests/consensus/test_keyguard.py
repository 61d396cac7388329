"""A machine whose key somebody else uses, or whose past is lost, signs nothing that contradicts."""

from __future__ import annotations

import msgspec
import pytest

from milepost_consensus.blocks import Block
from milepost_consensus.crypto import verify_signature
from milepost_consensus.errors import InvalidSignature
from milepost_consensus.events import (
    BlockFetched,
    Effect,
    GossipDue,
    KeyInUse,
    PersistDecision,
    PersistJournal,
    ProposalInput,
    Start,
    TimerKind,
    TransactionsWaiting,
)
from milepost_consensus.keyguard import ORIGIN, KeyGuard, Place, Signing
from milepost_consensus.state import LedgerState
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.desk import NOW_MS, Desk, get_messages, pick
from tests.support.validators import Validators

FOUR = Validators(4)
BLOCK, AFTER = FOUR.make_block()
BLOCK_ID = FOUR.get_id(BLOCK)
OTHERS = (1, 2, 3)
OWN_ROUND = next(round_ for round_ in range(1, 99) if FOUR.get_turn(1, round_) == 0)


def get_signing(desk: Desk) -> Signing:
    return desk.machine.signing


def start(desk: Desk) -> Desk:
    desk.start()
    return desk


def make_chain(heights: int) -> list[tuple[Block, LedgerState]]:
    """Empty blocks from genesis on."""
    chain: list[tuple[Block, LedgerState]] = []
    for _ in range(heights):
        chain.append(FOUR.make_block(state=chain[-1][1] if chain else None))
    return chain


CHAIN = make_chain(8)


def play(desk: Desk, height: int) -> list[tuple[int, int, bytes]]:
    """The others decide a height before the machine's eyes; returns what it signed."""
    block = CHAIN[height - 1][0]
    block_id = FOUR.get_id(block)
    effects: list[Effect] = desk.fire(TimerKind.NEW_HEIGHT)
    if FOUR.get_turn(height, 0) != 0:
        effects += desk.hear(FOUR.make_proposal(block))
    for type_ in (PREVOTE, PRECOMMIT):
        for sender in OTHERS:
            effects += desk.hear(FOUR.make_vote(sender, type_, block_id, height=height))
    if FOUR.get_turn(height, 0) == 0:
        # Our own proposal is missing to a machine that does not sign: the block is fetched.
        return fetch(desk, height) or desk.said(effects)
    assert desk.machine.height == height + 1
    return desk.said(effects)


def fetch(
    desk: Desk, height: int, signers: tuple[int, ...] = OTHERS
) -> list[tuple[int, int, bytes]]:
    """A peer serves a block; returns what the machine signed."""
    block = CHAIN[height - 1][0]
    return desk.said(desk.tell(BlockFetched(block, FOUR.make_certificate(block, signers))))


def assert_silent(desk: Desk) -> None:
    """The machine signs nothing, in this height and the next, and follows."""
    height = desk.machine.height
    assert get_signing(desk) is Signing.KEY_IN_USE
    for kind in (TimerKind.NEW_HEIGHT, TimerKind.PROPOSE, TimerKind.PREVOTE, TimerKind.PRECOMMIT):
        assert desk.said(desk.fire(kind)) == []
    assert fetch(desk, height) == []
    assert desk.machine.height == height + 1
    desk.tell(TransactionsWaiting())
    effects = desk.fire(TimerKind.NEW_HEIGHT) + desk.fire(TimerKind.PROPOSE)
    assert get_messages(effects) == []
    assert pick(effects, PersistJournal) == []


# Somebody else signs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        FOUR.make_vote(0, PRECOMMIT, BLOCK_ID),
        FOUR.make_vote(0, PREVOTE, NIL, round_=1),
        FOUR.make_vote(0, PREVOTE, NIL, round_=50),
        FOUR.make_vote(0, PREVOTE, NIL, height=2),
        FOUR.make_vote(0, PREVOTE, NIL, height=90),
        FOUR.make_proposal(FOUR.make_block(OWN_ROUND)[0]),
        FOUR.make_proposal(FOUR.make_block(OWN_ROUND + 1)[0], sender=0),  # though out of turn
        FOUR.make_proposal(
            BLOCK, round_=2, polc=FOUR.make_votes((0, 2, 3), PREVOTE, BLOCK_ID, round_=1)
        ),
    ],
)
def test_what_is_signed_above_the_mark_was_signed_elsewhere(message: Vote | Proposal) -> None:
    desk = start(Desk(FOUR))
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]
    found = desk.hear(message)
    assert [type(effect) for effect in found] == [KeyInUse]
    assert "height 1, round 0 (prevote)" in pick(found, KeyInUse)[0].message
    again = FOUR.make_vote(0, PRECOMMIT, BLOCK_ID)
    assert pick(desk.hear(again), KeyInUse) == [], "it is told once"
    assert_silent(desk)


def test_another_message_than_the_one_signed_was_signed_elsewhere() -> None:
    desk = start(Desk(FOUR))
    desk.fire(TimerKind.PROPOSE)
    desk.next_round()
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 1, NIL)]
    again = Desk(FOUR, journal=desk.journal)
    for machine in (desk, again):
        assert pick(machine.hear(FOUR.make_vote(0, PREVOTE, NIL, round_=1)), KeyInUse) == []
        other = FOUR.make_vote(0, PREVOTE, BLOCK_ID, round_=1)
        assert len(pick(machine.hear(other), KeyInUse)) == 1
    assert_silent(desk)


def test_a_message_in_a_place_that_was_left_out_was_signed_elsewhere() -> None:
    desk = start(Desk(FOUR))
    desk.next_round()
    desk.fire(TimerKind.PROPOSE)
    assert len(pick(desk.hear(FOUR.make_vote(0, PREVOTE, NIL)), KeyInUse)) == 1


def test_old_messages_that_come_back_are_harmless_and_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = start(Desk(FOUR, state=AFTER))
    desk.fire(TimerKind.PROPOSE)
    said = get_messages(desk.tell(GossipDue()))
    checks = list[bytes]()

    def count(public: bytes, signature: bytes, **more: object) -> None:
        checks.append(public)
        verify_signature(public, signature, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("milepost_consensus.votes.verify_signature", count)
    assert said
    assert desk.hear(*said, *FOUR.make_votes((0,), PRECOMMIT, BLOCK_ID)) == []
    assert checks == []


def test_a_forged_message_bars_nobody() -> None:
    desk = start(Desk(FOUR))
    forged = msgspec.structs.replace(FOUR.make_vote(0, PRECOMMIT, NIL), signature=bytes(64))
    with pytest.raises(InvalidSignature):
        desk.hear(forged)
    assert get_signing(desk) is Signing.ACTIVE
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]


def test_a_restored_backup_is_noticed_by_what_is_fetched() -> None:
    desk = start(Desk(FOUR, state=AFTER))
    assert fetch(desk, 2) == []
    certificate = FOUR.make_certificate(CHAIN[2][0], (0, 1, 2))
    effects = desk.tell(BlockFetched(CHAIN[2][0], certificate))
    assert [type(effect) for effect in effects[:2]] == [KeyInUse, PersistDecision]
    assert_silent(desk)


def test_a_block_of_our_own_that_we_do_not_know_is_noticed_without_our_vote() -> None:
    height = next(h for h in range(2, 7) if FOUR.get_turn(h, 0) == 0)
    desk = start(Desk(FOUR, state=CHAIN[height - 2][1]))
    certificate = FOUR.make_certificate(CHAIN[height - 1][0], OTHERS)
    effects = desk.tell(BlockFetched(CHAIN[height - 1][0], certificate))
    assert len(pick(effects, KeyInUse)) == 1


def test_our_own_blocks_and_votes_are_no_news() -> None:
    height = next(h for h in range(2, 7) if FOUR.get_turn(h, 0) == 0)
    desk = start(Desk(FOUR, state=CHAIN[height - 2][1]))
    proposal = get_messages(desk.tell(ProposalInput(height, 0, (), NOW_MS)))[0]
    assert isinstance(proposal, Proposal)
    again = start(Desk(FOUR, state=CHAIN[height - 2][1], journal=desk.journal))
    certificate = FOUR.make_certificate(proposal.block, OTHERS)
    assert pick(again.tell(BlockFetched(proposal.block, certificate)), KeyInUse) == []


def test_a_restart_does_not_help() -> None:
    desk = Desk(FOUR, state=AFTER, key_in_use=True)
    desk.start()
    assert_silent(desk)


# A past that is lost ------------------------------------------------------------------------------


def test_a_wiped_machine_signs_after_two_heights_that_it_saw_decided() -> None:
    desk = Desk(FOUR, state=AFTER, wiped=True)
    desk.start()
    assert get_signing(desk) is Signing.QUARANTINE
    heights = [h for h in range(2, 8) if FOUR.get_turn(h, 0)]
    first = next(h for h in heights if h + 1 in heights)
    for height in range(2, first):
        assert play(desk, height) == []
    for height in (first, first + 1):
        assert get_signing(desk) is Signing.QUARANTINE
        assert play(desk, height) == []
    assert get_signing(desk) is Signing.ACTIVE
    desk.fire(TimerKind.NEW_HEIGHT)
    desk.tell(TransactionsWaiting())
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]
    journal = desk.journal
    again = Desk(FOUR, state=CHAIN[first][1], journal=journal)
    again.tell(Start(NOW_MS))
    assert get_signing(again) is Signing.ACTIVE


def test_a_height_that_had_to_be_fetched_begins_the_quarantine_anew() -> None:
    heights = [h for h in range(2, 8) if FOUR.get_turn(h, 0) and FOUR.get_turn(h + 1, 0)]
    first = heights[0]
    desk = Desk(FOUR, state=CHAIN[first - 2][1], wiped=True)
    desk.start()
    play(desk, first)
    fetch(desk, first + 1)
    assert get_signing(desk) is Signing.QUARANTINE
    # Even where it was over, as long as nothing was signed.
    desk = Desk(FOUR, state=CHAIN[first - 2][1], wiped=True)
    desk.start()
    play(desk, first)
    play(desk, first + 1)
    assert get_signing(desk) is Signing.ACTIVE
    fetch(desk, first + 2, (0, 1, 2))
    assert get_signing(desk) is Signing.QUARANTINE


def test_a_decision_by_few_others_does_not_count() -> None:
    """Two of three others and our own old vote decide: the third may know more."""
    first = next(h for h in range(2, 8) if FOUR.get_turn(h, 0) and FOUR.get_turn(h + 1, 0))
    heights = (first, first + 1)
    turns = {FOUR.get_turn(height, 0) for height in heights}
    unheard = next(i for i in OTHERS if i not in turns)
    desk = Desk(FOUR, state=CHAIN[first - 2][1], wiped=True)
    desk.start()
    for height in heights:
        block = CHAIN[height - 1][0]
        desk.hear(FOUR.make_proposal(block))
        for sender in {0, *OTHERS} - {unheard}:
            desk.hear(FOUR.make_vote(sender, PRECOMMIT, FOUR.get_id(block), height=height))
    assert desk.machine.height == first + 2
    assert get_signing(desk) is Signing.QUARANTINE


def test_old_messages_of_ours_are_no_news_in_quarantine_but_new_ones_are() -> None:
    first = next(h for h in range(2, 8) if FOUR.get_turn(h, 0) and FOUR.get_turn(h + 1, 0))
    desk = Desk(FOUR, state=CHAIN[first - 2][1], wiped=True)
    desk.start()
    for height in (first, first + 1):
        assert pick(desk.hear(FOUR.make_vote(0, PREVOTE, NIL, height=height)), KeyInUse) == []
        play(desk, height)
    late = FOUR.make_vote(0, PREVOTE, NIL, height=first + 1)
    assert pick(desk.hear(late), KeyInUse) == []
    new = FOUR.make_vote(0, PREVOTE, NIL, height=first + 2)
    assert "signed nothing" in pick(desk.hear(new), KeyInUse)[0].message
    assert_silent(desk)


# Genesis ------------------------------------------------------------------------------------------


def test_a_new_key_signs_at_once_and_remembers_that_it_was_new() -> None:
    desk = Desk(FOUR)
    assert isinstance(desk.tell(Start(NOW_MS))[0], PersistJournal)
    desk.tell(TransactionsWaiting())
    desk.fire(TimerKind.NEW_HEIGHT)
    again = start(Desk(FOUR, journal=desk.journal))
    for machine in (desk, again):
        assert machine.said(machine.fire(TimerKind.PROPOSE)) == [(PREVOTE, 0, NIL)]


def test_a_machine_that_was_at_genesis_and_said_nothing_signs_at_the_next_height() -> None:
    """The others may need its vote: with f of four silent, the network would stop for ever."""
    desk = Desk(FOUR)
    desk.tell(Start(NOW_MS))
    late = Desk(FOUR, state=AFTER, journal=desk.journal)
    fetch(desk, 1)
    late.tell(Start(NOW_MS))
    for machine in (desk, late):
        assert get_signing(machine) is Signing.ACTIVE


def test_a_machine_wiped_at_height_one_that_meets_its_signature_signs_after_height_two() -> None:
    desk = Desk(FOUR)
    desk.tell(Start(NOW_MS))
    block, _ = CHAIN[0]
    effects = desk.tell(BlockFetched(block, FOUR.make_certificate(block, (0, 1, 2))))
    assert pick(effects, KeyInUse) == []
    assert get_signing(desk) is Signing.QUARANTINE
    fetch(desk, 2)
    assert get_signing(desk) is Signing.ACTIVE


def test_a_machine_that_was_wiped_at_height_one_waits() -> None:
    desk = Desk(FOUR)
    assert desk.hear(FOUR.make_vote(0, PREVOTE, BLOCK_ID)) == []
    assert get_signing(desk) is Signing.QUARANTINE
    assert desk.tell(Start(NOW_MS)) != []
    desk.fire(TimerKind.NEW_HEIGHT)
    desk.tell(TransactionsWaiting())
    assert desk.said(desk.fire(TimerKind.PROPOSE)) == []
    late = start(Desk(FOUR))
    late.hear(FOUR.make_vote(0, PREVOTE, BLOCK_ID))
    assert get_signing(late) is Signing.QUARANTINE
    assert late.said(late.fire(TimerKind.PROPOSE)) == []


def test_nothing_is_signed_before_the_start_and_everything_after_it() -> None:
    desk = Desk(FOUR, state=AFTER)
    desk.tell(TransactionsWaiting())
    desk.fire(TimerKind.NEW_HEIGHT)
    desk.hear(FOUR.make_proposal(CHAIN[1][0]))
    assert get_signing(desk) is Signing.LISTENING
    assert desk.journal is not None
    before = desk.journal
    block_id = FOUR.get_id(CHAIN[1][0])
    votes = [FOUR.make_vote(i, PREVOTE, block_id, height=2) for i in OTHERS]
    assert get_messages(desk.hear(*votes)) == []
    effects = desk.tell(Start(NOW_MS)) + desk.fire(TimerKind.NEW_HEIGHT)
    assert desk.said(effects) == [(PREVOTE, 0, block_id), (PRECOMMIT, 0, block_id)]
    assert desk.journal != before


def test_a_decision_does_not_wait_for_the_start() -> None:
    desk = Desk(FOUR, state=AFTER)
    desk.hear(FOUR.make_proposal(CHAIN[1][0]))
    block_id = FOUR.get_id(CHAIN[1][0])
    votes = [FOUR.make_vote(i, PRECOMMIT, block_id, height=2) for i in OTHERS]
    assert len(pick(desk.hear(*votes), PersistDecision)) == 1


# Restored from a backup --------------------------------------------------------------------------


def make_restored(height: int) -> Desk:
    """A machine from a backup of a height, started."""
    desk = Desk(FOUR, state=CHAIN[height - 1][1] if height else None, restored=True)
    desk.start()
    return desk


FIRST = next(h for h in range(2, 7) if FOUR.get_turn(h, 0) and FOUR.get_turn(h + 1, 0))
"""Two heights in a row at which others have their turns."""


def test_a_restored_home_is_not_taken_for_new_at_genesis() -> None:
    assert get_signing(make_restored(0)) is Signing.QUARANTINE
    assert get_signing(start(Desk(FOUR))) is Signing.ACTIVE


def test_a_restored_home_follows_for_longer_than_a_wiped_one() -> None:
    guard = KeyGuard(None, known_from=ORIGIN, key_in_use=False, restored_among=4)
    guard.start()
    for height in range(10, 20):
        assert guard.get_signing(height) is Signing.QUARANTINE, height
        guard.on_decided(height, live=True)
    assert guard.get_signing(20) is Signing.ACTIVE
    assert not guard.may_sign(Place(19, 5, 2))
    assert guard.may_sign(Place(20, 0, 0))


def test_what_a_restored_key_signs_after_two_heights_is_signed_elsewhere() -> None:
    desk = make_restored(FIRST - 1)
    for height in (FIRST, FIRST + 1):
        vote = FOUR.make_vote(0, PREVOTE, NIL, height=height)
        assert pick(desk.hear(vote), KeyInUse) == [], "a past of its own"
        play(desk, height)
    assert get_signing(desk) is Signing.QUARANTINE
    vote = FOUR.make_vote(0, PREVOTE, NIL, height=FIRST + 2)
    assert len(pick(desk.hear(vote), KeyInUse)) == 1
    assert get_signing(desk) is Signing.KEY_IN_USE


@pytest.mark.parametrize("signers", [(0, 1, 2), OTHERS])
def test_a_restored_key_is_found_in_fetched_blocks_too(signers: tuple[int, ...]) -> None:
    desk = make_restored(FIRST - 1)
    fetch(desk, FIRST, (0, 1, 2))
    assert get_signing(desk) is Signing.QUARANTINE, "what it signed before the disk was lost"
    desk = make_restored(FIRST - 1)
    for height in (FIRST, FIRST + 1):
        play(desk, height)
    fetch(desk, FIRST + 2, signers)
    proposed = FOUR.get_turn(FIRST + 2, 0) == 0
    found = 0 in signers or proposed
    assert get_signing(desk) is (Signing.KEY_IN_USE if found else Signing.QUARANTINE)
