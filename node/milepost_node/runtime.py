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
from functools import partial
from typing import Final, NamedTuple, Protocol

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
    SetTimer,
    Start,
    TimeoutFired,
    TransactionsWaiting,
)
from milepost_consensus.keyguard import Signing
from milepost_consensus.machine import Machine
from milepost_consensus.problems import PROBLEMS
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import Tx
from milepost_node.clock import read_wall_ms
from milepost_node.mempool import Mempool
from milepost_node.proofs import build_proofs
from milepost_node.store import Decision, Store

logger = logging.getLogger(__name__)

QUEUE_EVENTS: Final = 20_000
"""Events waiting for the machine beyond which messages are dropped; peers repeat what matters."""
QUEUE_BYTES: Final = 64 * 1024 * 1024
"""The same for their size: eight of the largest blocks, whoever says that they were signed."""
LARGE_TXS: Final = 32
LARGE_BYTES: Final = 256 * 1024
"""A block of more transactions or bytes is executed in a thread, where it takes a tenth of a second
and more; everything else is done sooner than a thread is told of it."""
GOSSIP_SECONDS: Final = 1.0
"""The machine repeats an unfinished height this often; an idle one has nothing to repeat."""

Listener = Callable[[Block, LedgerState], None]


class _Waiting(NamedTuple):
    """Events in the queue, who waits for their end, and how much of the queue they take."""

    events: Sequence[Event] | None
    done: asyncio.Future[None] | None = None
    size_bytes: int = 0


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
        key_in_use: str = "",
        listens: bool = False,
    ) -> None:
        """`key_in_use` is what the store says of it.  A runtime that `listens` starts the machine
        only when `start` is called."""
        self.state: LedgerState = machine.state
        self.counts: Counter[str] = Counter()
        """Refused and dropped events, by slug."""
        self.key_in_use = key_in_use
        """Why this node signs nothing any more; empty if it may."""
        self._machine = machine
        self._listens = listens
        self._store = store
        self._mempool = mempool
        self._network = network
        self._on_behind = on_behind
        self._on_decided = on_decided
        self._on_equivocation = on_equivocation
        self._events: asyncio.Queue[_Waiting] = asyncio.Queue()
        self.queued_bytes = 0
        """Of peers' messages that wait for the machine."""
        self._large_height = 0
        """The highest height of which a large block was seen; it may be executed at any event."""
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def signing(self) -> Signing:
        """Whether the machine signs, and if not, why."""
        return self._machine.signing

    def start(self) -> None:
        """Let the machine take part."""
        self.post(Start(read_wall_ms()))

    def post(self, event: Event) -> None:
        """Hand the machine an event of this node's own making, later."""
        self._events.put_nowait(_Waiting((event,)))

    def offer(self, event: Event) -> None:
        """Hand the machine a peer's message, later; dropped if too many events wait already."""
        size_bytes = _get_size(event)
        if self._events.qsize() >= QUEUE_EVENTS or self.queued_bytes + size_bytes > QUEUE_BYTES:
            self.counts["queue-full"] += 1
            return
        self.queued_bytes += size_bytes
        self._events.put_nowait(_Waiting((event,), size_bytes=size_bytes))

    async def deliver(self, *events: Event) -> None:
        """Hand the machine events and wait until their effects are carried out.

        All that they decide is written in one commit.  Raises InvalidInput if the machine refuses
        one of them; those before it took effect, those after it did not.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait(_Waiting(events, done))
        await done

    async def run(self) -> None:
        """Serve until `stop`.  Ends with an exception only if the disk or this code fails."""
        if self.key_in_use:
            _log_key_in_use(self.key_in_use)
        if not self._listens:
            self.start()
        if len(self._mempool):
            self.post(TransactionsWaiting())
        self._gossip_later()
        try:
            while True:
                events, done, size_bytes = await self._events.get()
                if events is None:
                    return
                await self._handle_answering(events, done)
                self.queued_bytes -= size_bytes
        finally:
            for timer in self._timers:
                timer.cancel()
            self._forget_waiting()
            self._disk.shutdown()

    def stop(self) -> None:
        """End `run` after the event at hand; what still waits is not handled."""
        self._forget_waiting()
        self._events.put_nowait(_Waiting(None))

    def _forget_waiting(self) -> None:
        while not self._events.empty():
            waiting = self._events.get_nowait()
            self.queued_bytes -= waiting.size_bytes
            if waiting.done is not None:
                waiting.done.cancel()

    async def _handle_answering(
        self, events: Sequence[Event], done: asyncio.Future[None] | None
    ) -> None:
        try:
            await self._handle(events)
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

    async def _handle(self, events: Sequence[Event]) -> None:
        pending: deque[Sequence[Event]] = deque([events])
        while pending:
            effects, refusal = list[Effect](), None
            for event in pending.popleft():
                try:
                    effects += await self._ask_machine(event)
                except InvalidInput as error:
                    # The machine has moved by what came before, which therefore must not be lost.
                    refusal = error
                    break
                if len(events) > 1:
                    await asyncio.sleep(0)
            await self._persist(effects)
            for effect in effects:
                answer = self._carry_out(effect)
                if answer is not None:
                    pending.append((answer,))
            if refusal is not None:
                raise refusal

    async def _ask_machine(self, event: Event) -> list[Effect]:
        """What the machine says to an event; the loop goes on meanwhile if that may take long.

        There is only one such question at a time, because this task waits for the answer.
        """
        if _is_large(event):
            self._large_height = self._machine.height + 1  # it may be of the next height
        if self._large_height < self._machine.height:
            return self._machine.handle(event)
        return await asyncio.to_thread(self._machine.handle, event)

    async def _persist(self, effects: Sequence[Effect]) -> None:
        """Commit all that is to be persisted in one transaction, on the thread of the disk."""
        journal: bytes | None = None
        key_in_use: str | None = None
        decided: list[PersistDecision] = []
        for effect in effects:
            if isinstance(effect, PersistJournal):
                journal = effect.data
            elif isinstance(effect, KeyInUse):
                key_in_use = effect.message
            elif isinstance(effect, PersistDecision):
                decided.append(effect)
        if journal is not None or decided or key_in_use is not None:
            work = partial(self._write, self.state, decided, journal, key_in_use)
            commit = asyncio.get_running_loop().run_in_executor(self._disk, work)
            # A cancelled wait must not leave a commit whose effects are never carried out.
            await asyncio.shield(commit)

    def _write(
        self,
        before: LedgerState,
        decided: Sequence[PersistDecision],
        journal: bytes | None,
        key_in_use: str | None,
    ) -> None:
        """Proofs go with their verdict; what was decided follows `before`."""
        decisions: list[Decision] = []
        blocks: dict[int, tuple[Block, Certificate]] = {}
        for each in decided:
            blocks[each.state.height] = each.block, each.certificate
            proofs = build_proofs(
                *(before, each.state, each.block, each.certificate),
                lambda height: blocks.get(height) or self._store.read_block(height),
            )
            decisions.append(Decision(each.block, each.certificate, proofs))
            before = each.state
        self._store.commit(journal, decisions, key_in_use=key_in_use)

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
            case KeyInUse(message):
                self.key_in_use = message
                self.counts["key-in-use"] += 1
                _log_key_in_use(message)
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


def _get_txs(event: Event) -> tuple[Tx, ...]:
    """The transactions that an event brings."""
    match event:
        case ReceivedProposal(proposal, _):
            return proposal.block.txs
        case BlockFetched(block, _):
            return block.txs
        case ProposalInput():
            return event.txs
    return ()


def _get_size(event: Event) -> int:
    """About how many bytes of memory an event holds."""
    polc = len(event.proposal.polc) if isinstance(event, ReceivedProposal) else 0
    return 512 * (1 + polc) + sum(512 + len(tx.payload) for tx in _get_txs(event))


def _is_large(event: Event) -> bool:
    txs = _get_txs(event)
    return len(txs) > LARGE_TXS or sum(len(tx.payload) for tx in txs) > LARGE_BYTES


def _log_key_in_use(message: str) -> None:
    logger.critical(
        "this node signs nothing: its key is in use elsewhere",
        extra={
            "slug": "key-in-use",
            "reason": message,
            "remedy": PROBLEMS["key-in-use"].remedy,
        },
    )
