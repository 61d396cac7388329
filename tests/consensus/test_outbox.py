"""The order of effects: nothing signed leaves before the journal that holds it."""

from __future__ import annotations

from milepost_consensus.encoding import decode
from milepost_consensus.events import (
    Broadcast,
    Effect,
    NeedTransactions,
    PersistJournal,
)
from milepost_consensus.journal import Journal, make_journal
from milepost_consensus.keyguard import Place
from milepost_consensus.outbox import Outbox
from milepost_consensus.tally import Tally
from milepost_consensus.votes import NIL, PREVOTE
from tests.support.validators import Validators

FOUR = Validators(4)
VOTES = FOUR.make_votes((0, 1, 2), PREVOTE, NIL)


class Desk:
    """An outbox whose journal carries the number of the call that made it as its round."""

    def __init__(self) -> None:
        self.calls = 0
        self.outbox = Outbox(self.make)

    def make(self) -> Journal:
        self.calls += 1
        return make_journal(
            Tally(3),
            height=1,
            round_=self.calls,
            step=2,
            locked=None,
            valid=None,
            mark=Place(1, self.calls, PREVOTE),
            sender=b"",
        )


def get_calls(effects: list[Effect]) -> list[int | type[Effect]]:
    """Types of the effects, journals by the number of their call."""
    return [
        decode(Journal, effect.data).round if isinstance(effect, PersistJournal) else type(effect)
        for effect in effects
    ]


def test_no_journal_where_nothing_was_signed() -> None:
    desk = Desk()
    relayed = Broadcast(VOTES[0])
    desk.outbox.add(relayed, NeedTransactions(1, 0))
    assert desk.outbox.take() == [relayed, NeedTransactions(1, 0)]
    assert (desk.calls, desk.outbox.take()) == (0, [])


def test_one_journal_covers_all_that_a_call_signs() -> None:
    desk = Desk()
    desk.outbox.add(NeedTransactions(1, 0))
    desk.outbox.send_signed(VOTES[0])
    desk.outbox.add(NeedTransactions(1, 1))
    desk.outbox.send_signed(VOTES[1])
    assert get_calls(desk.outbox.take()) == [
        NeedTransactions,
        1,
        Broadcast,
        NeedTransactions,
        Broadcast,
    ]


def test_each_part_of_a_call_has_its_own_journal() -> None:
    desk = Desk()
    desk.outbox.send_signed(VOTES[0])
    desk.outbox.cover()
    desk.outbox.add(NeedTransactions(2, 0))
    desk.outbox.send_signed(VOTES[1])
    assert get_calls(desk.outbox.take()) == [1, Broadcast, NeedTransactions, 2, Broadcast]
