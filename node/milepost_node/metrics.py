"""What is counted while a node runs, where it happens; `scrape` adds what is read on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from milepost_consensus.events import Message
from milepost_consensus.payloads import Submit
from milepost_consensus.state import LedgerState
from milepost_consensus.tolerance import TOLERANCE
from milepost_node.jobs import Retrace

BLOCK_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
RETRACE_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
DISTANCES: Final = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
PPB: Final = 1_000_000_000


class Metrics:
    """The metrics of one node, in a registry of their own."""

    def __init__(self, get_state: Callable[[], LedgerState]) -> None:
        self._get_state = get_state
        self._last_time_ms = get_state().last_time_ms
        self.registry = CollectorRegistry()
        self._block_interval = Histogram(
            "milepost_block_interval_seconds",
            "Between a block and the one before it, by their own times.",
            buckets=BLOCK_SECONDS,
            registry=self.registry,
        )
        self._equivocations = Counter(
            "milepost_equivocations",
            "Contradicting messages that this node saw a validator sign.",
            ["node"],
            registry=self.registry,
        )
        self._retrace_seconds = Histogram(
            "milepost_retrace_seconds",
            "What retraining an interval took here.",
            ["device"],
            buckets=RETRACE_SECONDS,
            registry=self.registry,
        )
        self._retrace_distance = Histogram(
            "milepost_retrace_distance_ratio",
            "Of runs with a tolerance: distance of the ends, as a share of the movement.",
            buckets=DISTANCES,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def on_decided(self, state: LedgerState) -> None:
        """A block was decided."""
        # The first block follows the genesis, which may have been written days before.
        if state.height > 1:
            self._block_interval.observe((state.last_time_ms - self._last_time_ms) / 1000)
        self._last_time_ms = state.last_time_ms

    def on_equivocation(self, first: Message) -> None:
        """A validator contradicted itself."""
        member = self._get_state().members.get(first.sender)
        self._equivocations.labels(member.name if member else first.sender.hex()[:16]).inc()

    def on_retraced(self, submit: Submit, found: Retrace) -> None:
        """This node retrained an interval."""
        self._retrace_seconds.labels(submit.device_class).observe(found.milliseconds / 1000)
        if submit.profile == TOLERANCE:
            self._retrace_distance.observe(found.distance_ppb / PPB)
