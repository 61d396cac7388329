"""Brings the faults of the options about, and ends them at the stabilisation time.

Lies are the exception: liars may go on for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost_consensus.events import Message
from milepost_consensus.votes import PRECOMMIT, Vote
from tests.simulation.nodes import Node
from tests.simulation.options import ANY, Fault

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


WAIT_MS = 20
"""How often a fault looks whether its time has come."""


class Faults:
    """The faults in force."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._precommit: list[Fault] = []

    def plan(self) -> None:
        """Set the begin of every fault."""
        for fault in self._simulation.options.faults:
            self._simulation.at(fault.from_ms, self._begin, fault)

    def stop(self) -> None:
        """All faults are over."""
        simulation = self._simulation
        simulation.wire.heal()
        self._precommit.clear()
        for node in simulation.nodes:
            node.fuse = None
            node.slow_ms = node.disk_ms = node.paused_until_ms = 0
            simulation.boot(node)

    def on_broadcast(self, node: Node, message: Message) -> None:
        """A node says something: the moment that some crashes wait for."""
        if not self._precommit or not isinstance(message, Vote) or message.type != PRECOMMIT:
            return
        if message.sender != self._simulation.validators.signers[node.identity].public:
            return
        for fault in self._precommit:
            fits = fault.height in (ANY, message.height) and fault.round in (ANY, message.round)
            if fits and fault.node == node.index:
                self._precommit.remove(fault)
                node.down_ms = fault.to_ms - fault.from_ms
                self._simulation.crash(node)
                return

    def _begin(self, fault: Fault) -> None:
        simulation = self._simulation
        if fault.kind == "lie":
            self._lie(fault)
            return
        if simulation.calm:
            return
        node = simulation.nodes[fault.node]
        span_ms = fault.to_ms - fault.from_ms
        match fault.kind:
            case "cut" | "aligned":
                simulation.wire.cut(fault)
                simulation.at(span_ms, simulation.wire.heal, fault)
            case "crash":
                if node.machine is not None:
                    node.fuse, node.down_ms = fault.value, span_ms
            case "precommit":
                self._precommit.append(fault)
            case "blackout":
                for each in simulation.nodes:
                    simulation.stop(each)
                    simulation.at(span_ms, simulation.boot, each)
            case "wipe":
                self._wipe(fault, node)
            case "pause":
                simulation.pause(node, min(fault.to_ms, simulation.options.calm_ms))
            case "slow":
                node.slow_ms = fault.value
                simulation.at(span_ms, self._end, node, "slow_ms")
            case "disk":
                node.disk_ms = fault.value
                simulation.at(span_ms, self._end, node, "disk_ms")
            case _:
                raise ValueError(f"no fault is called {fault.kind}")

    def _wipe(self, fault: Fault, node: Node) -> None:
        """Take a node's disk, but not at genesis: there it could not tell that it has a past.

        Decision 0005 says what that costs.
        """
        simulation = self._simulation
        if simulation.calm:
            return
        if any(each.height == 0 for each in simulation.honest if not each.gone):
            simulation.at(WAIT_MS, self._wipe, fault, node)
            return
        simulation.stop(node)
        node.wipe()
        simulation.at(fault.to_ms - fault.from_ms, simulation.boot, node)

    def _end(self, node: Node, name: str) -> None:
        setattr(node, name, 0)

    def _lie(self, fault: Fault) -> None:
        simulation = self._simulation
        if simulation.now_ms < fault.to_ms:
            simulation.liars.lie(simulation.nodes[fault.node], fault.what)
            simulation.at(max(1, fault.value), self._lie, fault)
