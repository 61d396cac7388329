"""The laws of agreement: what no schedule may show, checked with every message and decision.

    S1   no two honest nodes make different blocks final at one height
    S2   no two blocks of a height can get a certificate from all that anybody has signed
    S4   no honest validator signs two different things for one type, height and round, across
         crashes and the loss of its disk, or anything at a height that is not its to decide; and
         nothing leaves that its disk does not hold
    S5   nobody honest prevotes against its lock without 2f+1 newer prevotes
    S12  nobody honest is accused of equivocation
    S13  a machine holds a bounded number of things

The laws of the ledger are in chain_laws.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from milepost_consensus.events import Equivocation, Message, PersistDecision
from milepost_consensus.inbox import EARLY_ROUNDS
from milepost_consensus.machine import Machine
from milepost_consensus.members import compute_quorum
from milepost_consensus.state import LedgerState
from milepost_consensus.tally import ROUNDS_AHEAD, ROUNDS_BEHIND
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.validators import Validators

GOSSIPS_BETWEEN_MEASURES = 16


class Violation(Exception):
    """A law was broken, or nothing moves."""


class Monitor:
    """Sees every decision and the first copy of every message of all nodes."""

    def __init__(self, validators: Validators, honest: Sequence[int]) -> None:
        self._validators = validators
        self._honest = frozenset(validators.signers[i].public for i in honest)
        self._sets = {1: frozenset(member.id for member in validators.state.validators)}
        """Who decides each height, as far as the chain goes."""
        self._decided: dict[int, tuple[bytes, bytes]] = {}
        self._seen: set[bytes] = set()
        self._signed: dict[tuple[bytes, int, int, int], bytes] = {}
        self._votes: dict[tuple[int, int, int, bytes], dict[bytes, Vote]] = {}
        self._certifiable: dict[int, bytes] = {}
        self._proposals: dict[int, dict[bytes, Proposal]] = {}
        self._journals: dict[bytes, list[bytes]] = {}
        self._locks: dict[tuple[bytes, int], Vote] = {}
        self._gossips = 0

    def on_decision(self, decision: PersistDecision) -> None:
        """An honest node made a block final."""
        header = decision.block.header
        outcome = (decision.certificate.block_id, decision.state.root)
        first = self._decided.setdefault(header.height, outcome)
        if first != outcome or decision.state.last_id != outcome[0]:
            raise Violation(f"S1: two blocks or states are final at height {header.height}")
        ids = frozenset(member.id for member in decision.state.validators)
        self._sets.setdefault(header.height + 1, ids)

    def on_equivocation(self, caught: Equivocation) -> None:
        """An honest node accuses somebody."""
        if caught.first.sender in self._honest:
            raise Violation("S12: an honest validator is accused of equivocation")

    def on_journal(self, identity: int, data: bytes) -> None:
        """An honest node has a journal on disk."""
        self._journals.setdefault(self._validators.signers[identity].public, []).append(data)

    def on_broadcast(self, message: Message) -> None:
        """A node sends or relays a message."""
        if message.signature in self._seen:
            return
        self._seen.add(message.signature)
        if isinstance(message, Vote):
            block_id = message.block_id
            key = (message.height, message.round, message.type, block_id)
            votes = self._votes.setdefault(key, {})
            votes[message.sender] = message
            if message.type == PRECOMMIT and block_id != NIL and self._is_quorum(message, votes):
                self._check_certifiable(message)
        else:
            block_id = self._validators.get_id(message.block)
            self._proposals.setdefault(message.height, {}).setdefault(block_id, message)
        if message.sender in self._honest:
            # Its sender may have said it in a certificate only, and gone down before it sent it.
            self._check_own(message, block_id)

    def _is_quorum(self, subject: Vote | Proposal, votes: Iterable[bytes]) -> bool:
        """Whether these are enough of those who decide the height."""
        validators = self._sets.get(subject.height)
        if validators is None:  # nobody honest is near it yet
            return False
        return len(validators.intersection(votes)) >= compute_quorum(len(validators))

    def _check_certifiable(self, vote: Vote) -> None:
        if self._certifiable.setdefault(vote.height, vote.block_id) != vote.block_id:
            raise Violation(f"S2: two blocks of height {vote.height} can get a certificate")

    def _check_own(self, message: Message, block_id: bytes) -> None:
        """The first copy of a message, from its honest sender."""
        kind, says = 0, block_id
        if isinstance(message, Vote):
            kind = message.type
        else:
            says = block_id + message.valid_round.to_bytes(8, "big")
        place = (message.sender, kind, message.height, message.round)
        if self._signed.setdefault(place, says) != says:
            raise Violation(f"S4: an honest validator signed twice: {place[1:]}")
        if message.sender not in self._sets.get(message.height, ()):
            raise Violation(f"S4: an honest node signs at height {message.height}, not its own")
        journals = reversed(self._journals.get(message.sender, []))
        if not any(message.signature in data for data in journals):
            raise Violation("S4: a message leaves that no journal holds")
        if isinstance(message, Vote):
            self._check_lock(message)

    def _check_lock(self, vote: Vote) -> None:
        if vote.block_id == NIL:
            return
        key = (vote.sender, vote.height)
        lock = self._locks.get(key)
        # A vote that a crash held back may leave long after it was signed.
        late = lock is not None and vote.round <= lock.round
        if vote.type == PRECOMMIT and not late:
            self._locks[key] = vote
        if vote.type == PRECOMMIT or lock is None or late or lock.block_id == vote.block_id:
            return
        backing = (
            self._votes.get((vote.height, round_, PREVOTE, vote.block_id), {})
            for round_ in range(lock.round, vote.round)
        )
        if not any(self._is_quorum(vote, senders) for senders in backing):
            raise Violation(f"S5: a lock of round {lock.round} was broken in round {vote.round}")

    # Memory --------------------------------------------------------------------------------------

    def on_gossip(self, machine: Machine) -> None:
        """A good moment to look at a machine: nothing is half done."""
        self._gossips += 1
        if self._gossips % GOSSIPS_BETWEEN_MEASURES == 0:
            self.check_memory(machine)

    def check_memory(self, machine: Machine) -> None:
        """S13.  Whatever the machine keeps, in whichever attribute, counts."""
        held, limit = measure(machine), compute_limit(len(self._validators.signers))
        if held > limit:
            raise Violation(f"S13: a machine holds {held} things, the limit is {limit}")

    # What liars may know -------------------------------------------------------------------------

    def get_block_ids(self, height: int) -> list[bytes]:
        """The blocks that anybody proposed at a height."""
        return list(self._proposals.get(height, {}))

    def get_proposals(self, height: int) -> list[Proposal]:
        """One proposal of each block that anybody sent at a height."""
        return list(self._proposals.get(height, {}).values())

    def get_polcs(self, height: int, below: int, proposal: Proposal) -> list[tuple[Vote, ...]]:
        """Quorums of prevotes for a proposal's block in rounds below the given one."""
        block_id = self._validators.get_id(proposal.block)
        found = (self._votes.get((height, r, PREVOTE, block_id), {}) for r in range(below))
        return [tuple(votes.values()) for votes in found if self._is_quorum(proposal, votes)]


