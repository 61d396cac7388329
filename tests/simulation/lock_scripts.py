"""Directed schedules about locks, valid values and the prevotes that justify a proposal."""

from __future__ import annotations

from milepost_consensus.events import TimerKind
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Vote
from tests.simulation.stage import PROPOSAL, Stage


def play_hidden_lock(stage: Stage) -> None:
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


def play_stale_polc(stage: Stage) -> None:
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


def play_newer_polc(stage: Stage) -> None:
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


def play_lock_moves(stage: Stage) -> None:
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


def play_nil_does_not_unlock(stage: Stage) -> None:
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


def play_lock_survives(stage: Stage) -> None:
    """D locks v, goes down, comes back from its disk, and prevotes NIL for w."""
    _lock_only(stage, "D")
    stage.restart("D")
    _settle_nil(stage, 0, "ABC")
    stage.carry(PROPOSAL, 1, to="ACD")
    stage.expect_vote("D", PREVOTE, 1, NIL)
    stage.heal()


def play_late_polc(stage: Stage) -> None:
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


def play_valid_value_kept(stage: Stage) -> None:
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
    stage.force_prevote_timer(round_, who)
    if go_on:
        stage.carry(PRECOMMIT, round_, to=stage.honest)
        stage.fire(TimerKind.PRECOMMIT)


def _go_on(stage: Stage, round_: int, who: str) -> None:
    """These see no quorum in the round; everybody's precommits arrive and the next round begins."""
    stage.force_prevote_timer(round_, who)
    stage.carry(PRECOMMIT, round_, to=stage.honest)
    stage.fire(TimerKind.PRECOMMIT)


def _lock_only(stage: Stage, letter: str, round_: int = 0) -> bytes:
    """All prevote the round's block, but only one sees that and locks; the others precommit NIL.

    Returns the block's id.
    """
    block_id = stage.get_id(stage.get_proposal(round_).block)
    stage.carry(PROPOSAL, round_, to=stage.honest)
    stage.carry(PREVOTE, round_, to=letter)
    stage.expect_vote(letter, PRECOMMIT, round_, block_id)
    return block_id
