"""What validators and verifiers do for submissions: hold records, answer duties, sit on panels.

Every node that validates verifies as well; behaviours.py says how.  Each kind of work yields what
the chain waits for from one node and the key under which the node says it once; a further kind of
transaction is one more function in `_work`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from milepost_consensus.events import Equivocation, PersistDecision
from milepost_consensus.governance import make_evidence
from milepost_consensus.payloads import Hold, PanelVote, Serve
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import RETRACING, Submission
from milepost_consensus.transactions import Payload, decode_payload
from milepost_consensus.worklist import get_accusations, get_comparable, get_duties, get_unheld
from tests.simulation.behaviours import BEHAVIOURS, Case, Honest
from tests.simulation.nodes import Node
from tests.simulation.truth import get_truth

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

RETRACE_MS = 30
"""The longest that somebody takes to retrace its intervals."""

Said = Iterator[tuple[Payload | None, tuple[object, ...]]]


class Verifiers:
    """The verifiers of all nodes."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._validators = simulation.validators
        kinds = simulation.options.verifiers
        self._behaviours: list[Honest] = [
            BEHAVIOURS[kinds[node.identity] if node.identity < len(kinds) else "honest"]
            for node in simulation.nodes
        ]
        self._enabled = bool(kinds)
        self._withdrawals = simulation.options.withdrawals
        self._work = (
            self._serve,
            self._hold,
            self._answer_duties,
            self._accuse,
            self._refute,
            self._sit_on_panels,
        )

    def on_boot(self, node: Node) -> None:
        """The process starts and works from its state again."""
        if self._enabled:
            self._simulation.at(1, self._do_work, node, node.life)

    def plan(self) -> None:
        """Set the times at which a verifier notices that its machine computes otherwise, or not."""
        for withdrawal in self._withdrawals:
            for at_ms in filter(None, (withdrawal.from_ms, withdrawal.to_ms)):
                self._simulation.at(at_ms, self._notice, withdrawal.node)

    def _notice(self, identity: int) -> None:
        for node in self._simulation.nodes:
            if node.identity == identity:
                self._do_work(node, node.life)

    def on_decision(self, node: Node, decision: PersistDecision) -> None:
        """A node has one more final block."""
        if self._enabled and decision.state.open_submissions:
            delay_ms = 1 + int(self._simulation.random.random() * RETRACE_MS)
            self._simulation.at(delay_ms, self._do_work, node, node.life)

    def on_record(self, node: Node) -> None:
        """A node has got a record."""
        self._do_work(node, node.life)

    def on_equivocation(self, node: Node, caught: Equivocation) -> None:
        """A node has caught somebody, and tells the chain."""
        if self._enabled and node.machine is not None and self._is_validator(node):
            evidence = make_evidence(caught.first, caught.second, self._validators.network)
            self._simulation.mempools.say(node, evidence, ("evidence", caught.first.signature))

    def _is_validator(self, node: Node) -> bool:
        me = self._validators.signers[node.identity].public
        return any(member.id == me for member in node.state.validators)

    def _do_work(self, node: Node, life: int) -> None:
        """Everything that the chain waits for from this node, said once per process."""
        if node.life != life or node.machine is None:
            return
        for work in self._work:
            for payload, key in work(node, node.state):
                if payload is not None:
                    self._simulation.mempools.say(node, payload, key)

    def _get_me(self, node: Node) -> bytes:
        return self._validators.signers[node.identity].public

    def _has_record(self, node: Node, submission: Submission) -> bool:
        return self._simulation.submitters.has_record(node, submission.id)

    def _is_able(self, node: Node) -> bool:
        """Whether its machine passes its known-answer test."""
        now_ms = self._simulation.now_ms
        return not any(
            each.node == node.identity and each.from_ms <= now_ms < (each.to_ms or now_ms + 1)
            for each in self._withdrawals
        )

    def _can_judge(self, node: Node, submission: Submission) -> bool:
        if not self._is_able(node):
            return False
        needs = self._behaviours[node.index].needs_record
        return not needs or self._has_record(node, submission)

    def _make_case(self, node: Node, submission: Submission) -> Case:
        return Case(
            me=self._get_me(node),
            submission=submission,
            truth=get_truth(submission.submit.name),
            height=node.height,
            get_heard=lambda: self._get_heard(node, submission),
            random=self._simulation.random,
        )

    def _get_heard(self, node: Node, submission: Submission) -> list[Payload]:
        said = (
            decode_payload(tx)
            for tx in self._simulation.mempools.get_transactions(node)
            if tx.sender != self._get_me(node)
        )
        return [each for each in said if getattr(each, "submission", b"") == submission.id]

    # The kinds of work ---------------------------------------------------------------------------

    def _serve(self, node: Node, state: LedgerState) -> Said:
        standing = state.standings.get(self._get_me(node))
        if not self._withdrawals or standing is None:
            return
        classes = ("exact/1",) if self._is_able(node) else ()
        if not standing.statements or standing.device_classes != classes:
            yield Serve(standing.statements, classes), ("serve", standing.statements, classes)

    def _hold(self, node: Node, state: LedgerState) -> Said:
        for submission in get_unheld(state, self._get_me(node)):
            if not node.honest or self._has_record(node, submission):
                yield Hold(submission.id), ("hold", submission.id)

    def _answer_duties(self, node: Node, state: LedgerState) -> Said:
        for submission, duty in get_duties(state, self._get_me(node)):
            if self._can_judge(node, submission):
                case = self._make_case(node, submission)
                answer = self._behaviours[node.index].answer(case, duty)
                yield answer, ("duty", submission.id, duty.interval)

    def _accuse(self, node: Node, state: LedgerState) -> Said:
        for submission in state.open_submissions:
            if submission.phase == RETRACING and self._can_judge(node, submission):
                case = self._make_case(node, submission)
                accusation = self._behaviours[node.index].accuse(case)
                yield accusation, ("accuse", submission.id)

    def _refute(self, node: Node, state: LedgerState) -> Said:
        if not self._behaviours[node.index].needs_record:
            return  # it has retraced nothing that it could compare with
        for submission, _, duty in get_comparable(state, self._get_me(node)):
            truth = get_truth(submission.submit.name)
            if truth.is_made_up(duty):
                refutation = truth.record.make_refutation(submission.id, duty)
                yield refutation, ("refute", submission.id, duty.verifier, submission.extensions)

    def _sit_on_panels(self, node: Node, state: LedgerState) -> Said:
        for submission, accusation in get_accusations(state, self._get_me(node)):
            if self._can_judge(node, submission):
                case = self._make_case(node, submission)
                recomputed = self._behaviours[node.index].recompute(case, accusation)
                if recomputed is not None:
                    vote = PanelVote(
                        submission.id, accusation.interval, accusation.step, recomputed
                    )
                    yield vote, ("panel", submission.id, accusation.step)
