"""A network of real machines in one thread.

Time is a number of milliseconds that jumps from event to event.  Until `calm_ms` the faults of the
options happen; then they stop, and every honest node has to gain `heights` heights, all that was
submitted its verdict, every change of the membership its effect, and every node that lost its disk
its voice, within the bound of bounds.py.  After every effect the laws of monitor.py and
chain_laws.py hold, or a Violation says which of them does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    Behind,
    Broadcast,
    Effect,
    Equivocation,
    Event,
    GossipDue,
    KeyInUse,
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
    TransactionsWaiting,
)
from milepost_consensus.inbox import get_message
from milepost_consensus.keyguard import Signing
from milepost_consensus.machine import Machine
from milepost_consensus.members import compute_fault_limit
from tests.simulation.bounds import compute_bound_ms
from tests.simulation.chain_laws import ChainLaws
from tests.simulation.council import Council
from tests.simulation.faults import Faults
from tests.simulation.liars import Liars
from tests.simulation.mempools import Mempools
from tests.simulation.monitor import Monitor, Violation
from tests.simulation.nodes import QUEUE_LIMIT, Node
from tests.simulation.options import Options
from tests.simulation.signing import use_signatures
from tests.simulation.submitters import Submitters
from tests.simulation.verifiers import Verifiers
from tests.simulation.wire import Wire
from tests.simulation.world import Report, World
from tests.support.twins import Heedless

EVENT_LIMIT = 2_000_000
"""No schedule needs nearly as many; one that does has a storm in it."""
VERDICT_HEIGHTS = 120
"""Heights that a submission may take: all windows, two extensions and a panel (L5)."""
CHANGE_HEIGHTS = 30
"""Heights that a change of the membership may take until it is in effect."""
RETURN_HEIGHTS = 60
"""L3: heights after the goal within which a node that lost its disk signs again: those while it
listens and catches up, then two in a row that none of its polls brings."""
LISTEN_MS = 300
"""How long a node listens for what its key has said before it signs with it."""


class Simulation(World):
    """One schedule."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        everybody = range(options.count + options.candidates)
        honest = [i for i in everybody if i not in options.liars]
        self.goal = 0
        self.done = False
        self.monitor = Monitor(self.validators, honest)
        self.laws = ChainLaws(self.validators, honest, options)
        self.wire = Wire(self)
        self.faults = Faults(self)
        self.liars = Liars(self)
        self.mempools = Mempools(self)
        self.submitters = Submitters(self)
        self.verifiers = Verifiers(self)
        self.council = Council(self)
        self._deadline_ms = float(1 << 62)

    def run(self) -> Report:
        """Play the schedule to its end; raises Violation where a law is broken."""
        with use_signatures(real=self.options.real_signatures):
            try:
                self.play()
                self.laws.check_end(self.honest)
            except AssertionError as error:
                raise Violation(f"{self._get_place()} an assertion failed: {error!r}") from error
            except Violation as error:
                raise Violation(f"{self._get_place()} {error}") from error
        return Report(
            self.events,
            int(self.now_ms),
            max(node.height for node in self.honest),
            len(self.honest[0].state.verdicts),
            self.trace.hexdigest(),
        )

    def _get_place(self) -> str:
        return f"at {self.now_ms:.0f} ms:"

    def play(self) -> None:
        """The events one after the other, until all is done."""
        self.council.plan()
        for node in self.nodes:
            self.boot(node)
        self.faults.plan()
        self.submitters.plan()
        self.verifiers.plan()
        self.at(self.options.calm_ms, self._calm_down)
        while not self.done and self.step():
            if self.now_ms > self._deadline_ms or self.events > EVENT_LIMIT:
                raise Violation(
                    f"L1: {self.now_ms - self.options.calm_ms:.0f} ms after the faults stopped the"
                    f" heights are {[node.height for node in self.honest]}, not {self.goal}"
                    f" (rounds {[n.machine.round if n.machine else None for n in self.honest]})"
                )

    def _calm_down(self) -> None:
        """The stabilisation time: faults stop, and the time to the goal runs."""
        self.calm = True
        self.goal = max(node.height for node in self.honest) + self.options.heights
        if self.options.silent:
            for node in self.nodes:
                if not node.honest:
                    self.stop(node)
                    node.gone = True
        self.faults.stop()
        options = self.options
        heights = options.heights + RETURN_HEIGHTS * any(node.returning for node in self.honest)
        heights += VERDICT_HEIGHTS * bool(options.runs) + CHANGE_HEIGHTS * len(options.changes)
        self._deadline_ms = self.now_ms + compute_bound_ms(self.options, heights)
        self._check_done()

    def _check_done(self) -> None:
        if not self.calm or any(node.height < self.goal for node in self.honest):
            return
        self.done = self._is_settled() and self.submitters.is_done()
        for node in self.honest:
            if node.returning and node.height > self.goal + RETURN_HEIGHTS:
                raise Violation(f"L3: node {node.index} does not sign since it lost its disk")

    def _is_settled(self) -> bool:
        """Whether nothing is under way that needs further heights and no transaction."""
        return self.council.is_done() and not any(node.returning for node in self.honest)

    # Processes -----------------------------------------------------------------------------------

    def boot(self, node: Node) -> None:
        """Start a node from its disk."""
        if node.machine is not None or node.gone:
            return
        node.machine = self.validators.make_machine(
            node.identity,
            state=node.state,
            journal=node.journal,
            certificate=node.chain[-1][1] if node.chain else None,
            kind=Machine if node.honest else Heedless,
        )
        self.mempools.on_boot(node)
        # With a block, and no journal, a machine knows that it has to wait.
        node.asks &= node.journal is None and not node.chain
        if node.asks:
            node.answered.clear()
            self._listen(node, node.life, self.now_ms + LISTEN_MS)
        else:
            self._start(node)
        self._tick(node, self.options.gossip_ms, self._gossip)
        self._tick(node, self.options.poll_ms, self.wire.poll)
        self.verifiers.on_boot(node)

    def _listen(self, node: Node, life: int, until_ms: float) -> None:
        """Let a node ask for blocks until so many have answered that one knows its past."""
        if node.life != life:
            return
        needed = 2 * compute_fault_limit(len(node.state.validators))
        if self.now_ms >= until_ms and len(node.answered) >= needed:
            self._start(node)
            return
        self.wire.poll(node)
        self.at(LISTEN_MS / 4, self._listen, node, life, until_ms)

    def _start(self, node: Node) -> None:
        self.tell(node, Start(node.get_clock_ms(self.now_ms)))
        self.tell(node, TransactionsWaiting())

    def stop(self, node: Node) -> None:
        """The process is gone; a write that it waited for may or may not have reached the disk."""
        if node.machine is None:
            return
        if node.writing is not None and self.random.random() < 0.5:
            self.write(node, node.writing)
        node.machine, node.fuse, node.writing = None, None, None
        node.busy = False
        node.queue.clear()
        node.life += 1

    def crash(self, node: Node) -> None:
        """Stop a node, and start it again after its time."""
        if node.machine is not None:
            self.stop(node)
            self.at(1 if self.calm else max(1, node.down_ms), self.boot, node)

    def _tick(self, node: Node, every_ms: int, act: Callable[[Node], None]) -> None:
        self.at(
            1 + int(self.random.random() * every_ms), self._again, node, node.life, every_ms, act
        )

    def _again(self, node: Node, life: int, every_ms: int, act: Callable[[Node], None]) -> None:
        if node.life == life:
            self.at(every_ms, self._again, node, life, every_ms, act)
            act(node)

    def _gossip(self, node: Node) -> None:
        if not node.busy:
            self.tell(node, GossipDue())
            self.mempools.on_gossip(node)
            if node.machine is not None and node.honest:
                self.monitor.on_gossip(node.machine)

    # Events --------------------------------------------------------------------------------------

    def tell(self, node: Node, event: Event, trusted: bool = True) -> None:
        """Hand over an event; `trusted` ones come from honest nodes and are never refused."""
        if node.machine is None:
            return
        if node.busy or node.slow_ms:
            message = isinstance(event, ReceivedVote | ReceivedProposal)
            if not message or len(node.queue) < QUEUE_LIMIT:
                node.queue.append((event, trusted))
            if not node.busy:
                node.busy = True
                self.at(self.get_cost_ms(node, event), self._pump, node, node.life)
            return
        self._handle(node, event, trusted)

    def pause(self, node: Node, until_ms: int) -> None:
        """Let a node do nothing until then."""
        node.paused_until_ms = until_ms
        if node.machine is not None and not node.busy:
            node.busy = True
            self.at(until_ms - self.now_ms, self._pump, node, node.life)

    def _pump(self, node: Node, life: int) -> None:
        """Work on what waits."""
        if node.life != life:
            return
        if node.paused_until_ms > self.now_ms:
            self.at(node.paused_until_ms - self.now_ms, self._pump, node, life)
            return
        node.busy = False
        while node.queue and not node.busy and node.machine is not None:
            self._handle(node, *node.queue.popleft())
            if node.slow_ms and node.queue and not node.busy:
                node.busy = True
                self.at(self.get_cost_ms(node, node.queue[0][0]), self._pump, node, node.life)

    def get_cost_ms(self, node: Node, event: Event) -> float:
        """How long a slow node works on an event."""
        return node.slow_ms

    def _handle(self, node: Node, event: Event, trusted: bool) -> None:
        assert node.machine is not None
        self.note(node, event)
        try:
            effects = node.machine.handle(event)
        except InvalidInput as error:
            if trusted and node.honest and not self._is_strange(node, event):
                raise Violation(f"node {node.index} refused an honest node: {error}") from error
            return
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise Violation(f"node {node.index} broke on {event!r:.300}: {error!r}") from error
        if effects:
            self._carry_out(node, effects)

    def _is_strange(self, node: Node, event: Event) -> bool:
        """Whether a message is of a height whose validators a node cannot know yet."""
        if not self.options.changes or not isinstance(event, ReceivedVote | ReceivedProposal):
            return False
        return get_message(event).height > node.height + 2

    # Effects -------------------------------------------------------------------------------------

    def _carry_out(self, node: Node, effects: Sequence[Effect]) -> None:
        life = node.life
        for position, effect in enumerate(effects):
            if node.fuse is not None:
                if node.fuse == 0:
                    self.crash(node)
                    return
                node.fuse -= 1
            if isinstance(effect, PersistJournal | PersistDecision):
                if node.disk_ms:
                    node.busy, node.writing = True, effect
                    self.at(node.disk_ms, self._on_written, node, life, effects[position:])
                    return
                self.write(node, effect)
            else:
                self._do(node, effect)
                if node.life != life:
                    return

    def _on_written(self, node: Node, life: int, effects: Sequence[Effect]) -> None:
        if node.life == life and node.writing is not None:
            node.writing = None
            self.write(node, effects[0])
            self._carry_out(node, effects[1:])
            if node.life == life and node.writing is None:
                self._pump(node, life)

    def write(self, node: Node, effect: Effect) -> None:
        """Something reaches a node's disk."""
        before = node.state
        node.write(effect)
        if isinstance(effect, PersistJournal):
            if node.honest:
                self.monitor.on_journal(node.identity, effect.data)
            return
        assert isinstance(effect, PersistDecision)
        if node.honest:
            self.monitor.on_decision(effect)
            self.laws.on_decision(before, effect)
        self.mempools.on_decision(node, effect)
        self.verifiers.on_decision(node, effect)
        self.council.on_decision(node, effect.state)
        waiting = bool(self.mempools.get_transactions(node)) or not self._is_settled()
        if waiting or not self.calm or effect.state.height < self.goal:
            self.at(0, self._want, node, node.life)
        if self.calm:
            self._check_done()

    def _want(self, node: Node, life: int) -> None:
        if node.life == life:
            self.tell(node, TransactionsWaiting())

    def _do(self, node: Node, effect: Effect) -> None:
        if isinstance(effect, Broadcast):
            message = effect.message
            if self.liars.hides(node, message):
                return
            self.monitor.on_broadcast(message)
            assert node.machine is not None
            if node.returning and node.machine.signing is Signing.ACTIVE:
                own = self.validators.signers[node.identity].public
                node.returning = message.sender != own
            self.wire.broadcast(node, message)
            self.faults.on_broadcast(node, message)
        elif isinstance(effect, SetTimer):
            delay_ms = node.get_delay_ms(effect.delay_ms)
            self.at(delay_ms, self._fire, node, node.life, effect.timer)
        elif isinstance(effect, NeedTransactions):
            delay_ms = int(self.random.random() * 5)
            self.at(delay_ms, self._propose, node, node.life, effect)
        elif isinstance(effect, Behind):
            for peer in self.nodes:
                if self.validators.signers[peer.identity].public == effect.sender:
                    self.wire.fetch(node, peer)
        elif isinstance(effect, KeyInUse) and node.honest:
            raise Violation(f"S4: node {node.index} takes its own past for somebody else's")
        elif isinstance(effect, Equivocation) and node.honest:
            self.monitor.on_equivocation(effect)
            self.verifiers.on_equivocation(node, effect)

    def _fire(self, node: Node, life: int, timer: Timer) -> None:
        if node.life == life:
            self.tell(node, TimeoutFired(timer))

    def _propose(self, node: Node, life: int, need: NeedTransactions) -> None:
        if node.life == life and not self.liars.proposes(node, need):
            txs = self.mempools.get_transactions(node)
            clock_ms = node.get_clock_ms(self.now_ms)
            self.tell(node, ProposalInput(need.height, need.round, txs, clock_ms))
