"""What a simulated network consists of, and the queue that moves its time."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from milepost_consensus.events import Event, ReceivedProposal, ReceivedVote, TimeoutFired
from milepost_consensus.params import Params
from tests.simulation.nodes import Node
from tests.simulation.options import Options
from tests.simulation.signing import SimSigner
from tests.support.validators import Validators, make_signer


class Report(NamedTuple):
    """What a schedule came to."""

    events: int
    simulated_ms: int
    heights: int
    verdicts: int
    digest: str
    """Digest of everything that happened, in order."""


@lru_cache(maxsize=64)
def _make_validators(
    count: int,
    params: Params,
    candidates: int,
    links: tuple[int, ...],
    *,
    verify: bool,
    real: bool,
) -> Validators:
    make = make_signer if real else SimSigner
    return Validators(count, params, verify=verify, make=make, candidates=candidates, links=links)


def make_params(options: Options) -> Params:
    """The genesis constants of a schedule."""
    return Params(
        min_block_ms=options.min_block_ms,
        idle_block_ms=options.min_block_ms,
        timeout_ms=options.timeout_ms,
        timeout_step_ms=options.timeout_step_ms,
        timeout_cap_ms=options.timeout_cap_ms,
        sub_quorum_size=3,
        auditors=1,
        hold_window=20,
        attest_window=8,
        witness_window=5,
        panel_window=10,
        epoch_blocks=7,
        max_missed_turns=3,
        jail_heights=20,
    )


class World:
    """Validators, their nodes, the time and what is to happen."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = Random(f"{options.generator} {options.seed}")
        self.validators = _make_validators(
            options.count,
            make_params(options),
            options.candidates,
            options.onions,
            verify=bool(options.verifiers),
            real=options.real_signatures,
        )
        identities = [*range(options.count + options.candidates), *options.twins]
        self.nodes = [
            Node(index, identity, self.validators.state, honest=identity not in options.liars)
            for index, identity in enumerate(identities)
        ]
        for node, skew_ms in zip(self.nodes, options.skews_ms, strict=False):
            node.skew_ms = skew_ms
        for node, drift_ppm in zip(self.nodes, options.drifts_ppm, strict=False):
            node.drift_ppm = drift_ppm
        self.honest = [node for node in self.nodes if node.honest]
        self.now_ms = 0.0
        self.events = 0
        self.calm = False
        """Whether the faults have stopped."""
        self.trace = hashlib.sha256()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, delay_ms: float, act: Callable[..., None], *arguments: Any) -> None:
        """Do something later."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._sequence, act, arguments))

    def step(self) -> bool:
        """Do what comes next; returns whether there was anything."""
        if not self._queue:
            return False
        self.now_ms, _, act, arguments = heapq.heappop(self._queue)
        act(*arguments)
        return True

    def note(self, node: Node, event: Event) -> None:
        """One entry of the trace; a signature stands for the message that it signs."""
        self.events += 1
        if isinstance(event, ReceivedVote):
            what = event.vote.signature
        elif isinstance(event, ReceivedProposal):
            what = event.proposal.signature
        elif isinstance(event, TimeoutFired):
            what = f"{event.timer.kind} {event.timer.height} {event.timer.round}".encode()
        else:
            what = type(event).__name__.encode()
        self.trace.update(b"%d %d %b\n" % (self.now_ms, node.index, what))
