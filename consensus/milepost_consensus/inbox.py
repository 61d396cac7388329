"""What the other validators say, checked once and sorted by height and round.

A message of the height at work goes to the tally, one of the next height waits if it belongs to
its first rounds, one from above says that we are behind, one from below is dropped.  A copy of what
is known is dropped before its signature costs anything, so relays are cheap.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.admission import validate_proposal, validate_turn, validate_vote
from milepost_consensus.blocks import compute_block_id
from milepost_consensus.events import (
    Behind,
    Broadcast,
    Effect,
    Equivocation,
    Message,
    ReceivedProposal,
    ReceivedVote,
)
from milepost_consensus.members import compute_quorum
from milepost_consensus.rules import get_proposer
from milepost_consensus.state import LedgerState
from milepost_consensus.tally import PROPOSAL, ROUNDS_AHEAD, ROUNDS_BEHIND, Seen, Tally
from milepost_consensus.votes import PRECOMMIT, PREVOTE, Proposal, Vote

EARLY_ROUNDS: Final = 2
"""Rounds of the next height whose messages are kept until it starts."""

Received = ReceivedProposal | ReceivedVote


class Inbox:
    """Messages of one height, and the first ones of the next.

    `spoken` tells whether a validator has said anything in this height.
    """

    def __init__(self, state: LedgerState, last_precommits: tuple[Vote, ...]) -> None:
        self._early: dict[tuple[int, int, bytes], Received] = {}
        self._claims: dict[bytes, int] = {}  # the highest height a validator spoke of
        self._state = state
        self.open(state, last_precommits)

    def open(self, state: LedgerState, last_precommits: tuple[Vote, ...]) -> None:
        """Turn to the height after `state`, which `last_precommits` made final."""
        early, self._early = self._early, {}
        if state.height != self._state.height + 1:
            early = {}  # they are of another height, or were checked against another set
        self._state = state
        self._height = state.height + 1
        self._last_precommits = last_precommits
        self._gossips = 0
        self._straggler = False
        self.spoken = False
        self.tally = Tally(compute_quorum(len(state.validators)))
        for event in early.values():
            if self._is_in_turn(event):
                self._accept(event, round_=0)

    def receive(self, event: Received, *, round_: int) -> list[Effect]:
        """Take in a message while `round_` is at work; raises InvalidInput for a bad one."""
        message = get_message(event)
        if message.height > self._height:
            return self._receive_early(event, message)
        if message.height < self._height:
            # A prevote this late is said by somebody who has not seen the certificate.
            late = message.height == self._height - 1 and _get_type(message) == PREVOTE
            self._straggler |= late and self._gossips > 0
            return []
        if self._is_settled(message, round_):
            return []
        self._validate(message)
        return self._accept(event, round_=round_)

    def relay(self, round_: int) -> list[Effect]:
        """What to say again while `round_` is at work, and whom to ask for a block."""
        self._gossips += 1
        self._claims.clear()  # who is still ahead may say so again
        known: list[Message] = [*self.tally.get_proposals(round_ - 1)]
        known += self.tally.get_votes(round_ - 1)
        if self._straggler:
            known += self._last_precommits
            self._straggler = False
        effects: list[Effect] = [Broadcast(message) for message in known]
        for final_round, block_id in self.tally.get_quorums(PRECOMMIT):
            # Final, and yet not decided here: the block never came.  Ask the voters in turn.
            votes = self.tally.get_votes_for(final_round, PRECOMMIT, block_id)
            effects.append(Behind(self._height + 1, votes[self._gossips % len(votes)].sender))
        return effects

    def keep_proposal(self, proposal: Proposal, *, timely: bool) -> None:
        """Tally a proposal that was checked, or made here."""
        block_id = compute_block_id(proposal.block.header, self._state.network)
        self.tally.add_proposal(Seen(proposal, block_id, timely))

    def _receive_early(self, event: Received, message: Message) -> list[Effect]:
        key = (_get_type(message), message.round, message.sender)
        kept = message.height == self._height + 1 and message.round < EARLY_ROUNDS
        news = message.height > self._claims.get(message.sender, 0)
        if not news and (not kept or key in self._early):
            return []
        self._validate(message)
        if kept:
            self._early.setdefault(key, event)
        if not news:
            return []
        self._claims[message.sender] = message.height
        return [Behind(message.height, message.sender)]

    def _is_settled(self, message: Message, round_: int) -> bool:
        """Whether a message of this height changes nothing, whoever really signed it."""
        if message.round > round_ + ROUNDS_AHEAD:
            return self.tally.get_heard(message.sender) >= message.round
        first = self.get_first(message)
        return (
            message.round < round_ - ROUNDS_BEHIND
            or (first is not None and is_same(first, message))
            or self.tally.is_accused(message.round, _get_type(message), message.sender)
        )

    def _validate(self, message: Message) -> None:
        ahead = message.height > self._height
        validators = self._state.next_validators if ahead else self._state.validators
        if isinstance(message, Vote):
            validate_vote(message, validators, self._state.network)
            return
        if not ahead:  # the order of turns may change with the next height
            validate_turn(message, self._state)
        validate_proposal(message, validators, self._state.network)

    def _is_in_turn(self, event: Received) -> bool:
        """Whether an early message counts, now that its height is here."""
        if isinstance(event, ReceivedVote):
            return True
        proposer = get_proposer(self._state, event.proposal.height, event.proposal.round)
        return event.proposal.sender == proposer.id

    def _accept(self, event: Received, *, round_: int) -> list[Effect]:
        message = get_message(event)
        self.spoken = True
        if message.round > round_ + ROUNDS_AHEAD:
            self.tally.hear(message.sender, message.round)
            return []
        first = self.get_first(message)
        if first is not None:
            self.tally.accuse(message.round, _get_type(message), message.sender)
            return [Equivocation(first, message)]
        if isinstance(event, ReceivedVote):
            self.tally.add_vote(event.vote)
        else:
            ahead_ms = event.proposal.block.header.time_ms - event.now_ms
            timely = ahead_ms <= self._state.params.max_clock_drift_ms
            self.keep_proposal(event.proposal, timely=timely)
        return []

    def get_first(self, message: Message) -> Message | None:
        """What is known in this message's place; the message is of the height at work."""
        if isinstance(message, Vote):
            return self.tally.get_vote(message.round, message.type, message.sender)
        seen = self.tally.proposals.get(message.round)
        return None if seen is None else seen.proposal


def get_message(event: Received) -> Message:
    """The message that an event brings."""
    return event.vote if isinstance(event, ReceivedVote) else event.proposal


def _get_type(message: Message) -> int:
    return message.type if isinstance(message, Vote) else PROPOSAL


def is_same(first: Message, second: Message) -> bool:
    """Whether two messages of one sender, round and type say the same."""
    if isinstance(first, Vote) or isinstance(second, Vote):
        assert isinstance(first, Vote)
        assert isinstance(second, Vote)
        return first.block_id == second.block_id
    return (first.valid_round, first.block.header) == (second.valid_round, second.block.header)
