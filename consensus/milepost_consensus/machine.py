"""The agreement machine: Tendermint, Algorithm 1 of arXiv:1807.04938, events in, effects out.

The law.  h, r and step are ours; 2f+1 is more than two thirds of the validators; id(v) names a
block and covers every byte of it; "first" means once per round.  Rules bear the algorithm's lines.

    rule  upon                                   while               then
    11    round r starts                                             proposer: propose the valid
                                                                     value with its prevotes, or ask
                                                                     for transactions to make one;
                                                                     all: propose timer (r)
    22    fresh proposal v of r                  step = propose      prevote id(v) if v is valid and
                                                                     we are unlocked or locked on v,
                                                                     otherwise NIL
    28    proposal v of r with 2f+1 prevotes     step = propose      prevote id(v) if v is valid and
          (vr, id(v)), vr < r                                        locked round <= vr or locked on
                                                                     v, otherwise NIL
    34    2f+1 prevotes of r                     step = prevote,     prevote timer (r)
                                                 first
    36    2f+1 prevotes (r, id(v)), v valid      step >= prevote,    valid value = (v, r) and, while
                                                 first               step = prevote: lock (v, r),
                                                                     precommit id(v)
    44    2f+1 prevotes (r, NIL)                 step = prevote      precommit NIL
    47    2f+1 precommits of r                   first               precommit timer (r)
    49    2f+1 precommits (any round, id(v)),                        decide v, go on to height h + 1
          v valid
    55    f+1 validators spoke in rounds > r                         start the highest round that
                                                                     f+1 reached
    57    propose timer (r)                      step = propose      prevote NIL
    61    prevote timer (r)                      step = prevote      precommit NIL
    65    precommit timer (r)                                        start round r + 1

A vote takes the step of its name.  Where the algorithm is silent or we differ:

* 11: the proposer sets the propose timer too, since its transactions come from outside.
* 22, 28: a fresh block must not lie too far ahead of the clock.  2f+1 prevotes say that it did not,
  so 28, 36 and 49 do not look at the clock and agree on every machine.
* 36, 49: any proposal of the height may have brought the block, since id(v) fixes it.
* A height begins with step = new-height.  Round 0 starts once min_block_ms have passed and there is
  something to do: transactions wait, an empty block is due, or a validator spoke in this height.
  f+1 of them start it at once, by rule 55.  An idle chain says nothing.
* Relay: all that is known of the rounds from r - 1 on is said again on GossipDue, so that one lost
  message never leaves anybody one vote short.
* Persist before send: a PersistJournal stands before the first message that a call signs, and
  where one signed by us is known already, nothing else is signed in its place.
* Nothing is signed before Start, in quarantine, or once the key is seen in other hands (keyguard):
  before Start only rule 49 applies, then the steps are taken and no votes cast.

An event that breaks a rule raises an InvalidInput and leaves the machine as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import assert_never

from milepost_consensus.beacon import Onion
from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import get_precommits, make_certificate, verify_certificate
from milepost_consensus.crypto import Signer
from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidBlock, InvalidInput
from milepost_consensus.events import (
    BlockFetched,
    Effect,
    Event,
    GossipDue,
    NeedTransactions,
    PersistDecision,
    PersistJournal,
    ProposalInput,
    ReceivedProposal,
    ReceivedVote,
    SetTimer,
    Start,
    TimeoutFired,
    Timer,
    TimerKind,
    TransactionsWaiting,
)
from milepost_consensus.inbox import Inbox, get_message
from milepost_consensus.journal import (
    Backed,
    Journal,
    get_backed,
    make_first_journal,
    make_guard,
    make_journal,
)
from milepost_consensus.keyguard import Signing
from milepost_consensus.keywatch import KeyWatch
from milepost_consensus.members import compute_fault_limit, compute_quorum
from milepost_consensus.outbox import Outbox
from milepost_consensus.rules import build_block, get_block_delay_ms, validate_block
from milepost_consensus.state import LedgerState
from milepost_consensus.tally import ROUNDS_BEHIND
from milepost_consensus.voice import Voice
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE


class Step(IntEnum):
    """Where in a round the machine is; the later ones mean that this vote was cast."""

    NEW_HEIGHT = 0
    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3


class Machine:
    """One validator's, or mere follower's, part in the agreement.

    `onion` is what it reveals when it proposes; without one it passes where a reveal is owed.
    `journal` is the data of the last PersistJournal and `last_certificate` that of the block at
    `state.height`; `key_in_use` tells that a KeyInUse came in the past, `restored` that the
    machine's home comes from a backup.  Attributes are for reading.  Raises InvalidEncoding for a
    damaged journal.
    """

    state: LedgerState
    height: int
    """The height at work, one above the state's."""
    round: int
    step: Step
    _locked: Backed | None
    _valid: Backed | None

    def __init__(
        self,
        state: LedgerState,
        signer: Signer,
        onion: Onion | None = None,
        *,
        journal: bytes | None = None,
        last_certificate: Certificate | None = None,
        key_in_use: bool = False,
        restored: bool = False,
    ) -> None:
        kept = None if journal is None else decode(Journal, journal)
        self._guard = make_guard(
            kept,
            state.height,
            key_in_use=key_in_use,
            restored_among=len(state.validators) if restored else 0,
        )
        self._outbox = Outbox(self._make_journal)
        self._rules: tuple[Callable[[], bool], ...] = (
            self._rule_49_decide,
            self._rule_55_skip,
            self._rule_new_height,
            self._rule_22_fresh_proposal,
            self._rule_28_backed_proposal,
            self._rule_36_lock,
            self._rule_44_nil,
            self._rule_34_prevotes,  # no timer where 36 or 44 have moved on
            self._rule_47_precommits,
        )
        last = get_precommits(last_certificate, state.last_validators) if last_certificate else ()
        self._inbox = Inbox(state, last)
        parts = self._guard, self._inbox, self._outbox
        self._voice = Voice(signer, onion, *parts)
        self._watch = KeyWatch(signer.public, state.network, *parts)
        self._enter_height(state)
        if kept is not None:
            self._restore(kept)

    @property
    def signing(self) -> Signing:
        """Whether this machine signs, and if not, why."""
        return self._guard.get_signing(self.height)

    def handle(self, event: Event) -> list[Effect]:
        """What the event calls for, in order.  Raises InvalidInput for one that breaks a rule."""
        match event:
            case Start():
                if self._guard.start():
                    self._outbox.add(PersistJournal(encode(make_first_journal())))
                if self.step is Step.NEW_HEIGHT:
                    self._set_timer(TimerKind.NEW_HEIGHT, self.state.params.min_block_ms)
            case ReceivedVote() | ReceivedProposal():
                message = get_message(event)
                if not self._watch.examine(message, height=self.height, round_=self.round):
                    self._outbox.add(*self._inbox.receive(event, round_=self.round))
            case TimeoutFired():
                self._on_timeout(event.timer)
            case TransactionsWaiting():
                self._wanted = True
            case ProposalInput():
                self._on_input(event)
            case BlockFetched():
                self._on_fetched(event.block, event.certificate)
            case GossipDue():
                self._outbox.add(*self._inbox.relay(self.round))
            case _:
                assert_never(event)
        rules = self._rules if self._guard.started else (self._rule_49_decide,)
        while any(rule() for rule in rules):
            pass
        return self._outbox.take()

    # The rules: each returns whether it did something -------------------------------------------

    def _rule_new_height(self) -> bool:
        if self.step is not Step.NEW_HEIGHT or not (self._rested and self._is_wanted()):
            return False
        self._start_round(0)
        return True

    def _rule_22_fresh_proposal(self) -> bool:
        seen = self._tally.proposals.get(self.round)
        if self.step is not Step.PROPOSE or seen is None or seen.proposal.valid_round:
            return False
        free = self._locked is None or self._locked.block_id == seen.block_id
        good = free and seen.timely and self._is_valid(seen.block_id)
        self._vote(PREVOTE, seen.block_id if good else NIL)
        return True

    def _rule_28_backed_proposal(self) -> bool:
        seen = self._tally.proposals.get(self.round)
        if self.step is not Step.PROPOSE or seen is None or not seen.proposal.valid_round:
            return False
        valid_round = seen.proposal.valid_round - 1  # the inbox checked its 2f+1 prevotes
        free = (
            self._locked is None
            or self._locked.round <= valid_round
            or self._locked.block_id == seen.block_id
        )
        good = free and self._is_valid(seen.block_id)
        self._vote(PREVOTE, seen.block_id if good else NIL)
        return True

    def _rule_34_prevotes(self) -> bool:
        if self.step is not Step.PREVOTE or self._tally.count(self.round, PREVOTE) < self._quorum:
            return False
        return self._set_round_timer(TimerKind.PREVOTE)

    def _rule_36_lock(self) -> bool:
        first = self._valid is None or self._valid.round < self.round
        block_id = self._tally.get_quorum(self.round, PREVOTE)
        block = None if block_id is None else self._get_block(block_id)
        if not first or self.step < Step.PREVOTE or block_id is None or block is None:
            return False
        if not self._is_valid(block_id):
            return False
        polc = self._tally.get_votes_for(self.round, PREVOTE, block_id)
        self._valid = Backed(self.round, block_id, block, polc)
        if self.step is Step.PREVOTE:
            self._locked = self._valid
            self._vote(PRECOMMIT, block_id)
        return True

    def _rule_44_nil(self) -> bool:
        if self.step is not Step.PREVOTE or self._tally.get_quorum(self.round, PREVOTE) != NIL:
            return False
        self._vote(PRECOMMIT, NIL)
        return True

    def _rule_47_precommits(self) -> bool:
        if self._tally.count(self.round, PRECOMMIT) < self._quorum:
            return False
        return self._set_round_timer(TimerKind.PRECOMMIT)

    def _rule_49_decide(self) -> bool:
        for round_, block_id in self._tally.get_quorums(PRECOMMIT):
            block, after = self._get_block(block_id), self._get_after(block_id)
            if block is not None and after is not None:
                precommits = self._tally.get_votes_for(round_, PRECOMMIT, block_id)
                certificate = make_certificate(precommits, self.state.validators)
                self._decide(block, certificate, after, live=self._is_heard())
                return True
        return False

    def _rule_55_skip(self) -> bool:
        reached = self._tally.get_reached(compute_fault_limit(len(self.state.validators)) + 1)
        if reached <= (-1 if self.step is Step.NEW_HEIGHT else self.round):
            return False
        self._start_round(reached)
        return True

    def _on_timeout(self, timer: Timer) -> None:
        if (timer.height, timer.round) != (self.height, self.round):
            return
        match timer.kind:
            case TimerKind.NEW_HEIGHT:
                self._on_rested()
            case TimerKind.IDLE:
                self._wanted = True
            case TimerKind.PROPOSE:  # rule 57
                if self.step is Step.PROPOSE:
                    self._vote(PREVOTE, NIL)
            case TimerKind.PREVOTE:  # rule 61
                if self.step is Step.PREVOTE:
                    self._vote(PRECOMMIT, NIL)
            case TimerKind.PRECOMMIT:  # rule 65
                self._start_round(self.round + 1)
            case _:
                assert_never(timer.kind)

    # Heights and rounds -------------------------------------------------------------------------

    def _enter_height(self, state: LedgerState) -> None:
        self.state = state
        self.height = state.height + 1
        self.round = 0
        self.step = Step.NEW_HEIGHT
        self._quorum = compute_quorum(len(state.validators))
        self._tally = self._inbox.tally
        self._locked = self._valid = None
        self._after: dict[bytes, LedgerState | None] = {}  # None: the block breaks a rule
        self._timed: set[TimerKind] = set()
        self._rested = self._wanted = False

    def _is_wanted(self) -> bool:
        return self._wanted or self._inbox.spoken

    def _on_rested(self) -> None:
        self._rested = True
        delay_ms = get_block_delay_ms(self.state)
        if delay_ms is not None and not self._is_wanted():
            self._set_timer(TimerKind.IDLE, max(0, delay_ms - self.state.params.min_block_ms))

    def _start_round(self, round_: int) -> None:
        """Rule 11."""
        self.round = round_
        self.step = Step.PROPOSE
        self._timed = set()
        self._tally.drop_below(round_ - ROUNDS_BEHIND)
        self._after = {i: s for i, s in self._after.items() if self._get_block(i) is not None}
        self._set_round_timer(TimerKind.PROPOSE)
        if self._voice.is_my_turn(self.state, round_):
            if self._valid is None:
                self._outbox.add(NeedTransactions(self.height, round_))
            else:
                self._voice.propose(self.state, round_, self._valid)

    def _on_input(self, event: ProposalInput) -> None:
        """Rule 11, the fresh value."""
        asked = (event.height, event.round) == (self.height, self.round)
        my_turn = asked and self._voice.is_my_turn(self.state, self.round)
        if not my_turn or self.step is not Step.PROPOSE:
            return
        reveal = self._voice.get_reveal(self.state, self.round)
        if reveal is None:
            return
        block, after = build_block(
            self.state,
            round=self.round,
            proposer=self._voice.key,
            txs=event.txs,
            time_ms=event.now_ms,
            reveal=reveal,
        )
        block_id = compute_block_id(block.header, self.state.network)
        self._after[block_id] = after
        self._voice.propose(self.state, self.round, Backed(-1, block_id, block, ()))

    def _on_fetched(self, block: Block, certificate: Certificate) -> None:
        header = block.header
        if header.height < self.height:
            return
        if header.prev_id != self.state.last_id:
            raise InvalidBlock(
                f"block {header.height} does not follow our block {self.state.height},"
                f" {self.state.last_id.hex()[:16]}"
            )
        verify_certificate(certificate, header, self.state.validators, self.state.network)
        after = validate_block(self.state, block, now_ms=None)
        if self._guard.examines_fetched:
            # Otherwise it is no news that this key signed, and being behind restarts quarantine.
            precommits = get_precommits(certificate, self.state.validators)
            self._watch.examine(*precommits, height=self.height, round_=self.round)
            self._watch.examine_proposer(block)
        self._decide(block, certificate, after, live=False)

    def _decide(
        self, block: Block, certificate: Certificate, after: LedgerState, *, live: bool
    ) -> None:
        self._outbox.cover()
        self._guard.on_decided(self.height, live=live)
        self._outbox.add(PersistDecision(block, certificate, after))
        self._inbox.open(after, get_precommits(certificate, self.state.validators))
        self._enter_height(after)
        self._set_timer(TimerKind.NEW_HEIGHT, after.params.min_block_ms)

    def _is_heard(self) -> bool:
        """Whether so many others spoke at this height that one of them is honest and up to date."""
        needed = 2 * compute_fault_limit(len(self.state.validators)) + 1
        return self._tally.count_others(self._voice.key) >= needed

    # Votes and timers ---------------------------------------------------------------------------

    def _vote(self, type_: int, block_id: bytes) -> None:
        """Take the step of the vote, and cast it if we have one and may."""
        self.step = Step.PREVOTE if type_ == PREVOTE else Step.PRECOMMIT
        self._voice.vote(self.state, self.round, type_, block_id)

    def _set_round_timer(self, kind: TimerKind) -> bool:
        """Start a timer of the round, the first time; returns whether it was the first."""
        if self.step is Step.NEW_HEIGHT or kind in self._timed:
            return False
        self._timed.add(kind)
        params = self.state.params
        delay_ms = params.timeout_ms + self.round * params.timeout_step_ms
        self._set_timer(kind, min(delay_ms, params.timeout_cap_ms))
        return True

    def _set_timer(self, kind: TimerKind, delay_ms: int) -> None:
        self._outbox.add(SetTimer(Timer(kind, self.height, self.round), delay_ms))

    # Blocks -------------------------------------------------------------------------------------

    def _get_block(self, block_id: bytes) -> Block | None:
        for backed in (self._locked, self._valid):
            if backed is not None and backed.block_id == block_id:
                return backed.block
        return self._tally.get_block(block_id)

    def _get_after(self, block_id: bytes) -> LedgerState | None:
        """The state after a block; None if the block is unknown or breaks a ledger rule."""
        block = self._get_block(block_id)
        if block is not None and block_id not in self._after:
            try:
                self._after[block_id] = validate_block(self.state, block, now_ms=None)
            except InvalidInput:
                self._after[block_id] = None
        return self._after.get(block_id)

    def _is_valid(self, block_id: bytes) -> bool:
        return self._get_after(block_id) is not None

    # The journal --------------------------------------------------------------------------------

    def _make_journal(self) -> Journal:
        assert self._guard.mark is not None
        return make_journal(
            self._tally,
            height=self.height,
            round_=self.round,
            step=self.step,
            locked=self._locked,
            valid=self._valid,
            mark=self._guard.mark,
            sender=self._voice.key,
        )

    def _restore(self, journal: Journal) -> None:
        assert journal.height <= self.height, "the chain lost a block that the journal builds on"
        if journal.height < self.height:
            return
        self.round, self.step = journal.round, Step(journal.step)
        self._locked, self._valid = get_backed(journal, self.state.network)
        for proposal in journal.proposals:
            self._inbox.keep_proposal(proposal, timely=True)
        for vote in journal.votes:
            self._tally.add_vote(vote)
