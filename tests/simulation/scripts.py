"""Directed schedules: one for each guard of Algorithm 1 that chance hardly ever reaches.

Every script leads four validators to the one place where a guard decides, expects what the law on
top of machine.py says, and then lets everything arrive: all must agree and go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from milepost_consensus.blocks import Block
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    Broadcast,
    GossipDue,
    ReceivedVote,
    TimeoutFired,
    Timer,
    TimerKind,
)
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Vote
from tests.simulation.monitor import Violation
from tests.simulation.options import Options
from tests.simulation.signing import use_signatures
from tests.simulation.stage import PROPOSAL, Stage
from tests.simulation.world import Report


class Script(NamedTuple):
    """What a script is played by, on a stage with these liars."""

    play: Callable[[Stage], None]
    liars: str = ""
    clocks_ms: tuple[int, ...] = ()
    size: int = 4


def play_script(options: Options) -> Report:
    """Play the script that the options name; raises Violation."""
    script = SCRIPTS[options.script]
    with use_signatures(real=options.real_signatures):
        stage = Stage(options, liars=script.liars, clocks_ms=script.clocks_ms)
        try:
            script.play(stage)
            stage.laws.check_end(list(stage.nodes.values()))
        except (AssertionError, InvalidInput) as error:
            raise Violation(f"script {options.script}: {error!r}") from error
        except Violation as error:
            raise Violation(f"script {options.script}: {error}") from error
    heights = max(node.height for node in stage.nodes.values())
    return Report(stage.events, 0, heights, 0, stage.trace.hexdigest())


def _lock_only(stage: Stage, letter: str, round_: int = 0) -> bytes:
    """All prevote the round's block, but only one sees that and locks; the others precommit NIL.

    Returns the block's id.
    """
    block_id = stage.get_id(stage.get_proposal(round_).block)
    stage.carry(PROPOSAL, round_, to=stage.honest)
    stage.carry(PREVOTE, round_, to=letter)
    stage.expect_vote(letter, PRECOMMIT, round_, block_id)
    return block_id


# Locks -------------------------------------------------------------------------------------------


def _play_hidden_lock(stage: Stage) -> None:
    """A decides v by the precommits of D and of the liar C; B knows nothing and proposes w.

    D is locked on v, so w finds no quorum, and v is what all decide.
    """
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABD")
    stage.lie(stage.vote("C", PREVOTE, v, 0), "AD")
    stage.carry(PREVOTE, 0, to="AD")
    stage.expect_vote("AD", PRECOMMIT, 0, v)
    stage.lie(stage.vote("C", PRECOMMIT, v, 0), "A")
    stage.carry(PRECOMMIT, 0, by="D", to="A")
    stage.expect(stage.get_decided("A") == v, "A has 2f+1 precommits for v and decides it")
    # B and D hear differing votes and go on to round 1.
    stage.lie(stage.vote("C", PREVOTE, NIL, 0), "B")
    stage.carry(PREVOTE, 0, by="A", to="B")
    stage.fire(TimerKind.PREVOTE, "B")
    stage.lie(stage.vote("C", PRECOMMIT, NIL, 0), "BD")
    stage.carry(PRECOMMIT, 0, by="BD", to="BD")
    stage.fire(TimerKind.PRECOMMIT, "BD")
    w = stage.get_id(stage.get_proposal(1).block)
    stage.expect(w != v, "B has a block of its own")
    stage.carry(PROPOSAL, 1, to="D")
    stage.expect_vote("D", PREVOTE, 1, NIL)
    stage.lie(stage.vote("C", PREVOTE, w, 1), "BD")
    stage.lie(stage.vote("C", PRECOMMIT, w, 1), "BD")
    stage.carry(PREVOTE, 1, to="BD")
    stage.heal()
    stage.expect(all(stage.get_decided(each) == v for each in "ABD"), "all decide v")


def _play_stale_polc(stage: Stage) -> None:
    """The liar C justifies v by prevotes of round 0 after all locked w in round 1 and B decided it.

    Locked round 1 > valid round 0: A and D prevote NIL.
    """
    first = stage.get_proposal(0)
    v = stage.get_id(first.block)
    stage.carry(PROPOSAL, 0, to="ABD")
    for letter, other in (("A", "B"), ("B", "D"), ("D", "A")):
        stage.lie(stage.vote("C", PREVOTE, NIL, 0), letter)
        stage.carry(PREVOTE, 0, by=other, to=letter)
    stage.fire(TimerKind.PREVOTE)
    stage.expect_vote("ABD", PRECOMMIT, 0, NIL)
    stage.carry(PRECOMMIT, 0, to="ABD")
    stage.fire(TimerKind.PRECOMMIT)
    w = stage.get_id(stage.get_proposal(1).block)
    stage.carry(PROPOSAL, 1, to="AD")
    stage.carry(PREVOTE, 1, to="ABD")
    stage.expect_vote("ABD", PRECOMMIT, 1, w)
    stage.carry(PRECOMMIT, 1, to="B")
    stage.expect(stage.get_decided("B") == w, "B decides w")
    for letter, other in (("A", "D"), ("D", "A")):
        stage.lie(stage.vote("C", PRECOMMIT, NIL, 1), letter)
        stage.carry(PRECOMMIT, 1, by=other, to=letter)
    stage.fire(TimerKind.PRECOMMIT, "AD")
    polc = tuple(m for m in stage.find(PREVOTE, 0, by="ABD") if isinstance(m, Vote))
    stage.lie(stage.validators.make_proposal(first.block, round_=2, polc=polc), "AD")
    stage.expect_vote("AD", PREVOTE, 2, NIL)
    stage.lie(stage.vote("C", PREVOTE, v, 2), "AD")
    stage.lie(stage.vote("C", PRECOMMIT, v, 2), "AD")
    stage.carry(PREVOTE, 2, to="AD")
    stage.heal()
    stage.expect(all(stage.get_decided(each) == w for each in "ABD"), "all decide w")


def _play_newer_polc(stage: Stage) -> None:
    """D is locked on v of round 0; B's w gathers 2f+1 prevotes in round 1, unseen by D.

    C knows them and proposes w with its prevotes: valid round 1 >= locked round 0 frees D.
    """
    _lock_only(stage, "D")
    _settle_nil(stage, 0, "ABC")
    w = stage.get_id(stage.get_proposal(1).block)
    stage.carry(PROPOSAL, 1, to="ACD")
    stage.expect_vote("D", PREVOTE, 1, NIL)
    stage.carry(PREVOTE, 1, by="ABC", to="C")
    stage.expect_vote("C", PRECOMMIT, 1, w)
    _go_on(stage, 1, "ABD")
    proposal = stage.get_proposal(2)
    stage.expect(
        proposal.valid_round == 2 and stage.get_id(proposal.block) == w,
        "C proposes its valid value w with its prevotes",
    )
    stage.carry(PROPOSAL, 2, to="ABD")
    stage.expect_vote("ABCD", PREVOTE, 2, w)
    stage.heal()
    stage.expect(all(stage.get_decided(each) == w for each in "ABCD"), "all decide w")


def _play_lock_moves(stage: Stage) -> None:
    """D is locked on v of round 0 and sees 2f+1 prevotes for w in round 1: its lock moves to w.

    Only then may it go on with w in round 2.
    """
    _lock_only(stage, "D")
    _settle_nil(stage, 0, "ABC")
    w = stage.get_id(stage.get_proposal(1).block)
    stage.carry(PROPOSAL, 1, to="ACD")
    stage.carry(PREVOTE, 1, by="ABC", to="D")
    stage.expect_vote("D", PRECOMMIT, 1, w)
    _go_on(stage, 1, "ABC")
    stage.carry(PROPOSAL, 2, to="ABD")
    third = stage.get_id(stage.get_proposal(2).block)
    stage.expect(third != w, "C, who saw nothing, proposes a block of its own")
    stage.expect_vote("D", PREVOTE, 2, NIL)
    stage.heal()


def _play_nil_does_not_unlock(stage: Stage) -> None:
    """D is locked on v; a round of 2f+1 prevotes for NIL goes by; D still refuses another block."""
    _lock_only(stage, "D")
    _settle_nil(stage, 0, "ABC")
    stage.fire(TimerKind.PROPOSE)  # B's proposal of round 1 reaches nobody in time
    stage.carry(PREVOTE, 1, by="ACD", to="ACD")
    stage.expect_vote("ACD", PRECOMMIT, 1, NIL)
    stage.carry(PRECOMMIT, 1, by="ACD", to="ABCD")
    stage.fire(TimerKind.PRECOMMIT)
    stage.carry(PROPOSAL, 2, to="ABD")
    stage.expect_vote("D", PREVOTE, 2, NIL)
    stage.heal()


def _play_late_polc(stage: Stage) -> None:
    """The prevotes of round 0 are complete at C only after round 1 has begun: too late to lock.

    C's own proposal of round 2 is fresh, and nothing is lost.
    """
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABCD")
    _settle_nil(stage, 0, "ABCD", hear=True)
    stage.carry(PREVOTE, 0, to="C")
    machine = stage.nodes["C"].machine
    assert machine is not None
    stage.expect(machine.round == 1, "C is in round 1")
    stage.expect(not stage.find(PRECOMMIT, 1), "old prevotes lead to no precommit")
    stage.fire(TimerKind.PROPOSE, "ACD")
    stage.carry(PREVOTE, 1, by="ACD", to="ACD")
    stage.expect_vote("ACD", PRECOMMIT, 1, NIL)
    stage.carry(PRECOMMIT, 1, by="ACD", to="ABCD")
    stage.fire(TimerKind.PRECOMMIT)
    stage.expect(stage.get_id(stage.get_proposal(2).block) != v, "C has no valid value")
    stage.heal()


def _play_valid_value_kept(stage: Stage) -> None:
    """C precommits NIL and sees 2f+1 prevotes for v only then: v is valid, and C is not locked.

    In its turn C proposes v with its prevotes.
    """
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABCD")
    stage.carry(PREVOTE, 0, by="D", to="C")
    stage.fire(TimerKind.PREVOTE)
    _settle_nil(stage, 0, "ABCD", hear=True, go_on=False)
    stage.expect_vote("C", PRECOMMIT, 0, NIL)
    stage.carry(PREVOTE, 0, to="C")
    stage.carry(PRECOMMIT, 0, to="ABCD")
    stage.fire(TimerKind.PRECOMMIT)
    stage.fire(TimerKind.PROPOSE, "ACD")
    stage.carry(PREVOTE, 1, by="ACD", to="ACD")
    stage.carry(PRECOMMIT, 1, by="ACD", to="ABCD")
    stage.fire(TimerKind.PRECOMMIT)
    proposal = stage.get_proposal(2)
    stage.expect(
        proposal.valid_round == 1 and stage.get_id(proposal.block) == v,
        "C proposes v with the prevotes of round 0",
    )
    stage.heal()
    stage.expect(all(stage.get_decided(each) == v for each in "ABCD"), "all decide v")


def _settle_nil(
    stage: Stage, round_: int, who: str, *, hear: bool = False, go_on: bool = True
) -> None:
    """These get differing prevotes, precommit NIL when their timer runs out, and go on."""
    if hear:
        # Everybody prevoted the block; each hears two others at most, then time is up.
        for position, letter in enumerate(who):
            stage.carry(PREVOTE, round_, by=who[(position + 1) % len(who)], to=letter)
    _force_prevote_timer(stage, round_, who)
    if go_on:
        stage.carry(PRECOMMIT, round_, to=stage.honest)
        stage.fire(TimerKind.PRECOMMIT)


def _force_prevote_timer(stage: Stage, round_: int, who: str) -> None:
    """The prevote timer runs out at these, as if it had been set by votes that came to nothing."""
    for letter in who:
        machine = stage.nodes[letter].machine
        assert machine is not None
        timer = Timer(TimerKind.PREVOTE, machine.height, round_)
        stage.tell(letter, TimeoutFired(timer))


def _go_on(stage: Stage, round_: int, who: str) -> None:
    """These see no quorum in the round; everybody's precommits arrive and the next round begins."""
    _force_prevote_timer(stage, round_, who)
    stage.carry(PRECOMMIT, round_, to=stage.honest)
    stage.fire(TimerKind.PRECOMMIT)


