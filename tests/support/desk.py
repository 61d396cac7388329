"""One machine among validators that a test plays: events in, effects looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import encode
from milepost_consensus.events import (
    Broadcast,
    Effect,
    Event,
    PersistJournal,
    ReceivedProposal,
    ReceivedVote,
    SetTimer,
    Start,
    TimeoutFired,
    Timer,
    TimerKind,
    TransactionsWaiting,
)
from milepost_consensus.journal import make_journal
from milepost_consensus.keyguard import Place
from milepost_consensus.state import LedgerState
from milepost_consensus.tally import Tally
from milepost_consensus.votes import NIL, PRECOMMIT, Proposal, Vote
from tests.support.validators import GENESIS_MS, Validators

NOW_MS = GENESIS_MS + 60_000

E = TypeVar("E")


class Desk:
    """Validator `me` of `validators`, at height 1 unless it starts from another state."""

    def __init__(
        self,
        validators: Validators,
        me: int = 0,
        *,
        state: LedgerState | None = None,
        journal: bytes | None = None,
        last_certificate: Certificate | None = None,
        wiped: bool = False,
        key_in_use: bool = False,
        restored: bool = False,
    ) -> None:
        """Above genesis the journal is by default that of a validator that was always there; a
        `wiped` one has none, nor has a `restored` one, which is told so."""
        if state is not None and journal is None and not (wiped or restored):
            journal = make_past_journal(state.height)
        self.validators = validators
        self.public = validators.signers[me].public
        self.machine = validators.make_machine(
            me,
            state,
            journal=journal,
            certificate=last_certificate,
            key_in_use=key_in_use,
            restored=restored,
        )
        self.journal = journal

    def tell(self, event: Event) -> list[Effect]:
        """Hand over one event; the journal is kept as an adapter would."""
        effects = self.machine.handle(event)
        for effect in effects:
            if isinstance(effect, PersistJournal):
                self.journal = effect.data
        return effects

    def start(self) -> list[Effect]:
        """Begin the height and enter its round 0."""
        self.tell(Start(NOW_MS))
        self.tell(TransactionsWaiting())
        return self.fire(TimerKind.NEW_HEIGHT)

    def fire(self, kind: TimerKind, round_: int | None = None) -> list[Effect]:
        """Let a timer of a round, by default the machine's, run out."""
        round_ = self.machine.round if round_ is None else round_
        return self.tell(TimeoutFired(Timer(kind, self.machine.height, round_)))

    def hear(self, *messages: Vote | Proposal) -> list[Effect]:
        """Receive messages one after the other; all effects in a row."""
        effects: list[Effect] = []
        for message in messages:
            if isinstance(message, Vote):
                effects += self.tell(ReceivedVote(message))
            else:
                effects += self.tell(ReceivedProposal(message, NOW_MS))
        return effects

    def hear_votes(
        self, senders: Sequence[int], type_: int, block_id: bytes, *, round_: int | None = None
    ) -> list[Effect]:
        """Receive a vote of each sender, by default in the machine's round."""
        round_ = self.machine.round if round_ is None else round_
        return self.hear(*self.validators.make_votes(senders, type_, block_id, round_=round_))

    def next_round(self) -> list[Effect]:
        """Leave the round as if it had failed for the three others."""
        self.hear_votes((1, 2, 3), PRECOMMIT, NIL)
        return self.fire(TimerKind.PRECOMMIT)

    def said(self, effects: Sequence[Effect]) -> list[tuple[int, int, bytes]]:
        """Own votes among broadcasts: type, round, block id."""
        return [
            (message.type, message.round, message.block_id)
            for message in get_messages(effects)
            if isinstance(message, Vote) and message.sender == self.public
        ]

    def id(self, block: Block) -> bytes:
        """The id of a block."""
        return self.validators.get_id(block)


def make_past_journal(height: int) -> bytes:
    """The journal of a validator whose last signature was a precommit of this decided height."""
    return encode(
        make_journal(
            Tally(1),
            height=height,
            round_=0,
            step=PRECOMMIT,
            locked=None,
            valid=None,
            mark=Place(height, 0, PRECOMMIT),
            sender=b"",
        )
    )


def pick(effects: Sequence[Effect], kind: type[E]) -> list[E]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def get_messages(effects: Sequence[Effect]) -> list[Vote | Proposal]:
    """What is broadcast, in order."""
    return [effect.message for effect in pick(effects, Broadcast)]


def get_timers(effects: Sequence[Effect]) -> list[tuple[TimerKind, int, int]]:
    """Timers that are set: kind, round, delay in milliseconds."""
    return [(e.timer.kind, e.timer.round, e.delay_ms) for e in pick(effects, SetTimer)]
