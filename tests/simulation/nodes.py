"""A simulated validator: its process, its disk, its clock and what waits for it."""

from __future__ import annotations

from collections import deque

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.events import Effect, Event, PersistDecision, PersistJournal
from milepost_consensus.machine import Machine
from milepost_consensus.state import LedgerState
from tests.support.validators import GENESIS_MS

QUEUE_LIMIT = 256
"""Messages that wait for a busy node; what comes then is lost, as in a full socket buffer."""


class Node:
    """`machine` is None while the process is down; journal and chain are its disk.

    A twin is a second node with the identity of a liar.
    """

    def __init__(self, index: int, identity: int, genesis: LedgerState, *, honest: bool) -> None:
        self.index = index
        self.identity = identity
        self.honest = honest
        self.genesis = genesis
        self.machine: Machine | None = None
        self.life = 0
        """Counts the processes; what was meant for an earlier one is dropped."""
        self.gone = False
        self.asks = False
        """Others may know its key and it has no journal: it asks them before it starts to sign."""
        self.answered: set[int] = set()
        """Who has answered it since, by identity."""
        self.returning = False
        """It lost its disk and has signed nothing since."""
        self.journal: bytes | None = None
        self.chain: list[tuple[Block, Certificate, LedgerState]] = []
        self.records: set[bytes] = set()
        """The submissions of which it has the whole record on disk."""
        self.skew_ms = 0
        self.drift_ppm = 0
        self.fuse: int | None = None
        """Effects left until it goes down."""
        self.down_ms = 0
        self.slow_ms = 0.0
        self.disk_ms = 0
        self.paused_until_ms = 0
        self.busy = False
        self.writing: PersistJournal | PersistDecision | None = None
        self.queue: deque[tuple[Event, bool]] = deque()
        self.asked = 0
        """The peer that it asked last."""

    @property
    def state(self) -> LedgerState:
        """The state after the last block on disk."""
        return self.chain[-1][2] if self.chain else self.genesis

    @property
    def height(self) -> int:
        """The last height on disk."""
        return len(self.chain)

    def get_clock_ms(self, now_ms: float) -> int:
        """What its clock shows."""
        drift_ms = now_ms * self.drift_ppm / 1_000_000
        return GENESIS_MS + 60_000 + self.skew_ms + int(now_ms + drift_ms)

    def get_delay_ms(self, delay_ms: int) -> int:
        """How long a delay by its clock takes."""
        return delay_ms - delay_ms * self.drift_ppm // 1_000_000

    def write(self, effect: Effect) -> None:
        """Put something on disk."""
        if isinstance(effect, PersistJournal):
            self.journal = effect.data
        elif isinstance(effect, PersistDecision):
            self.chain.append((effect.block, effect.certificate, effect.state))

    def wipe(self) -> None:
        """Lose the disk."""
        self.journal = None
        self.chain.clear()
        self.records.clear()
        self.asks = self.returning = True