# Liars as proposers ------------------------------------------------------------------------------


def _play_split_proposal(stage: Stage) -> None:
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


def _play_invalid_block(stage: Stage) -> None:
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


def _play_block_ahead_of_the_clock(stage: Stage) -> None:
    """A's clock is a minute fast: its fresh block gets NIL, the next proposer's does not."""
    late = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="BCD")
    stage.expect_vote("BCD", PREVOTE, 0, NIL)
    stage.heal(heights=1)
    stage.expect(stage.get_decided("B") != late, "the block from the future is not decided")


# Rounds ------------------------------------------------------------------------------------------


def _play_left_behind(stage: Stage) -> None:
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


def _play_decision_of_a_past_round(stage: Stage) -> None:
    """Only A sees the precommits of round 0; they decide at the others in round 1 all the same."""
    v = stage.get_id(stage.get_proposal(0).block)
    stage.carry(PROPOSAL, 0, to="ABCD")
    stage.carry(PREVOTE, 0, to="ABC")
    stage.carry(PRECOMMIT, 0, by="BC", to="A")
    stage.expect(stage.get_decided("A") == v, "A decides")
    _force_prevote_timer(stage, 0, "D")
    stage.carry(PRECOMMIT, 0, by="BD", to="BCD")
    stage.carry(PRECOMMIT, 0, by="C", to="BD")
    stage.fire(TimerKind.PRECOMMIT, "BCD")
    stage.carry(PRECOMMIT, 0, by="A", to="BCD")
    stage.expect(all(stage.get_decided(each) == v for each in "BCD"), "late precommits decide")
    stage.heal()


