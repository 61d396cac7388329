"""The people behind the validators: who joins, leaves and moves, and when an onion is renewed.

Operators agree on a change somewhere else; here a quorum of them signs it once it is due, and one
of their nodes says it, again and again until it is in effect.  A node joins only when it is level
with the others and would sign, as its operator can see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from milepost_consensus.governance import sign_update
from milepost_consensus.keyguard import Signing
from milepost_consensus.members import VALIDATOR, Member, compute_quorum
from milepost_consensus.payloads import Approval, MemberUpdate, OnionRefresh
from milepost_consensus.state import LedgerState
from tests.simulation.nodes import Node
from tests.simulation.options import Change

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

MEET_MS = 150
"""How often operators look whether a change is in effect."""
AHEAD = 8
"""Heights until an update takes effect, about; it has to be in a block two heights before."""
REFRESH_AT = 2
"""Reveals that are left in an onion when its owner promises the next one."""


class Council:
    """Changes of the membership, one after the other, and fresh onions."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._validators = simulation.validators
        self._random = simulation.random
        self._changes = simulation.options.changes
        self._made = 0
        """How many of the changes are in effect."""
        self._meetings = 0

    def plan(self) -> None:
        """Set the time of the first change; who joins late is not there yet."""
        options = self._simulation.options
        for index in options.late:
            self._simulation.nodes[index].gone = True
        if self._changes:
            self._simulation.at(self._changes[0].at_ms, self._meet)
        if "usurp" in options.habits:
            for node in self._simulation.nodes:
                if not node.honest:
                    self._simulation.at(MEET_MS, self._usurp, node)

    def is_done(self) -> bool:
        """Whether all changes are in effect at every honest node."""
        if self._made < len(self._changes):
            return False
        last = self._changes[-1:]
        honest = self._simulation.honest
        return all(self._is_made(change, node.state) for node in honest for change in last)

    # Members -------------------------------------------------------------------------------------

    def _meet(self) -> None:
        simulation = self._simulation
        state = max(simulation.honest, key=lambda node: node.height).state
        while self._made < len(self._changes) and self._is_made(self._changes[self._made], state):
            self._made += 1
        if self._made == len(self._changes):
            return
        change = self._changes[self._made]
        if simulation.now_ms >= change.at_ms and not state.membership.effective_height:
            self._pursue(change, state)
        simulation.at(MEET_MS, self._meet)

    def _pursue(self, change: Change, state: LedgerState) -> None:
        node = self._simulation.nodes[change.node]
        if node.gone and change.node in self._simulation.options.late:
            node.gone, node.asks = False, True
            self._simulation.boot(node)
        if change.kind == "join" and not self._is_ready(node, state):
            return
        ids = {member.id for member in state.validators}
        able = [
            each
            for each in self._simulation.honest
            if self._get_id(each) in ids and each.machine is not None
        ]
        signing = self._sample_approvals(ids)
        if not able or len(signing) < compute_quorum(len(ids)):
            return
        height = state.height + AHEAD + self._random.randrange(4)
        bare = MemberUpdate((self._make_member(change, state),), height)
        signers = [self._validators.signers[each.identity] for each in signing]
        update = sign_update(bare, signers, self._validators.network)
        self._meetings += 1
        key = ("change", self._meetings)
        self._simulation.mempools.say(self._random.choice(able), update, key, lifetime=AHEAD)

    def _sample_approvals(self, ids: set[bytes]) -> list[Node]:
        """As many as are needed, of those who follow the rules; twins never do."""
        honest = [each for each in self._simulation.honest if self._get_id(each) in ids]
        return self._random.sample(honest, min(len(honest), compute_quorum(len(ids))))

    def _is_ready(self, node: Node, state: LedgerState) -> bool:
        if not node.honest:
            return True
        level = node.height >= state.height - 1
        return level and node.machine is not None and node.machine.signing is Signing.ACTIVE

    def _make_member(self, change: Change, state: LedgerState) -> Member:
        planned = self._validators.members[change.node]
        present = state.members.get(planned.id, planned)
        match change.kind:
            case "join":
                return replace(present, roles=planned.roles)
            case "leave":
                return replace(present, roles=0)
            case "move":
                return replace(present, operator=self._get_new_operator(change))
            case _:
                raise ValueError(f"no change is called {change.kind}")

    def _is_made(self, change: Change, state: LedgerState) -> bool:
        member = state.members.get(self._validators.members[change.node].id)
        if change.kind == "move":
            return member is not None and member.operator == self._get_new_operator(change)
        validates = member is not None and bool(member.roles & VALIDATOR)
        return validates == (change.kind == "join")

    def _get_new_operator(self, change: Change) -> str:
        return f"new-{self._changes.index(change)}"

    def _get_id(self, node: Node) -> bytes:
        return self._validators.signers[node.identity].public

    def _usurp(self, node: Node) -> None:
        """A liar approves a change by itself, in the names of all, and doubles its voice."""
        simulation, network = self._simulation, self._validators.network
        others = [each for each in node.state.validators if each.id != self._get_id(node)]
        bare = MemberUpdate((replace(others[0], roles=0),) if others else (), node.height + AHEAD)
        own = sign_update(bare, [self._validators.signers[node.identity]], network)
        (approval,) = own.approvals
        forged = tuple(Approval(each.id, approval.signature) for each in others)
        update = replace(own, approvals=self._random.choice(((approval,) * 5, (approval, *forged))))
        if node.machine is not None:
            simulation.mempools.say(node, update, ("usurp", node.height), lifetime=4)
        if not simulation.calm:
            simulation.at(2 * MEET_MS, self._usurp, node)

    # Onions --------------------------------------------------------------------------------------

    def on_decision(self, node: Node, state: LedgerState) -> None:
        """A node has one more final block: does its owner promise another onion?"""
        options = self._simulation.options
        if not options.onions or node.identity in options.careless:
            return
        standing = state.standings.get(self._get_id(node))
        if standing is None or standing.next_left or standing.onion_left > REFRESH_AT:
            return
        if all(member.id != standing.id for member in state.validators):
            return
        onion, following = self._validators.get_onion(node.identity), standing.generation + 1
        refresh = OnionRefresh(following, onion.get_head(following), onion.links)
        self._simulation.mempools.say(node, refresh, ("onion", following))
