"""What validators do that nothing can be expected of.

A liar runs the real machine, so that it knows what to say, and besides lies now and then in one of
these ways, or all the time by the habits of the options:

    vote        signs a vote for whatever it has seen and sends it to some
    polc        proposes, in its turn, a block that earlier prevotes back, however stale
    malformed   signs something that no machine says
    future      speaks of heights and rounds far ahead or long past
    huge        proposes, in its turn, a block far beyond the limits
    spam        sends a hundred votes at once
    equivocate  proposes two blocks in its turn, one to each half, and prevotes both
    false-reveal  proposes blocks that reveal what it never promised
    grind       tries many blocks in its turn and says the best, or none (grinding.py)
    mute        never proposes, which also withholds whatever the block would reveal
    silent-votes  never precommits
    censor      proposes empty blocks only (verifiers.py)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from milepost_consensus.blocks import Block
from milepost_consensus.events import Message, NeedTransactions
from milepost_consensus.rules import build_block, owes
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import (
    NIL,
    PRECOMMIT,
    PREVOTE,
    Proposal,
    Vote,
    sign_proposal,
    sign_vote,
)
from tests.simulation.grinding import grind
from tests.simulation.nodes import Node

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

FAR = 2**62
HUGE_BYTES = 9 * 1024 * 1024
"""More than a block may hold."""


@cache
def _make_huge_txs() -> tuple[Tx, ...]:
    return (Tx("submit", bytes(32), 1, bytes(HUGE_BYTES), bytes(64)),)


class Liars:
    """The lies of one schedule."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._random = simulation.random
        self._validators = simulation.validators
        self._lies: dict[str, Callable[[Node], None]] = {
            "vote": self._lie_by_vote,
            "polc": self._lie_by_polc,
            "malformed": self._lie_malformed,
            "future": self._lie_far_away,
            "huge": self._lie_hugely,
            "spam": self._spam,
        }

    def lie(self, node: Node, what: str) -> None:
        """One lie."""
        if not node.gone:
            self._lies[what](node)

    def hides(self, node: Node, message: Message) -> bool:
        """Whether a liar keeps a message to itself."""
        if node.honest or "silent-votes" not in self._simulation.options.habits:
            return False
        return isinstance(message, Vote) and message.type == PRECOMMIT

    def proposes(self, node: Node, need: NeedTransactions) -> bool:
        """Whether a liar has handled its turn in its own way."""
        habits = self._simulation.options.habits
        if node.honest:
            return False
        if "mute" in habits:
            return True
        if need.height != node.height + 1:
            return False
        if "false-reveal" in habits and self._reveal_falsely(node, need):
            return True
        if "grind" in habits:
            self._grind(node, need)
            return True
        if "equivocate" not in habits:
            return False
        blocks = [
            self._validators.make_block(need.round, state=node.state, later_ms=later_ms)[0]
            for later_ms in (0, 1)
        ]
        for side, block in enumerate(blocks):
            proposal = self._validators.make_proposal(
                block, round_=need.round, sender=node.identity
            )
            vote = self._make_vote(
                node, PREVOTE, self._validators.get_id(block), need.height, need.round
            )
            for message in (proposal, vote):
                self._say(node, message, side=side)
        return True

    def _reveal_falsely(self, node: Node, need: NeedTransactions) -> bool:
        """All else about the block fits, and the mix would be the liar's choice."""
        me = self._validators.signers[node.identity].public
        if not owes(node.state, me, need.round):
            return False
        block, _ = build_block(
            node.state,
            round=need.round,
            proposer=me,
            txs=(),
            time_ms=node.get_clock_ms(self._simulation.now_ms),
            reveal=self._random.randbytes(32),
        )
        self._propose(node, block)
        return True

    def _grind(self, node: Node, need: NeedTransactions) -> None:
        block = grind(self._simulation, node, need)
        if block is not None:
            self._propose(node, block)

    def _propose(self, node: Node, block: Block) -> None:
        """Propose a fresh block to everybody."""
        round_ = block.header.round
        proposal = self._validators.make_proposal(block, round_=round_, sender=node.identity)
        for side in (0, 1):
            self._say(node, proposal, side=side)

    def _say(self, node: Node, message: Message, *, side: int | None = None) -> None:
        """Send to some: about half, or the nodes of one side."""
        simulation = self._simulation
        simulation.monitor.on_broadcast(message)
        for peer in simulation.nodes:
            if peer.identity != node.identity and (
                self._random.random() < 0.5 if side is None else peer.index % 2 == side
            ):
                simulation.wire.send(node, peer, message)

    def _say_nonsense(self, node: Node, message: Message) -> None:
        """Send to everybody what no law needs to know."""
        for peer in self._simulation.nodes:
            if peer.identity != node.identity:
                self._simulation.wire.send(node, peer, message)

    def _find_place(self) -> tuple[int, int]:
        """Height and round where some node is, or one round ahead."""
        machine = self._random.choice(self._simulation.nodes).machine
        if machine is None:
            return 1, 0
        return machine.height, machine.round + self._random.randrange(2)

    def _is_turn(self, node: Node, height: int, round_: int) -> bool:
        """Whether it is a liar's turn, as far as it knows."""
        return self._validators.get_turn(height, round_, state=node.state) == node.identity

    def _make_vote(self, node: Node, type_: int, block_id: bytes, height: int, round_: int) -> Vote:
        return self._validators.make_vote(
            node.identity, type_, block_id, round_=round_, height=height
        )

    def _lie_by_vote(self, node: Node) -> None:
        height, round_ = self._find_place()
        known = self._simulation.monitor.get_block_ids(height)
        block_id = self._random.choice([*known, NIL])
        type_ = self._random.choice((PREVOTE, PRECOMMIT))
        self._say(node, self._make_vote(node, type_, block_id, height, round_))

    def _lie_by_polc(self, node: Node) -> None:
        height, round_ = self._find_place()
        backed = [
            (proposal.block, polc)
            for proposal in self._simulation.monitor.get_proposals(height)
            for polc in self._simulation.monitor.get_polcs(height, round_, proposal)
        ]
        if backed and self._is_turn(node, height, round_):
            block, polc = self._random.choice(backed)
            proposal = self._validators.make_proposal(
                block, round_=round_, polc=polc, sender=node.identity
            )
            self._say(node, proposal)

    def _lie_malformed(self, node: Node) -> None:
        height, round_ = self._find_place()
        signer, network = self._validators.signers[node.identity], self._validators.network
        vote = Vote(height, round_, PREVOTE, NIL, signer.public)
        kind = self._random.randrange(9)
        if kind < 6:
            changed: tuple[dict[str, object], ...] = (
                {"type": 3},
                {"type": 0},
                {"block_id": b"short"},
                {"height": 0},
                {"round": 2**63 - 1},
                {"sender": self._validators.signers[node.identity - 1].public},
            )
            bad = replace(vote, **changed[kind])
            signed = sign_vote(bad, signer, network)
            self._say_nonsense(node, replace(signed, sender=bad.sender))
            return
        block = self._find_block(height)
        if block is None:
            return
        header = block.header
        bad_block = (
            Block(replace(header, version=9), block.txs),
            Block(replace(header, proposer=signer.public, round=round_), _make_junk()),
            Block(replace(header, height=height + 1, prev_id=b""), block.txs),
        )[kind - 6]
        bare = Proposal(
            height, round_, self._random.choice((0, round_, FAR)), bad_block, (), signer.public
        )
        self._say_nonsense(node, sign_proposal(bare, signer, network))

    def _find_block(self, height: int) -> Block | None:
        proposals = self._simulation.monitor.get_proposals(height)
        return proposals[0].block if proposals else None

    def _lie_far_away(self, node: Node) -> None:
        height, round_ = self._find_place()
        place = self._random.choice(
            (
                (height + 1, 0),
                (height + 1, FAR),
                (height + self._random.randrange(1, 50), round_),
                (FAR, 0),
                (height, round_ + self._random.randrange(1, 50)),
                (height, 2**31),
                (max(1, height - 1), round_),
            )
        )
        self._say_nonsense(node, self._make_vote(node, PREVOTE, NIL, *place))

    def _lie_hugely(self, node: Node) -> None:
        height, round_ = self._find_place()
        known = self._find_block(height)
        if known is None or not self._is_turn(node, height, round_):
            return
        signer = self._validators.signers[node.identity]
        txs = _make_huge_txs()
        header = replace(known.header, round=round_, proposer=signer.public)
        bare = Proposal(height, round_, 0, Block(header, txs), (), signer.public)
        self._say_nonsense(node, sign_proposal(bare, signer, self._validators.network))

    def _spam(self, node: Node) -> None:
        height, round_ = self._find_place()
        for number in range(100):
            vote = self._make_vote(
                node,
                self._random.choice((PREVOTE, PRECOMMIT)),
                number.to_bytes(32, "big"),
                height + self._random.randrange(3),
                round_ + self._random.randrange(8),
            )
            peer = self._random.choice(self._simulation.nodes)
            if peer.identity != node.identity:
                self._simulation.wire.send(node, peer, vote)


def _make_junk() -> tuple[Tx, ...]:
    return (Tx("nonsense", b"", 0, b"", b""),)
