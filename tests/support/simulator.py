"""A network of machines in one thread, with faults drawn from a seed.

Time is a number of milliseconds that jumps from event to event.  A plan says which faults happen;
until `calm_ms` messages are lost, late, doubled and cut off by partitions, nodes crash at any
effect and come back with what they had persisted, and validator 0 may lie: it runs twice under one
key, and a liar signs whatever it has seen.  Then the faults stop, and every honest validator has to
get two heights further than the first of them was.

After every effect the laws of `Monitor` hold, or a Violation names the seed that replays the
schedule exactly.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    Behind,
    BlockFetched,
    Broadcast,
    Effect,
    Equivocation,
    Event,
    GossipDue,
    KeyInUse,
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
    TransactionsWaiting,
)
from milepost_consensus.machine import Machine
from milepost_consensus.members import compute_quorum
from milepost_consensus.params import Params
from milepost_consensus.state import LedgerState
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE, Proposal, Vote
from tests.support.monitor import Monitor, Violation
from tests.support.twins import Heedless
from tests.support.validators import GENESIS_MS, Validators

PARAMS = Params(
    min_block_ms=20, idle_block_ms=20, timeout_ms=150, timeout_step_ms=50, timeout_cap_ms=600
)
GOSSIP_MS = 120
POLL_MS = 900
ASK_MS = 90
PATIENCE_MS = 60_000
"""How long after the faults stop everybody may take."""


@dataclass(frozen=True)
class Plan:
    """Which faults a schedule has."""

    name: str
    count: int = 4
    calm_ms: int = 1_500
    max_delay_ms: int = 120
    drop_permille: int = 100
    duplicate_permille: int = 50
    cut_ms: int = 0
    """A new partition, or none, about this often; 0 for never."""
    aligned_permille: int = 0
    """Share of links that are cut for all messages of one height, round and type."""
    crash_ms: int = 0
    """A crash somewhere about this often; 0 for never."""
    blackout_ms: int = 0
    """All nodes go down at once about this often; 0 for never."""
    fuse: int | None = None
    """Node 1 goes down before its effect of this number, counted from 0."""
    precommit_crash_permille: int = 0
    """How often a node goes down right when it precommits."""
    twin: bool = False
    liar_ms: int = 0
    """A lie about this often; 0 for never."""
    left_out: bool = False
    """Until the faults stop the last validator is cut off, and the others, whose proposals are
    lost, leave it rounds behind."""
    silent: bool = False
    """Validator 0 is gone for good when the faults stop, so that all the others are needed."""
    wipe_ms: int = 0
    """The last validator loses its disk about this often; 0 for never."""


class Node:
    """A validator's process and its disk.  `machine` is None while it is down."""

    def __init__(self, name: int, identity: int, state: LedgerState, *, honest: bool) -> None:
        self.name = name
        self.identity = identity
        self.honest = honest
        self.genesis = state
        self.machine: Machine | None = None
        self.life = 0
        self.fuse: int | None = None
        self.journal: bytes | None = None
        self.chain: list[tuple[Block, Certificate, LedgerState]] = []
        self.is_new = True
        self.answers: set[int] = set()
        """Validators that told in this life what blocks they have."""

    @property
    def state(self) -> LedgerState:
        return self.chain[-1][2] if self.chain else self.genesis