def compute_limit(count: int) -> int:
    """How many things a machine of `count` validators may hold.

    Per round in reach a vote of each type and an accusation for every validator, a proposal, its
    state and a quorum; early messages of the next height; what everybody was heard of; twice the
    precommits and prevotes of certificate, lock and valid value; and a dozen of its own.
    """
    rounds = ROUNDS_BEHIND + ROUNDS_AHEAD + 2
    per_round = 5 * count + 8
    return rounds * per_round + 3 * EARLY_ROUNDS * count + 8 * count + 64


def measure(machine: Machine) -> int:
    """The number of things in all collections of a machine and the objects that make it up.

    Ledger states and signed messages count as one thing: their size has limits of its own.
    """
    total, waiting, known = 0, deque[object]([machine]), set[int]()
    while waiting:
        value = waiting.popleft()
        if id(value) in known or isinstance(value, LedgerState):
            continue
        known.add(id(value))
        if isinstance(value, dict):
            total += len(value)
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            total += len(value)
            waiting.extend(value)
        elif type(value).__module__.startswith("milepost_consensus.") and hasattr(
            value, "__dict__"
        ):
            waiting.extend(vars(value).values())
        elif hasattr(value, "polc") and not isinstance(value, Proposal):
            waiting.append(value.polc)
    return total
