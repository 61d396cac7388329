"""What `/metrics` says, in the text format of Prometheus.

Events are counted where they happen (`on_...`); everything else is read from the ledger and from
the parts of the node when it is asked for, so nothing can be out of date.  Counters of the ledger
(verdicts, votes) count the whole chain and are the same on every node; all others begin with the
process.  docs/operations.md says what each means.
"""

from __future__ import annotations

import shutil
from collections import Counter as Counts
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from milepost_consensus.events import Message
from milepost_consensus.keyguard import Signing
from milepost_consensus.payloads import Submit
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import AGREES, DIFFERS, LAZY, MISSED
from milepost_consensus.tolerance import TOLERANCE
from milepost_consensus.verdicts import INVALID, UNDECIDED, VALID
from milepost_node.jobs import Retrace

if TYPE_CHECKING:
    from milepost_node.node import Node

BLOCK_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
RETRACE_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
DISTANCES: Final = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
NO_VALIDATOR: Final = "no-validator"
UNANSWERED: Final = "open"
"""Of a duty that nobody waits for any more, as after a proven accusation."""
PPB: Final = 1_000_000_000


class Metrics:
    """The metrics of one node, in a registry of their own."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last_time_ms = node.runtime.state.last_time_ms
        self._registry = CollectorRegistry()
        self._block_interval = Histogram(
            "milepost_block_interval_seconds",
            "Between a block and the one before it, by their own times.",
            buckets=BLOCK_SECONDS,
            registry=self._registry,
        )
        self._equivocations = Counter(
            "milepost_equivocations",
            "Contradicting messages that this node saw a validator sign.",
            ["node"],
            registry=self._registry,
        )
        self._retrace_seconds = Histogram(
            "milepost_retrace_seconds",
            "What retraining an interval took here.",
            ["device"],
            buckets=RETRACE_SECONDS,
            registry=self._registry,
        )
        self._retrace_distance = Histogram(
            "milepost_retrace_distance_ratio",
            "Of runs with a tolerance: distance of the ends, as a share of the movement.",
            buckets=DISTANCES,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_Scrape(node))

    def on_decided(self, state: LedgerState) -> None:
        """A block was decided."""
        # The first block follows the genesis, which may have been written days before.
        if state.height > 1:
            self._block_interval.observe((state.last_time_ms - self._last_time_ms) / 1000)
        self._last_time_ms = state.last_time_ms

    def on_equivocation(self, first: Message) -> None:
        """A validator contradicted itself."""
        member = self._node.runtime.state.members.get(first.sender)
        self._equivocations.labels(member.name if member else first.sender.hex()[:16]).inc()

    def on_retraced(self, submit: Submit, found: Retrace) -> None:
        """This node retrained an interval."""
        self._retrace_seconds.labels(submit.device_class).observe(found.milliseconds / 1000)
        if submit.profile == TOLERANCE:
            self._retrace_distance.observe(found.distance_ppb / PPB)

    def render(self) -> bytes:
        """Everything, as text."""
        return generate_latest(self._registry)


class _LedgerTotals:
    """Verdicts, and the votes and overruled verifiers of decided submissions, of the whole chain.

    A verdict never changes, so only new ones are looked at.
    """

    def __init__(self) -> None:
        self.verdicts: Counts[str] = Counts({VALID: 0, INVALID: 0, UNDECIDED: 0})
        self.votes: Counts[str] = Counts({AGREES: 0, DIFFERS: 0, MISSED: 0, LAZY: 0, UNANSWERED: 0})
        self.overruled = 0
        self._seen: set[bytes] = set()

    def follow(self, state: LedgerState) -> None:
        """Count the verdicts that are new in a state."""
        if len(state.verdicts) == len(self._seen):
            return
        for key in state.verdicts.keys() - self._seen:
            self._seen.add(key)
            self.verdicts[state.verdicts[key].outcome] += 1
            self.overruled += len(state.verdicts[key].overruled)
            self.votes.update(duty.answer or UNANSWERED for duty in state.submissions[key].duties)


class _Scrape(Collector):
    """Reads what the node is at now."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._totals = _LedgerTotals()

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield from self._collect_chain()
        yield from self._collect_network()
        yield from self._collect_work()
        yield from self._collect_machine()

    def _collect_chain(self) -> Iterator[Metric]:
        node, state = self._node, self._node.runtime.state
        self._totals.follow(state)
        status = node.get_status()
        yield InfoMetricFamily(
            "milepost_node",
            "What runs here.",
            {key: str(status[key]) for key in ("network", "network_id", "node", "version")},
        )
        yield _gauge("milepost_chain_height", "Height of the last block.", state.height)
        yield _gauge(
            "milepost_last_block_timestamp_seconds",
            "When the last block was made, by its own time.",
            state.last_time_ms / 1000,
        )
        yield _gauge("milepost_syncing", "Whether the node catches up.", node.sync.syncing)
        yield _gauge("milepost_behind_blocks", "Blocks still to come.", node.sync.behind)
        yield _gauge(
            "milepost_ready", "Whether /health/ready says 200.", node.get_readiness()[0] == 200
        )
        signing = str(status["signing"])
        states = (*(str(each) for each in Signing), NO_VALIDATOR)
        yield _labelled(
            GaugeMetricFamily(
                "milepost_signing", "1 for whether the node signs, or why not.", labels=["state"]
            ),
            {each: int(each == signing) for each in states},
        )
        yield _labelled(
            CounterMetricFamily(
                "milepost_verdicts", "Verdicts of the whole chain.", labels=["verdict"]
            ),
            self._totals.verdicts,
        )
        yield _labelled(
            CounterMetricFamily(
                "milepost_votes", "Answers to duties in judged submissions.", labels=["result"]
            ),
            self._totals.votes,
        )
        yield CounterMetricFamily(
            "milepost_votes_overruled",
            "Verifiers that a verdict says were wrong.",
            value=self._totals.overruled,
        )

    def _collect_network(self) -> Iterator[Metric]:
        node, state = self._node, self._node.runtime.state
        peers = node.peers.all
        reachable = node.peers.reachable_count
        yield _labelled(
            GaugeMetricFamily("milepost_peers", "Other nodes.", labels=["state"]),
            {"reachable": reachable, "unreachable": len(peers) - reachable},
        )
        yield _labelled(
            GaugeMetricFamily(
                "milepost_peer_reachable",
                "Whether a peer answered when last tried.",
                labels=["peer"],
            ),
            {peer.name: int(peer.reachable) for peer in peers},
        )
        dropped: Counts[str] = Counts()
        for peer in peers:
            dropped[peer.name] += peer.dropped
        yield _labelled(
            CounterMetricFamily(
                "milepost_peer_messages_dropped", "Never sent: the queue was full.", labels=["peer"]
            ),
            dropped,
        )
        present = node.count_validators()
        yield _labelled(
            GaugeMetricFamily("milepost_validators", "Validators.", labels=["state"]),
            {"reachable": present, "unreachable": len(state.validators) - present},
        )
        yield _gauge(
            "milepost_jailed_members",
            "Members that are not elected for a while.",
            sum(state.standings[each].jailed_until > state.height for each in state.members),
        )
        yield _labelled(
            CounterMetricFamily(
                "milepost_refused", "Messages refused or dropped, by slug.", labels=["slug"]
            ),
            node.runtime.counts,
        )

    def _collect_work(self) -> Iterator[Metric]:
        node, state = self._node, self._node.runtime.state
        yield _gauge("milepost_mempool_transactions", "Waiting for a block.", len(node.mempool))
        phases = Counts(submission.phase for submission in state.open_submissions)
        yield _labelled(
            GaugeMetricFamily(
                "milepost_open_submissions", "Submissions without a verdict.", labels=["phase"]
            ),
            phases,
        )
        yield _gauge(
            "milepost_retrace_queue",
            "Intervals and steps that wait for this node.",
            node.verifier.count_waiting(),
        )

    def _collect_machine(self) -> Iterator[Metric]:
        settings = self._node.settings
        yield _gauge(
            "milepost_blobs_bytes", "Files of records kept here.", self._node.blobs.used_bytes
        )
        yield _gauge(
            "milepost_blobs_limit_bytes", "What they may take.", settings.limits.store_bytes
        )
        yield _gauge(
            "milepost_disk_free_bytes",
            "Free where the home lies.",
            shutil.disk_usage(settings.home).free,
        )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _labelled(
    family: GaugeMetricFamily | CounterMetricFamily, values: dict[str, int] | Counts[str]
) -> Metric:
    """A family with one label."""
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family
