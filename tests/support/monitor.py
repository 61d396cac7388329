"""The laws that a schedule of the simulator must never break."""

from __future__ import annotations

from collections.abc import Sequence

from milepost_consensus.certificates import verify_certificate
from milepost_consensus.encoding import decode
from milepost_consensus.events import Equivocation, Message, PersistDecision
from milepost_consensus.journal import Journal
from milepost_consensus.members import compute_quorum
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote, get_claim
from tests.support.validators import Validators


class Violation(Exception):
    """A law was broken, or nothing moves."""


class Monitor:
    """Sees every decision and every message of all nodes, and knows which of them are honest.

    Agreement; certificates that verify; equal states; no two messages of one honest validator for
    the same type, height and round, whatever it went through; nothing sent that no journal
    holds; no prevote against a lock without 2f+1 newer prevotes; no honest validator accused.
    """

    def __init__(self, validators: Validators, honest: Sequence[bytes]) -> None:
        self._validators = validators
        self._honest = frozenset(honest)
        self._quorum = compute_quorum(len(validators.signers))
        self._decided: dict[int, tuple[bytes, bytes]] = {}
        self._signed: dict[tuple[bytes, int, int, int], object] = {}
        self._prevotes: dict[tuple[int, int, bytes], dict[bytes, Vote]] = {}
        self._proposals: dict[tuple[int, bytes], Proposal] = {}
        self._persisted: set[bytes] = set()
        self._locks: dict[tuple[bytes, int], Vote] = {}

    def on_decision(self, decision: PersistDecision) -> None:
        """An honest node made a block final."""
        header = decision.block.header
        verify_certificate(
            decision.certificate,
            header,
            self._validators.state.validators,
            self._validators.network,
        )
        outcome = (decision.certificate.block_id, decision.state.root)
        first = self._decided.setdefault(header.height, outcome)
        if first != outcome or decision.state.last_id != outcome[0]:
            raise Violation(f"two blocks are final at height {header.height}")

    def on_equivocation(self, caught: Equivocation) -> None:
        """An honest node accuses somebody."""
        if caught.first.sender in self._honest:
            raise Violation("an honest validator is accused")

    def on_journal(self, data: bytes) -> None:
        """A node has a journal on disk."""
        journal = decode(Journal, data)
        self._persisted.update(vote.signature for vote in journal.votes)
        self._persisted.update(proposal.signature for proposal in journal.proposals)

    def on_broadcast(self, identity: int, message: Message) -> None:
        """A node sends or relays a message."""
        if isinstance(message, Vote) and message.type == PREVOTE:
            key = (message.height, message.round, message.block_id)
            self._prevotes.setdefault(key, {})[message.sender] = message
        if isinstance(message, Proposal):
            block_id = self._validators.get_id(message.block)
            self._proposals.setdefault((message.height, block_id), message)
        me = self._validators.signers[identity].public
        if me in self._honest and me == message.sender:
            self._check_own(message)

    def _check_own(self, message: Message) -> None:
        kind = message.type if isinstance(message, Vote) else 0
        place = (message.sender, kind, message.height, message.round)
        says: object = message
        if isinstance(message, Proposal):
            says = get_claim(message, message.sender, self._validators.network)
        if place not in self._signed:
            if message.signature not in self._persisted:
                raise Violation("a message leaves that no journal holds")
            if isinstance(message, Vote):
                self._check_lock(message)
        if self._signed.setdefault(place, says) != says:
            raise Violation(f"an honest validator signed twice: {place}")

    def _check_lock(self, vote: Vote) -> None:
        if vote.block_id == NIL:
            return
        key = (vote.sender, vote.height)
        if vote.type == PRECOMMIT:
            self._locks[key] = vote
            return
        lock = self._locks.get(key)
        if lock is None or lock.block_id == vote.block_id:
            return
        backing = (
            self._prevotes.get((vote.height, round_, vote.block_id), {})
            for round_ in range(lock.round, vote.round)
        )
        if all(len(senders) < self._quorum for senders in backing):
            raise Violation(f"a lock of round {lock.round} was broken in round {vote.round}")

    def get_proposals(self, height: int) -> list[Proposal]:
        """One proposal of each block that anybody sent at a height."""
        return [proposal for (h, _), proposal in self._proposals.items() if h == height]

    def get_polcs(self, height: int, below: int, proposal: Proposal) -> list[tuple[Vote, ...]]:
        """Quorums of prevotes for a proposal's block in rounds below the given one."""
        block_id = self._validators.get_id(proposal.block)
        found = (self._prevotes.get((height, r, block_id), {}) for r in range(below))
        return [tuple(votes.values()) for votes in found if len(votes) >= self._quorum]
