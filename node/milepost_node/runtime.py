"""The one task that feeds the agreement machine and carries out what it asks for, in order.

Events wait in a bounded queue.  For each, the machine answers with effects; everything to be
persisted is committed in one SQLite transaction before the first message leaves.  Nothing is
decided here.  What others see of the ledger (`state`) is what is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    Behind,
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
    SetTimer,
    Start,
    TimeoutFired,
    TransactionsWaiting,
)
from milepost_consensus.machine import Machine
from milepost_consensus.state import LedgerState
from milepost_node.clock import read_wall_ms
from milepost_node.mempool import Mempool
from milepost_node.proofs import build_proofs
from milepost_node.store import Decision, Store

logger = logging.getLogger(__name__)

QUEUE_EVENTS: Final = 20_000
"""Events waiting for the machine beyond which messages are dropped; peers repeat what matters."""
GOSSIP_SECONDS: Final = 1.0
"""The machine repeats an unfinished height this often; an idle one has nothing to repeat."""

Listener = Callable[[Block, LedgerState], None]


class Network(Protocol):
    """Where messages go."""

    def broadcast(self, message: Message) -> None: ...


class Runtime:
    """Runs one machine against one store.

    `on_decided` is called after each decision is on disk, `on_behind` when the machine saw a
    validator that is ahead, `on_equivocation` when it saw one contradict itself.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        store: Store,
        mempool: Mempool,
        network: Network,
        on_behind: Callable[[bytes], None],
        on_decided: Listener,
        on_equivocation: Callable[[Message, Message], None],
    ) -> None:
        self.state: LedgerState = machine.state
        self.counts: Counter[str] = Counter()
        """Refused and dropped events, by slug."""
        self._machine = machine
        self._store = store
        self._mempool = mempool
        self._network = network
        self._on_behind = on_behind
        self._on_decided = on_decided
        self._on_equivocation = on_equivocation
        self._events: asyncio.Queue[tuple[Event | None, asyncio.Future[None] | None]] = (
            asyncio.Queue()
        )
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._timers: set[asyncio.TimerHandle] = set()

    def post(self, event: Event) -> None:
        """Hand the machine an event of this node's own making, later."""
        self._events.put_nowait((event, None))

    def offer(self, event: Event) -> None:
        """Hand the machine a peer's message, later; dropped if too many events wait already."""
        if self._events.qsize() >= QUEUE_EVENTS:
            self.counts["queue-full"] += 1
            return
        self._events.put_nowait((event, None))

    async def deliver(self, event: Event) -> None:
        """Hand the machine an event and wait until its effects are carried out.

        Raises InvalidInput if the machine refuses it.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait((event, done))
        await done

    async def run(self) -> None:
        """Serve until `stop`.  Ends with an exception only if the disk or this code fails."""
        self.post(Start(read_wall_ms()))
        if len(self._mempool):
            self.post(TransactionsWaiting())
        self._gossip_later()
        try:
            while True:
                event, done = await self._events.get()
                if event is None:
                    return
                await self._handle_answering(event, done)
        finally:
            for timer in self._timers:
                timer.cancel()
            self._forget_waiting()
            self._disk.shutdown()

    def stop(self) -> None:
        """End `run` after the event at hand; what still waits is not handled."""
        self._forget_waiting()
        self._events.put_nowait((None, None))

    def _forget_waiting(self) -> None:
        while not self._events.empty():
            _, done = self._events.get_nowait()
            if done is not None:
                done.cancel()

    async def _handle_answering(self, event: Event, done: asyncio.Future[None] | None) -> None:
        try:
            await self._handle(event)
        except InvalidInput as error:
            self.counts[error.slug] += 1
            logger.debug("refused", extra={"slug": error.slug, "reason": str(error)})
            if done is not None and not done.done():
                done.set_exception(error)
        except BaseException:
            if done is not None:
                done.cancel()
            raise
        else:
            if done is not None and not done.done():
                done.set_result(None)

    async def _handle(self, event: Event) -> None:
        pending: deque[Event] = deque([event])
        while pending:
            effects = self._machine.handle(pending.popleft())
            await self._persist(effects)
            for effect in effects:
                answer = self._carry_out(effect)
                if answer is not None:
                    pending.append(answer)

    async def _persist(self, effects: Sequence[Effect]) -> None:
        """Commit all that is to be persisted in one transaction; proofs go with their verdict."""
        journal: bytes | None = None
        decisions: list[Decision] = []
        decided: dict[int, tuple[Block, Certificate]] = {}
        before = self.state
        for effect in effects:
            if isinstance(effect, PersistJournal):
                journal = effect.data
            elif isinstance(effect, PersistDecision):
                decided[effect.state.height] = effect.block, effect.certificate
                proofs = build_proofs(
                    *(before, effect.state, effect.block, effect.certificate),
                    lambda height: decided.get(height) or self._store.read_block(height),
                )
                decisions.append(Decision(effect.block, effect.certificate, proofs))
                before = effect.state
        if journal is not None or decisions:
            loop = asyncio.get_running_loop()
            commit = loop.run_in_executor(self._disk, self._store.commit, journal, decisions)
            # A cancelled wait must not leave a commit whose effects are never carried out.
            await asyncio.shield(commit)

    def _carry_out(self, effect: Effect) -> Event | None:
        """Do what a persisted step asks for; returns what the machine is to hear next."""
        match effect:
            case Broadcast(message):
                self._network.broadcast(message)
            case SetTimer(timer, delay_ms):
                self._call_later(delay_ms / 1000, TimeoutFired(timer))
            case PersistDecision(block, _, state):
                return self._on_decision(block, state)
            case NeedTransactions(height, round_):
                return ProposalInput(height, round_, self._mempool.take(), read_wall_ms())
            case Behind(_, sender):
                self._on_behind(sender)
            case Equivocation(first, second):
                self.counts["equivocation"] += 1
                logger.error(
                    "a validator signed two contradicting messages",
                    extra={"validator": first.sender, "height": first.height},
                )
                self._on_equivocation(first, second)
            case PersistJournal():
                pass
        return None

    def _on_decision(self, block: Block, state: LedgerState) -> Event | None:
        self.state = state
        self._mempool.apply_block(block, state)
        logger.info(
            "block",
            extra={
                "height": state.height,
                "round": block.header.round,
                "txs": len(block.txs),
                "id": state.last_id,
            },
        )
        self._on_decided(block, state)
        return TransactionsWaiting() if len(self._mempool) else None

    def _call_later(self, seconds: float, event: Event) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            self.post(event)

        handle = asyncio.get_running_loop().call_later(seconds, fire)
        self._timers.add(handle)

    def _gossip_later(self) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            self.post(GossipDue())
            self._gossip_later()

        handle = asyncio.get_running_loop().call_later(GOSSIP_SECONDS, fire)
        self._timers.add(handle)
