"""Mempools: what nodes know and the chain does not have yet, and how it spreads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost_consensus.events import PersistDecision, TransactionsWaiting
from milepost_consensus.members import compute_fault_limit
from milepost_consensus.transactions import Payload, Tx, make_tx
from tests.simulation.monitor import Violation
from tests.simulation.nodes import Node

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

LIFETIME = 60
"""Heights for which a transaction of a node may wait."""
RESEND_GOSSIPS = 4


class Mempools:
    """The mempools of all nodes, and L2: what honest nodes hold gets into the chain."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._validators = simulation.validators
        self._pools: list[dict[bytes, Tx]] = [{} for _ in simulation.nodes]
        """The transactions that each node has and that are not final there, by signature."""
        self._said: list[set[tuple[object, ...]]] = [set() for _ in simulation.nodes]
        self._gossips = [0 for _ in simulation.nodes]
        self._watched: dict[bytes, Tx] = {}
        """What its sender wants and has not yet seen final."""
        self._held: dict[bytes, int] = {}
        """The height from which on all honest nodes had it."""

    def say(
        self, node: Node, payload: Payload, key: tuple[object, ...], *, lifetime: int = LIFETIME
    ) -> None:
        """Let a node send a transaction, once per process and key."""
        said = self._said[node.index]
        if key not in said:
            said.add(key)
            signer = self._validators.signers[node.identity]
            valid_until, network = node.height + lifetime, self._validators.network
            tx = make_tx(payload, signer=signer, valid_until=valid_until, network=network)
            self.on_tx(node, tx)

    def watch(self, tx: Tx) -> None:
        """From now on L2 holds for a transaction."""
        self._watched[tx.signature] = tx

    def is_waiting(self, tx: Tx) -> bool:
        """Whether no honest node has seen a watched transaction final."""
        return tx.signature in self._watched

    def get_transactions(self, node: Node) -> tuple[Tx, ...]:
        """What a node proposes."""
        if not node.honest and "censor" in self._simulation.options.habits:
            return ()
        return tuple(self._pools[node.index].values())

    def on_tx(self, node: Node, tx: Tx) -> None:
        """A transaction arrives at a node that is up."""
        pool = self._pools[node.index]
        if node.machine is None or tx.signature in pool:
            return
        pool[tx.signature] = tx
        self._pass_on(node, tx)
        self._simulation.tell(node, TransactionsWaiting())

    def on_gossip(self, node: Node) -> None:
        """Say again what is not final yet, now and then."""
        pool = self._pools[node.index]
        if self._simulation.calm:
            self._check_inclusion(node)
        self._gossips[node.index] += 1
        if pool and self._gossips[node.index] % RESEND_GOSSIPS == 0:
            for tx in list(pool.values()):
                self._pass_on(node, tx)

    def on_boot(self, node: Node) -> None:
        """The process starts: its mempool is empty."""
        self._pools[node.index].clear()
        self._said[node.index].clear()

    def on_decision(self, node: Node, decision: PersistDecision) -> None:
        """A node has one more final block."""
        pool = self._pools[node.index]
        for tx in decision.block.txs:
            pool.pop(tx.signature, None)
            if node.honest:
                self._watched.pop(tx.signature, None)
        height = decision.state.height
        for tx in [tx for tx in pool.values() if tx.valid_until <= height]:
            del pool[tx.signature]

    def _pass_on(self, node: Node, tx: Tx) -> None:
        for peer in self._simulation.nodes:
            if peer is not node:
                self._simulation.wire.send_tx(node, peer, tx)

    def _check_inclusion(self, node: Node) -> None:
        """L2: what all honest nodes hold is final after so many heights, whoever censors it.

        Of f+1 turns one is honest, and of 2f+1 where the order of turns changes among them.  A
        height may use up turns that the next one has again, so that liars may decide twice as many;
        what was proposed before the last one held it adds two.
        """
        simulation = self._simulation
        honest, options = simulation.honest, simulation.options
        limit = 2 * (2 * compute_fault_limit(options.count + options.candidates) + 1) + 2
        for signature in self._watched:
            if all(signature in self._pools[each.index] for each in honest):
                height = max(each.height for each in honest)
                since = self._held.setdefault(signature, height)
                if node.honest and height > since + limit:
                    raise Violation(
                        f"L2: a submission waits since height {since}, this is {height}"
                    )
