"""Counting: one vote a head, one quorum a round, nothing kept for ever."""

from __future__ import annotations

import pytest

from milepost_consensus.tally import Seen, Tally
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE
from tests.support.validators import Validators

FOUR = Validators(4)
BLOCK, _ = FOUR.make_block()
BLOCK_ID = FOUR.get_id(BLOCK)


def test_a_quorum_is_2f_plus_1_for_the_same() -> None:
    tally = Tally(3)
    for i, block_id in enumerate((BLOCK_ID, NIL, BLOCK_ID)):
        tally.add_vote(FOUR.make_vote(i, PREVOTE, block_id))
        assert tally.count(0, PREVOTE) == i + 1
    assert tally.get_quorum(0, PREVOTE) is None
    tally.add_vote(FOUR.make_vote(3, PREVOTE, BLOCK_ID))
    assert tally.get_quorum(0, PREVOTE) == BLOCK_ID
    assert tally.get_quorum(0, PRECOMMIT) is None
    assert tally.get_quorum(1, PREVOTE) is None
    assert [v.sender for v in tally.get_votes_for(0, PREVOTE, BLOCK_ID)] == [
        FOUR.signers[i].public for i in (0, 2, 3)
    ]


def test_nobody_votes_twice() -> None:
    tally = Tally(3)
    tally.add_vote(FOUR.make_vote(0, PREVOTE, BLOCK_ID))
    with pytest.raises(AssertionError):
        tally.add_vote(FOUR.make_vote(0, PREVOTE, NIL))


def test_reached_is_the_highest_round_of_so_many() -> None:
    tally = Tally(3)
    assert tally.get_reached(1) == -1
    for i, round_ in enumerate((5, 3, 9)):
        tally.add_vote(FOUR.make_vote(i, PREVOTE, NIL, round_=round_))
    tally.add_vote(FOUR.make_vote(2, PREVOTE, NIL, round_=1))
    assert [tally.get_reached(count) for count in (1, 2, 3, 4)] == [9, 5, 3, -1]


def test_rounds_left_behind_are_forgotten() -> None:
    tally = Tally(3)
    tally.add_proposal(Seen(FOUR.make_proposal(BLOCK), BLOCK_ID, True))
    for i in range(3):
        tally.add_vote(FOUR.make_vote(i, PRECOMMIT, BLOCK_ID))
        tally.add_vote(FOUR.make_vote(i, PRECOMMIT, NIL, round_=1))
    tally.accuse(0, PRECOMMIT, b"someone")
    tally.drop_below(1)
    assert tally.get_block(BLOCK_ID) is None
    assert tally.get_quorum(0, PRECOMMIT) is None
    assert tally.get_quorum(1, PRECOMMIT) == NIL
    assert tally.get_quorums(PRECOMMIT) == [], "a quorum for NIL makes nothing final"
    assert {vote.round for vote in tally.get_votes(0)} == {1}
    assert not tally.is_accused(0, PRECOMMIT, b"someone")
