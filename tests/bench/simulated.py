"""Commit latency of large networks, in simulated time.

The machines are real, the world is a model, so the figures are those of the model:

* a message takes 1 to 100 ms, evenly distributed, and one in twenty up to five times as long;
* a node works on one message after the other: 0.15 ms for the first copy of a message, which is
  one Ed25519 check and the rules, 0.01 ms for every further copy (both measured on one core);
* what finds 256 messages waiting is lost, and relays bring it again;
* relays go out every second, as in the node; clocks agree; blocks are empty; disks cost nothing.

Latency is the time from the proposer's clock in a block's header to the moment at which a node has
decided it, over all nodes and blocks.
"""

from __future__ import annotations

import statistics
from typing import Final

from milepost_consensus.events import Effect, Event, PersistDecision, ReceivedVote
from milepost_consensus.params import Params
from tests.simulation.nodes import Node
from tests.simulation.options import Options
from tests.simulation.signing import use_signatures
from tests.simulation.simulation import Simulation

COUNTS: Final = (4, 10, 25, 50)
BLOCKS: Final = 30
NEW_MS: Final = 0.15
KNOWN_MS: Final = 0.01
GOAL_MS: Final = 3_000


class _Timed(Simulation):
    """A network without faults that notes when which node decides."""

    def __init__(self, count: int) -> None:
        params = Params()
        super().__init__(
            Options(
                "latency",
                1,
                count,
                calm_ms=10**9,
                max_delay_ms=100,
                gossip_ms=1_000,
                poll_ms=10**8,
                timeout_ms=params.timeout_ms,
                timeout_step_ms=params.timeout_step_ms,
                timeout_cap_ms=params.timeout_cap_ms,
                min_block_ms=params.min_block_ms,
            )
        )
        self.latencies_ms: list[float] = []
        self.rounds = 0
        self._known: list[set[bytes]] = [set() for _ in self.nodes]
        for node in self.nodes:
            node.slow_ms = NEW_MS

    def get_cost_ms(self, node: Node, event: Event) -> float:
        if not isinstance(event, ReceivedVote):
            return NEW_MS
        known = self._known[node.index]
        if event.vote.signature in known:
            return KNOWN_MS
        known.add(event.vote.signature)
        return NEW_MS

    def write(self, node: Node, effect: Effect) -> None:
        super().write(node, effect)
        if isinstance(effect, PersistDecision):
            header = effect.block.header
            self.latencies_ms.append(node.get_clock_ms(self.now_ms) - header.time_ms)
            self.rounds = max(self.rounds, effect.certificate.round)
            self.done = all(each.height >= BLOCKS for each in self.nodes)


def bench_simulated() -> None:
    """Print latency of blocks by size of the network."""
    print("  n  blocks    p50 ms    p95 ms    p99 ms  highest round  messages")
    for count in COUNTS:
        simulation = _Timed(count)
        with use_signatures(real=False):
            simulation.play()
        cuts = statistics.quantiles(simulation.latencies_ms, n=100)
        print(
            f"{count:3} {BLOCKS:7} {cuts[49]:9.0f} {cuts[94]:9.0f} {cuts[98]:9.0f}"
            f" {simulation.rounds:14} {simulation.events:9}",
            flush=True,
        )
    met = "met" if cuts[94] < GOAL_MS else "missed"
    print(f"p95 under {GOAL_MS} ms at n = {COUNTS[-1]}: {met}")