def _play_last_words(stage: Stage) -> None:
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


def _play_lock_survives(stage: Stage) -> None:
    """D locks v, goes down, comes back from its disk, and prevotes NIL for w."""
    _lock_only(stage, "D")
    stage.restart("D")
    _settle_nil(stage, 0, "ABC")
    stage.carry(PROPOSAL, 1, to="ACD")
    stage.expect_vote("D", PREVOTE, 1, NIL)
    stage.heal()


def _play_crash_before_sending(stage: Stage) -> None:
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


def _play_crash_after_proposing(stage: Stage) -> None:
    """A proposes, goes down, and comes back with another clock: it proposes nothing else."""
    stage.nodes["A"].skew_ms = 5_000
    stage.restart("A")
    stage.fire(TimerKind.NEW_HEIGHT, "A")
    stage.get_proposal(0)  # there is one only
    stage.heal()


SCRIPTS: dict[str, Script] = {
    "hidden-lock": Script(_play_hidden_lock, liars="C"),
    "stale-polc": Script(_play_stale_polc, liars="C"),
    "newer-polc": Script(_play_newer_polc),
    "lock-moves": Script(_play_lock_moves),
    "nil-does-not-unlock": Script(_play_nil_does_not_unlock),
    "late-polc": Script(_play_late_polc),
    "valid-value-kept": Script(_play_valid_value_kept),
    "split-proposal": Script(_play_split_proposal, liars="A"),
    "invalid-block": Script(_play_invalid_block, liars="A"),
    "block-ahead-of-the-clock": Script(_play_block_ahead_of_the_clock, clocks_ms=(60_000, 0, 0, 0)),
    "left-behind": Script(_play_left_behind),
    "last-words": Script(_play_last_words, liars="D"),
    "decision-of-a-past-round": Script(_play_decision_of_a_past_round),
    "lock-survives": Script(_play_lock_survives),
    "crash-before-sending": Script(_play_crash_before_sending),
    "crash-after-proposing": Script(_play_crash_after_proposing),
}
