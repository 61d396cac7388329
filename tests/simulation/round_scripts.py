"""Directed schedules about proposals that nobody may take, rounds, lost messages and crashes."""

from __future__ import annotations

from msgspec.structs import replace

from milepost_consensus.blocks import Block
from milepost_consensus.events import Broadcast, GossipDue, ReceivedVote, TimerKind
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Vote
from tests.simulation.stage import PROPOSAL, Stage

# Liars as proposers ------------------------------------------------------------------------------


def play_split_proposal(stage: Stage) -> None:
    """The liar A proposes v to B and w to C and D, and prevotes both; only C locks w.

    One block is decided, and A is caught by whoever hears both.
    """
    blocks = [stage.validators.make_block(later_ms=later)[0] for later in (0, 1)]
    v, w = (stage.get_id(block) for block in blocks)
    stage.lie(stage.validators.make_proposal(blocks[0]), "B")
    stage.lie(stage.validators.make_proposal(blocks[1]), "CD")
    stage.lie(stage.vote("A", PREVOTE, v, 0), "B")
    stage.lie(stage.vote("A", PREVOTE, w, 0), "CD")
    stage.carry(PREVOTE, 0, by="CD", to="C")
    stage.expect_vote("C", PRECOMMIT, 0, w)
    stage.carry(PREVOTE, 0, by="BC", to="D")
    stage.carry(PREVOTE, 0, by="CD", to="B")
    stage.lie(stage.vote("A", PRECOMMIT, v, 0), "B")
    stage.lie(stage.vote("A", PRECOMMIT, w, 0), "CD")
    stage.heal()
    stage.expect(bool(stage.caught), "A is caught")


def play_invalid_block(stage: Stage) -> None:
    """The liar A's block breaks a ledger rule: NIL for it, even where its own prevote backs it."""
    block = stage.validators.make_block()[0]
    bad = Block(replace(block.header, state_root=bytes(32)), ())
    bad_id = stage.get_id(bad)
    stage.lie(stage.validators.make_proposal(bad), "BCD")
    stage.expect_vote("BCD", PREVOTE, 0, NIL)
    for type_ in (PREVOTE, PRECOMMIT):
        stage.lie(stage.vote("A", type_, bad_id, 0), "BCD")
    stage.heal()
    stage.expect(all(stage.get_decided(each) != bad_id for each in "BCD"), "nobody decides it")


def play_block_ahead_of_the_clock(stage: Stage) -> None:
    """A's clock is a minute fast: its fresh block gets NIL, the next proposer's does not."""
    late = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="BCD")
    stage.expect_vote("BCD", PREVOTE, 0, NIL)
    stage.heal(heights=1)
    stage.expect(stage.get_decided("B") != late, "the block from the future is not decided")


# Rounds ------------------------------------------------------------------------------------------


def play_left_behind(stage: Stage) -> None:
    """D hears nothing for three rounds, then f+1 voices of round 3: it joins them at once."""
    for round_ in range(3):
        stage.fire(TimerKind.PROPOSE, "ABC")
        stage.carry(PREVOTE, round_, by="ABC", to="ABC")
        stage.fire(TimerKind.PREVOTE, "ABC")
        stage.carry(PRECOMMIT, round_, by="ABC", to="ABC")
        stage.fire(TimerKind.PRECOMMIT, "ABC")
    stage.fire(TimerKind.PROPOSE, "ABC")
    machine = stage.nodes["D"].machine
    assert machine is not None
    stage.carry(PREVOTE, 3, by="A", to="D")
    stage.expect(machine.round == 0, "one voice moves nobody")
    stage.carry(PREVOTE, 3, by="B", to="D")
    stage.expect(machine.round == 3, "f+1 voices do")
    stage.heal()


def play_decision_of_a_past_round(stage: Stage) -> None:
    """Only A sees the precommits of round 0; they decide at the others in round 1 all the same."""
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABCD")
    stage.carry(PREVOTE, 0, to="ABC")
    stage.carry(PRECOMMIT, 0, by="BC", to="A")
    stage.expect(stage.get_decided("A") == v, "A decides")
    stage.force_prevote_timer(0, "D")
    stage.carry(PRECOMMIT, 0, by="BD", to="BCD")
    stage.carry(PRECOMMIT, 0, by="C", to="BD")
    stage.fire(TimerKind.PRECOMMIT, "BCD")
    stage.carry(PRECOMMIT, 0, by="A", to="BCD")
    stage.expect(all(stage.get_decided(each) == v for each in "BCD"), "late precommits decide")
    stage.heal()


def play_last_words(stage: Stage) -> None:
    """The liar D prevotes v to A alone and is gone for good.  A precommits, the others are one vote
    short of it, and only A's relay of D's vote lets them follow."""
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABC")
    stage.fire(TimerKind.PROPOSE, "C")
    stage.lie(stage.vote("D", PREVOTE, v, 0), "A")
    stage.carry(PREVOTE, 0, by="AB", to="ABC")
    before = len(stage.pool)
    stage.tell("A", GossipDue())
    said = [m.signature for m in stage.pool[before:]]
    stage.expect(stage.vote("D", PREVOTE, v, 0).signature in said, "A relays what D said")
    stage.heal()


# Crashes -----------------------------------------------------------------------------------------


def play_crash_before_sending(stage: Stage) -> None:
    """D's precommit is on disk when it goes down, and said only after it is back, unchanged."""
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABCD")
    first, second = (m for m in stage.find(PREVOTE, 0, by="AB") if isinstance(m, Vote))
    stage.hand(first, "D")
    stage.tell("D", ReceivedVote(second), until=Broadcast)
    stage.expect(not stage.find(PRECOMMIT, 0, by="D"), "it went down before it spoke")
    stage.restart("D")
    stage.expect_vote("D", PRECOMMIT, 0, v)
    stage.heal()


def play_crash_after_proposing(stage: Stage) -> None:
    """A proposes, goes down, and comes back with another clock: it proposes nothing else."""
    stage.nodes["A"].skew_ms = 5_000
    stage.restart("A")
    stage.fire(TimerKind.NEW_HEIGHT, "A")
    stage.get_proposal(0)  # there is one only
    stage.heal()
