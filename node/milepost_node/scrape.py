"""What `/metrics` says, in the text format of Prometheus.

Everything but the events (`metrics`) is read from the ledger and from the parts of the node when it
is asked for, so nothing can be out of date.  Counters of the ledger (verdicts, votes) count the
whole chain and are the same on every node; all others begin with the process.
docs/operations.md says what each means.
"""

from __future__ import annotations

import shutil
from collections import Counter as Counts
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from milepost_consensus.keyguard import Signing
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import AGREES, DIFFERS, LAZY, MISSED
from milepost_consensus.verdicts import INVALID, UNDECIDED, VALID
from milepost_node.node import Node

NO_VALIDATOR: Final = "no-validator"
UNANSWERED: Final = "open"
"""Of a duty that nobody waits for any more, as after a proven accusation."""


class LedgerTotals:
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


class Scrape(Collector):
    """Reads what a node is at now, and adds what its events were."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._totals = LedgerTotals()

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield from self._node.metrics.registry.collect()
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
