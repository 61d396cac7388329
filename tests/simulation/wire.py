"""The network between simulated nodes: what is lost, late, doubled or cut off, and block sync."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.events import BlockFetched, Message, ReceivedProposal, ReceivedVote
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import Proposal, Vote
from tests.simulation.nodes import Node
from tests.simulation.options import ANY, Fault

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

BLOCKS_AT_ONCE = 50


class Wire:
    """Every ordered pair of nodes draws its delays from a source of its own, so that leaving out a
    fault changes little elsewhere."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        options = simulation.options
        names = range(len(simulation.nodes))
        self._random = [[Random(f"{options.seed} {a} {b}") for b in names] for a in names]
        self._drop = options.drop_permille / 1_000
        self._double = options.duplicate_permille / 1_000
        self._cuts: dict[Fault, frozenset[tuple[int, int]]] = {}

    def broadcast(self, node: Node, message: Message) -> None:
        """Send to everybody else."""
        event = ReceivedVote(message) if isinstance(message, Vote) else None
        for peer in self._simulation.nodes:
            if peer.identity != node.identity:
                self._send(node, peer, message, event)

    def send(self, node: Node, peer: Node, message: Message) -> None:
        """Send to one node."""
        event = ReceivedVote(message) if isinstance(message, Vote) else None
        self._send(node, peer, message, event)

    def send_tx(self, node: Node, peer: Node, tx: Tx) -> None:
        """Pass on a transaction."""
        for delay_ms in self._draw(node, peer, None):
            self._simulation.at(delay_ms, self._simulation.mempools.on_tx, peer, tx)

    def cut(self, fault: Fault) -> None:
        """A fault of kind cut or aligned is in force from now on."""
        self._cuts[fault] = frozenset(fault.links)

    def heal(self, fault: Fault | None = None) -> None:
        """A fault is over; without one, all of them."""
        if fault is None:
            self._cuts.clear()
        else:
            self._cuts.pop(fault, None)

    def _send(self, node: Node, peer: Node, message: Message, event: ReceivedVote | None) -> None:
        simulation = self._simulation
        for delay_ms in self._draw(node, peer, message):
            if event is not None:
                simulation.at(delay_ms, simulation.tell, peer, event, node.honest)
            else:
                simulation.at(delay_ms, self._propose, peer, message, node.honest)

    def _propose(self, peer: Node, proposal: Proposal, trusted: bool) -> None:
        simulation = self._simulation
        clock_ms = peer.get_clock_ms(simulation.now_ms)
        simulation.tell(peer, ReceivedProposal(proposal, clock_ms), trusted)

    def _draw(self, node: Node, peer: Node, message: Message | None) -> tuple[int, ...]:
        """When the copies of a message arrive: none, one or two."""
        random = self._random[node.index][peer.index].random
        simulation = self._simulation
        if simulation.calm:
            return (1 + int(random() * simulation.options.calm_delay_ms),)
        if self._cuts and self._is_cut(node, peer, message):
            return ()
        chance = random()
        if chance < self._drop:
            return ()
        # One in twenty takes five times as long as the others.
        delay_ms = simulation.options.max_delay_ms * (5 if chance > 0.95 else 1)
        first = 1 + int(random() * delay_ms)
        if self._double and random() < self._double:
            return first, 1 + int(random() * delay_ms)
        return (first,)

    def _is_cut(self, node: Node, peer: Node, message: Message | None) -> bool:
        """Whether a fault takes a message; None stands for anything but a vote or proposal."""
        link = (node.index, peer.index)
        now_ms = self._simulation.now_ms
        for fault, links in self._cuts.items():
            if links and link not in links:
                continue
            if fault.kind == "cut":
                if not fault.value or (now_ms - fault.from_ms) // fault.value % 2 == 0:
                    return True
            elif message is not None:
                type_ = message.type if isinstance(message, Vote) else 0
                if (
                    fault.type in (ANY, type_)
                    and fault.height in (ANY, message.height)
                    and fault.round in (ANY, message.round)
                ):
                    return True
        return False

    # Block sync ----------------------------------------------------------------------------------

    def poll(self, node: Node) -> None:
        """Ask the next peer for blocks."""
        peers = [peer for peer in self._simulation.nodes if peer is not node]
        node.asked += 1
        if peers:
            self.fetch(node, peers[node.asked % len(peers)])

    def fetch(self, node: Node, peer: Node) -> None:
        """Ask a peer for the blocks that a node lacks."""
        if peer is node or peer.machine is None or peer.busy:
            return
        delay_ms = self.draw_answer_ms(node, peer)
        if delay_ms is not None:
            blocks = [(b, c) for b, c, _ in peer.chain[node.height :][:BLOCKS_AT_ONCE]]
            if not peer.honest:
                blocks = self._falsify(blocks)
            if blocks or node.asks:
                self._simulation.at(delay_ms, self._arrive, node, node.life, blocks, peer)

    def draw_answer_ms(self, node: Node, peer: Node) -> float | None:
        """When the answer to a question arrives; None where either is lost."""
        asked, answered = self._draw(node, peer, None), self._draw(peer, node, None)
        return asked[0] + answered[0] if asked and answered else None

    def _arrive(
        self, node: Node, life: int, blocks: list[tuple[Block, Certificate]], peer: Node
    ) -> None:
        if node.life == life:
            for block, certificate in blocks:
                self._simulation.tell(node, BlockFetched(block, certificate), peer.honest)
            node.answered.add(peer.identity)

    def _falsify(self, blocks: list[tuple[Block, Certificate]]) -> list[tuple[Block, Certificate]]:
        """What a liar serves, by its habits."""
        habits = self._simulation.options.habits
        if "no-sync" in habits:
            return []
        if "false-sync" in habits:
            return [self._falsify_one(block, certificate) for block, certificate in blocks]
        return blocks

    def _falsify_one(self, block: Block, certificate: Certificate) -> tuple[Block, Certificate]:
        header = block.header
        signers, signatures = certificate.signers, certificate.signatures
        match self._simulation.random.randrange(7):
            case 0:
                return Block(replace(header, time_ms=header.time_ms + 1), block.txs), certificate
            case 1:
                return Block(header, (*block.txs, *block.txs, *_NO_TXS)), certificate
            case 2:
                fewer = replace(certificate, signers=signers[1:], signatures=signatures[1:])
                return block, fewer
            case 3:
                twice = (signers[0], *signers[:-1])
                return block, replace(certificate, signers=twice)
            case 4:
                moved = (*signatures[1:], signatures[0])
                return block, replace(certificate, signatures=moved)
            case 5:
                return Block(replace(header, state_root=bytes(32)), block.txs), certificate
            case _:
                return block, replace(certificate, round=certificate.round + 1)


_NO_TXS = (Tx("hold", bytes(32), 1, b"", b""),)