class Simulation:
    """One schedule.  `run` returns when all honest nodes are where they have to get."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.seed = seed
        self.random = random.Random(f"{plan.name} {seed}")
        self.validators = Validators(plan.count, PARAMS)
        lying = plan.twin or plan.liar_ms > 0 or plan.silent
        identities = [*range(plan.count), *([0] if plan.twin else [])]
        self.nodes = [
            Node(name, i, self.validators.state, honest=not (lying and i == 0))
            for name, i in enumerate(identities)
        ]
        honest = [self.validators.signers[i].public for i in range(1 if lying else 0, plan.count)]
        self.monitor = Monitor(self.validators, honest)
        self.skews = [self.random.randrange(-4_000, 4_000) for _ in self.nodes]
        self.now_ms = 0
        self.events = 0
        self.trace = hashlib.sha256()
        self.goal: int | None = None
        self._quorum = compute_quorum(plan.count)
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._cut: set[tuple[int, int]] = set()
        self._aligned: dict[tuple[int, ...], bool] = {}

    def run(self) -> None:
        """Play the schedule; raises Violation with the seed where a law is broken."""
        try:
            self.nodes[1].fuse = self.plan.fuse
            for node in self.nodes:
                self._boot(node)
            for every_ms, act in (
                (self.plan.cut_ms, self._partition),
                (self.plan.crash_ms, self._light_fuse),
                (self.plan.blackout_ms, self._black_out),
                (self.plan.liar_ms, self._lie),
                (self.plan.wipe_ms, self._wipe),
            ):
                if every_ms:
                    self._repeat(every_ms, act)
            self._at(self.plan.calm_ms, self._calm_down)
            while self._queue and not self._is_done():
                self.now_ms, _, act = heapq.heappop(self._queue)
                if self.now_ms > self.plan.calm_ms + PATIENCE_MS:
                    raise Violation(f"no progress: heights {self._get_heights()}")
                act()
        except (Violation, AssertionError) as error:
            raise Violation(
                f"plan {self.plan.name}, seed {self.seed}, at {self.now_ms} ms: {error}"
            ) from error

    def _get_heights(self) -> list[int]:
        return [node.state.height for node in self.nodes if node.honest]

    def _is_done(self) -> bool:
        return self.goal is not None and min(self._get_heights()) >= self.goal

    def _is_calm(self) -> bool:
        return self.goal is not None

    def _calm_down(self) -> None:
        self.goal = max(self._get_heights()) + 2
        self._cut.clear()
        if self.plan.silent:
            self.nodes[0].machine = None
            self.nodes[0].life = -1

    def _chance(self, permille: int) -> bool:
        return self.random.randrange(1_000) < permille

    def _at(self, delay_ms: int, act: Callable[[], None]) -> None:
        self.events += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self.events, act))

    def _repeat(self, every_ms: int, act: Callable[[], None]) -> None:
        def again() -> None:
            if not self._is_calm():
                act()
                self._repeat(every_ms, act)

        self._at(self.random.randrange(1, 2 * every_ms), again)

    # Nodes ---------------------------------------------------------------------------------------

    def _boot(self, node: Node) -> None:
        if node.life < 0:
            return
        node.machine = self.validators.make_machine(
            node.identity,
            node.state,
            journal=node.journal,
            certificate=node.chain[-1][1] if node.chain else None,
            kind=Machine if node.honest else Heedless,
        )
        self._tell(node, TransactionsWaiting())
        if node.is_new and node.life:
            # It starts once so many have told where they are that something could be decided.
            self._tick(node, ASK_MS, lambda: self._fetch(node, self.random.choice(self.nodes)))
        else:
            listen_ms = self.random.randrange(300) if node.life else 0
            self._later(node, listen_ms, lambda: Start(self._clock(node)))
        self._tick(node, GOSSIP_MS, lambda: self._tell(node, GossipDue()))
        self._tick(node, POLL_MS, lambda: self._fetch(node, self.random.choice(self.nodes)))

    def _tick(self, node: Node, every_ms: int, act: Callable[[], None]) -> None:
        life = node.life

        def again() -> None:
            if node.life == life and node.machine is not None:
                self._at(every_ms, again)
                act()

        self._at(self.random.randrange(1, every_ms), again)

    def _clock(self, node: Node) -> int:
        return GENESIS_MS + 10_000 + self.now_ms + self.skews[node.name]

    def _tell(self, node: Node, event: Event, *, trusted: bool = True) -> None:
        """Hand over an event; `trusted` ones come from honest nodes and are never refused."""
        if node.machine is None:
            return
        self.trace.update(f"{self.now_ms} {node.name} {event!r}\n".encode())
        try:
            effects = node.machine.handle(event)
        except InvalidInput as error:
            if trusted and node.honest:
                raise Violation(f"node {node.name} refused an honest node: {error}") from error
            return
        for effect in effects:
            if node.fuse == 0:
                self._crash(node)
                return
            node.fuse = None if node.fuse is None else node.fuse - 1
            self._carry_out(node, effect)

    def _crash(self, node: Node, away_ms: int = 0) -> None:
        node.machine, node.fuse = None, None
        node.is_new = node.journal is None and not node.chain
        node.answers.clear()
        node.life += 1
        self._at(away_ms + self.random.randrange(1, 400), lambda: self._boot(node))

    def _later(self, node: Node, delay_ms: int, make: Callable[[], Event]) -> None:
        life = node.life

        def act() -> None:
            if node.life == life:
                self._tell(node, make())

        self._at(delay_ms, act)

    def _carry_out(self, node: Node, effect: Effect) -> None:
        match effect:
            case PersistJournal():
                node.journal = effect.data
                self.monitor.on_journal(effect.data)
            case PersistDecision():
                node.chain.append((effect.block, effect.certificate, effect.state))
                if node.honest:
                    self.monitor.on_decision(effect)
                if self.goal is None or effect.state.height < self.goal:
                    self._later(node, 0, TransactionsWaiting)
            case Broadcast():
                self.monitor.on_broadcast(node.identity, effect.message)
                for peer in self.nodes:
                    if peer.identity != node.identity:
                        self._send(node, peer, effect.message)
                if self._chance(self._get_precommit_crash(node, effect.message)):
                    node.fuse = 0
            case SetTimer(timer, delay_ms):
                self._later(node, delay_ms, lambda: TimeoutFired(timer))
            case NeedTransactions(height, round_):
                self._later(
                    node,
                    self.random.randrange(5),
                    lambda: ProposalInput(height, round_, (), self._clock(node)),
                )
            case Behind():
                for peer in self.nodes:
                    if self.validators.signers[peer.identity].public == effect.sender:
                        self._fetch(node, peer)
            case Equivocation():
                if node.honest:
                    self.monitor.on_equivocation(effect)
            case KeyInUse(text):
                raise Violation(f"node {node.name} takes its own past for somebody else: {text}")

    # The wire ------------------------------------------------------------------------------------

    def _send(self, node: Node, peer: Node, message: Message) -> None:
        copies = 1
        if not self._is_calm():
            if self._is_cut(node, peer, message) or self._chance(self.plan.drop_permille):
                return
            copies += self._chance(self.plan.duplicate_permille)
        for _ in range(copies):
            slow_ms = 10 if self._is_calm() else self.plan.max_delay_ms
            self._at(
                self.random.randrange(1, slow_ms + 1),
                lambda: self._deliver(peer, message, trusted=node.honest),
            )

    def _deliver(self, peer: Node, message: Message, *, trusted: bool) -> None:
        event = (
            ReceivedVote(message)
            if isinstance(message, Vote)
            else ReceivedProposal(message, self._clock(peer))
        )
        self._tell(peer, event, trusted=trusted)

    def _is_cut(self, node: Node, peer: Node, message: Message) -> bool:
        last = self.plan.count - 1
        if (node.name, peer.name) in self._cut:
            return True
        if self.plan.left_out and (isinstance(message, Proposal) or last in (node.name, peer.name)):
            return True
        if not self.plan.aligned_permille:
            return False
        kind = message.type if isinstance(message, Vote) else 0
        key = (node.name, peer.name, message.height, message.round, kind)
        if key not in self._aligned:
            self._aligned[key] = self._chance(self.plan.aligned_permille)
        return self._aligned[key]

    def _fetch(self, node: Node, peer: Node) -> None:
        left_out = self.plan.left_out and not self._is_calm()
        if (peer.name, node.name) in self._cut or peer.machine is None or left_out:
            return
        missing = peer.chain[node.state.height :]
        life = node.life

        def arrive() -> None:
            if node.life == life:
                node.answers.add(peer.identity)
                if node.is_new and len(node.answers | {node.identity}) == self._quorum:
                    self._later(node, 0, lambda: Start(self._clock(node)))
                for block, certificate, _ in missing:
                    self._tell(node, BlockFetched(block, certificate), trusted=peer.honest)

        self._at(self.random.randrange(1, 50), arrive)

    # Faults --------------------------------------------------------------------------------------

    def _partition(self) -> None:
        self._cut.clear()
        style = self.random.randrange(4)
        names = [node.name for node in self.nodes]
        sides = [self.random.randrange(2) for _ in names]
        for a in names:
            for b in names:
                if (style == 1 and sides[a] != sides[b]) or (style == 2 and self._chance(350)):
                    self._cut.add((a, b))
        if style == 3:  # one node hears nothing
            deaf = self.random.choice(names)
            self._cut.update((name, deaf) for name in names)

    def _light_fuse(self) -> None:
        node = self.random.choice(self.nodes)
        if node.machine is not None and node.fuse is None:
            node.fuse = self.random.randrange(6)

    def _black_out(self) -> None:
        for node in self.nodes:
            if node.machine is not None:
                self._crash(node)

    def _wipe(self) -> None:
        """The disk is lost, and the node is away for longer than any message travels."""
        node = self.nodes[self.plan.count - 1]
        if node.machine is not None and min(self._get_heights()) > 0:
            node.journal, node.chain = None, []
            self._crash(node, self.plan.max_delay_ms)

    def _get_precommit_crash(self, node: Node, message: Message) -> int:
        own = message.sender == self.validators.signers[node.identity].public
        precommit = own and isinstance(message, Vote) and message.type == PRECOMMIT
        return 0 if self._is_calm() or not precommit else self.plan.precommit_crash_permille

    def _lie(self) -> None:
        """The liar signs something for a place where an honest node is, and sends it to some."""
        liar = self.nodes[0]
        place = self.random.choice(self.nodes).machine
        if place is None:
            return
        height, round_ = place.height, place.round + self.random.randrange(2)
        backed = [
            (proposal.block, polc)
            for proposal in self.monitor.get_proposals(height)
            for polc in self.monitor.get_polcs(height, round_, proposal)
        ]
        message: Message
        if backed and self.validators.get_turn(height, round_) == 0:
            block, polc = self.random.choice(backed)
            message = self.validators.make_proposal(block, round_=round_, polc=polc)
        else:
            ids = [self.validators.get_id(p.block) for p in self.monitor.get_proposals(height)]
            message = self.validators.make_vote(
                0,
                self.random.choice((PREVOTE, PRECOMMIT)),
                self.random.choice([*ids, NIL]),
                round_=round_,
                height=height,
            )
        self.monitor.on_broadcast(0, message)
        for peer in self.nodes:
            if peer.identity != 0 and self._chance(500):
                self._send(liar, peer, message)
