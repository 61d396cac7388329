"""A network in which a script says which message arrives where and which timer fires.

Validators go by the letters A to D in the order of their turns, so that A proposes in round 0, B in
round 1 and so on.  Liars have no machine: the script signs for them.  The laws of the monitors hold
here as everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from milepost_consensus.blocks import Block
from milepost_consensus.events import (
    BlockFetched,
    Broadcast,
    Effect,
    Equivocation,
    Event,
    GossipDue,
    Message,
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
from milepost_consensus.votes import Proposal, Vote
from tests.simulation.chain_laws import ChainLaws
from tests.simulation.monitor import Monitor, Violation
from tests.simulation.nodes import Node
from tests.simulation.options import Options
from tests.simulation.signing import SimSigner
from tests.support.validators import Validators, make_signer

PROPOSAL = 0
HEAL_STEPS = 400


class Stage:
    """Four validators at the begin of height 1, round 0, where the proposer has not been heard."""

    def __init__(self, options: Options, *, liars: str = "", clocks_ms: Sequence[int] = ()) -> None:
        make: Callable[[str], SimSigner] = SimSigner
        self.validators = Validators(
            options.count, make=make_signer if options.real_signatures else make
        )
        letters = "ABCDEFG"[: options.count]
        self.index = {letter: self.validators.get_turn(1, i) for i, letter in enumerate(letters)}
        self.letters = "".join(sorted(letters, key=lambda letter: self.index[letter]))
        self.honest = "".join(letter for letter in letters if letter not in liars)
        honest = [self.index[letter] for letter in self.honest]
        self.monitor = Monitor(self.validators, honest)
        self.laws = ChainLaws(self.validators, honest, options)
        self.nodes = {
            letter: Node(self.index[letter], self.index[letter], self.validators.state, honest=True)
            for letter in self.honest
        }
        for letter, clock_ms in zip(letters, clocks_ms, strict=False):
            if letter in self.nodes:
                self.nodes[letter].skew_ms = clock_ms
        self.pool: list[Message] = []
        """Everything that was said, in order."""
        self.caught: list[Equivocation] = []
        self.events = 0
        self.trace = hashlib.sha256()
        self._heard: set[tuple[str, bytes]] = set()
        self._known: set[bytes] = set()
        self._timers: dict[str, list[Timer]] = {letter: [] for letter in self.honest}
        for letter in self.honest:
            self.boot(letter)
        self.fire(TimerKind.NEW_HEIGHT)

    # Processes -----------------------------------------------------------------------------------

    def boot(self, letter: str) -> None:
        """Start a node from what it has on disk."""
        node = self.nodes[letter]
        node.machine = self.validators.make_machine(
            node.index,
            state=node.state,
            journal=node.journal,
            certificate=node.chain[-1][1] if node.chain else None,
        )
        self._timers[letter] = []
        self.tell(letter, Start(node.get_clock_ms(0)))
        self.tell(letter, TransactionsWaiting())

    def restart(self, letter: str) -> None:
        """Crash a node and start it again; it says again what it has."""
        self.boot(letter)
        self.tell(letter, GossipDue())

    def tell(self, letter: str, event: Event, *, until: type[Effect] | None = None) -> None:
        """Hand over an event; with `until` the node goes down before such an effect."""
        node = self.nodes[letter]
        assert node.machine is not None
        self.events += 1
        self.trace.update(f"{letter} {type(event).__name__} ".encode())
        for effect in node.machine.handle(event):
            if until is not None and isinstance(effect, until):
                return
            self._do(letter, node, effect)

    def _do(self, letter: str, node: Node, effect: Effect) -> None:
        if isinstance(effect, PersistJournal):
            node.write(effect)
            self.monitor.on_journal(node.index, effect.data)
        elif isinstance(effect, PersistDecision):
            before = node.state
            node.write(effect)
            self.monitor.on_decision(effect)
            self.laws.on_decision(before, effect)
        elif isinstance(effect, Broadcast):
            self.monitor.on_broadcast(effect.message)
            self._keep(effect.message)
        elif isinstance(effect, SetTimer):
            self._timers[letter].append(effect.timer)
        elif isinstance(effect, NeedTransactions):
            answer = ProposalInput(effect.height, effect.round, (), node.get_clock_ms(0))
            self.tell(letter, answer)
        elif isinstance(effect, Equivocation):
            self.monitor.on_equivocation(effect)
            self.caught.append(effect)

    def _keep(self, message: Message) -> None:
        if message.signature not in self._known:
            self._known.add(message.signature)
            self.pool.append(message)
            self.trace.update(message.signature)

    # What a script does --------------------------------------------------------------------------

    def fire(self, kind: TimerKind, who: str | None = None) -> None:
        """The pending timers of a kind run out."""
        for letter in self.honest if who is None else who:
            pending = self._timers[letter]
            due = [timer for timer in pending if timer.kind is kind]
            self._timers[letter] = [timer for timer in pending if timer.kind is not kind]
            for timer in due:
                self.tell(letter, TimeoutFired(timer))

    def force_prevote_timer(self, round_: int, who: str) -> None:
        """The prevote timer runs out at these, as if votes that came to nothing had set it."""
        for letter in who:
            machine = self.nodes[letter].machine
            assert machine is not None
            self.tell(letter, TimeoutFired(Timer(TimerKind.PREVOTE, machine.height, round_)))

    def lie(self, message: Message, to: str) -> None:
        """Somebody without a machine says something to some."""
        self.monitor.on_broadcast(message)
        self.hand(message, to)

    def hand(self, message: Message, to: str) -> None:
        """A message arrives."""
        for letter in to:
            node = self.nodes.get(letter)
            if node is None or node.machine is None or self.index[letter] == self._who(message):
                continue
            self._heard.add((letter, message.signature))
            if isinstance(message, Vote):
                self.tell(letter, ReceivedVote(message))
            else:
                self.tell(letter, ReceivedProposal(message, node.get_clock_ms(0)))

    def carry(self, type_: int, round_: int, *, by: str | None = None, to: str) -> None:
        """What these senders said in a round of height 1 arrives at those."""
        for message in self.find(type_, round_, by=by):
            self.hand(message, to)

    def find(self, type_: int, round_: int, *, by: str | None = None) -> list[Message]:
        """What was said of one type and round of height 1."""
        senders = None if by is None else [self.index[letter] for letter in by]
        return [
            message
            for message in self.pool
            if (message.height, message.round) == (1, round_)
            and (message.type if isinstance(message, Vote) else PROPOSAL) == type_
            and (senders is None or self._who(message) in senders)
        ]

    def _who(self, message: Message) -> int:
        return next(i for i, s in enumerate(self.validators.signers) if s.public == message.sender)

    def vote(self, letter: str, type_: int, block_id: bytes, round_: int) -> Vote:
        """A liar's vote."""
        return self.validators.make_vote(self.index[letter], type_, block_id, round_=round_)

    def get_proposal(self, round_: int) -> Proposal:
        """The proposal of a round by an honest proposer."""
        (proposal,) = self.find(PROPOSAL, round_)
        assert isinstance(proposal, Proposal)
        return proposal

    def get_id(self, block: Block) -> bytes:
        return self.validators.get_id(block)

    # What a script expects -----------------------------------------------------------------------

    def expect(self, holds: bool, what: str) -> None:
        """The guard that the script is about."""
        if not holds:
            raise Violation(f"script: {what}")

    def expect_vote(self, who: Iterable[str], type_: int, round_: int, block_id: bytes) -> None:
        """Each of these has cast this vote."""
        for letter in who:
            said = [m.block_id for m in self.find(type_, round_, by=letter) if isinstance(m, Vote)]
            self.expect(
                said == [block_id],
                f"{letter} voted {[each.hex()[:6] for each in said]} (type {type_}) in round"
                f" {round_}, {block_id.hex()[:6]} was due",
            )

    def get_decided(self, letter: str) -> bytes | None:
        """The block of height 1 that a node has made final."""
        chain = self.nodes[letter].chain
        return self.get_id(chain[0][0]) if chain else None

    def heal(self, *, heights: int = 2, without: str = "") -> None:
        """Everything said arrives everywhere, relays and timers work, all decide in lock step."""
        active = [letter for letter in self.honest if letter not in without]
        for _ in range(HEAL_STEPS):
            if all(self.nodes[letter].height >= heights for letter in active):
                return
            for letter in active:
                self.tell(letter, TransactionsWaiting())
                self.tell(letter, GossipDue())
            self._deliver_all(active)
            self._serve(active)
            for kind in TimerKind:
                for letter in active:
                    self.fire(kind, letter)
                self._deliver_all(active)
        reached = {letter: self.nodes[letter].height for letter in active}
        raise Violation(f"L1: after {HEAL_STEPS} steps without faults the heights are {reached}")

    def _deliver_all(self, active: list[str]) -> None:
        """Until nobody has anything new to say."""
        position = 0
        while position < len(self.pool):
            message = self.pool[position]
            position += 1
            for letter in active:
                if (letter, message.signature) not in self._heard:
                    self.hand(message, letter)

    def _serve(self, active: list[str]) -> None:
        """Who has fewer blocks gets those of who has most."""
        best = max((self.nodes[letter] for letter in active), key=lambda node: node.height)
        for letter in active:
            for block, certificate, _ in best.chain[self.nodes[letter].height :]:
                self.tell(letter, BlockFetched(block, certificate))
