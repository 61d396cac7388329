"""Mempools that gossip, a submitter, and verifiers that answer their duties, honestly or not.

Every node that validates verifies as well.  How, the options say by one word each:

    honest     retraces, attests or points at the step that does not follow, sits on panels
    ordered    agrees with every submitter, with the others of its kind
    chaotic    answers by the toss of a coin, on panels too
    accuser    accuses a step that follows, whenever it can, and insists on the panel
    withholds  takes duties and says nothing
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost_consensus.crypto import compute_digest
from milepost_consensus.events import Equivocation, PersistDecision, TransactionsWaiting
from milepost_consensus.governance import make_evidence
from milepost_consensus.members import compute_fault_limit
from milepost_consensus.payloads import (
    Attest,
    Hold,
    PanelVote,
    compute_submission_id,
    get_interval_count,
)
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import RETRACING, Duty, Submission
from milepost_consensus.transactions import Payload, Tx, make_tx
from milepost_consensus.worklist import get_accusations, get_duties, get_unheld
from tests.simulation.monitor import Violation
from tests.simulation.nodes import Node
from tests.simulation.options import Run
from tests.simulation.truth import STEPS, get_truth, make_name
from tests.support.ledger import make_hash

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

LIFETIME = 60
"""Heights for which an answer may wait."""
RESEND_GOSSIPS = 4


class Verifiers:
    """What all nodes know beside the agreement."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._random = simulation.random
        self._validators = simulation.validators
        self._kinds = simulation.options.verifiers
        self._pools: list[dict[bytes, Tx]] = [{} for _ in simulation.nodes]
        """The transactions that each node has and that are not final there, by signature."""
        self._said: list[set[tuple[object, ...]]] = [set() for _ in simulation.nodes]
        self._gossips = [0 for _ in simulation.nodes]
        self._pending: dict[bytes, Tx] = {}
        """What the submitter has said and not yet seen final."""
        self._expected: list[bytes] = []
        self._held: dict[bytes, int] = {}
        """The height from which on all honest nodes had a submission."""

    # The submitter -------------------------------------------------------------------------------

    def plan(self) -> None:
        """Set the time of every submission."""
        for run in self._simulation.options.runs:
            self._simulation.at(run.at_ms, self._submit, run)

    def _submit(self, run: Run) -> None:
        submit = get_truth(make_name(run, self._simulation.options.seed)).record.submit
        signer, network = self._validators.submitter, self._validators.network
        height = max(node.height for node in self._simulation.honest)
        tx = make_tx(submit, signer=signer, valid_until=height + 900, network=network)
        self._expected.append(compute_submission_id(signer.public, submit, network))
        self._pending[tx.signature] = tx
        self._resubmit(tx)

    def _resubmit(self, tx: Tx) -> None:
        """Hand it to two nodes, and to two others later, until it is final."""
        if tx.signature in self._pending:
            for node in self._random.sample(self._simulation.nodes, 2):
                self.on_tx(node, tx)
            self._simulation.at(1_000, self._resubmit, tx)

    def is_done(self) -> bool:
        """Whether everything that was submitted has its verdict at every honest node."""
        if len(self._expected) < len(self._simulation.options.runs):
            return False
        return all(
            key in node.state.verdicts for node in self._simulation.honest for key in self._expected
        )

    # Mempools ------------------------------------------------------------------------------------

    def on_tx(self, node: Node, tx: Tx) -> None:
        """A transaction arrives at a node that is up."""
        pool = self._pools[node.index]
        if node.machine is None or tx.signature in pool:
            return
        pool[tx.signature] = tx
        for peer in self._simulation.nodes:
            if peer is not node:
                self._simulation.wire.send_tx(node, peer, tx)
        self._simulation.tell(node, TransactionsWaiting())

    def on_gossip(self, node: Node) -> None:
        """Say again what is not final yet, now and then."""
        pool = self._pools[node.index]
        if self._simulation.calm:
            self._check_inclusion(node)
        self._gossips[node.index] += 1
        if pool and self._gossips[node.index] % RESEND_GOSSIPS == 0:
            for tx in list(pool.values()):
                for peer in self._simulation.nodes:
                    if peer is not node:
                        self._simulation.wire.send_tx(node, peer, tx)

    def _check_inclusion(self, node: Node) -> None:
        """L2: what all honest nodes hold is final after so many heights, whoever censors it.

        Of f+1 turns one is honest, and of 2f+1 where the order of turns changes among them.  A
        height may use up turns that the next one has again, so that liars may decide twice as many;
        what was proposed before the last one held it adds two.
        """
        honest = self._simulation.honest
        limit = 2 * (2 * compute_fault_limit(self._simulation.options.count) + 1) + 2
        for signature in self._pending:
            if all(signature in self._pools[each.index] for each in honest):
                height = max(each.height for each in honest)
                since = self._held.setdefault(signature, height)
                if node.honest and height > since + limit:
                    raise Violation(
                        f"L2: a submission waits since height {since}, this is {height}"
                    )

    def get_transactions(self, node: Node) -> tuple[Tx, ...]:
        """What a node proposes."""
        if not node.honest and "censor" in self._simulation.options.habits:
            return ()
        return tuple(self._pools[node.index].values())

    def on_boot(self, node: Node) -> None:
        """The process starts: its mempool is empty, and it works from its state again."""
        if self._kinds:
            self._pools[node.index].clear()
            self._said[node.index].clear()
            self._simulation.at(1, self._answer, node, node.life)

    def on_decision(self, node: Node, before: LedgerState, decision: PersistDecision) -> None:
        """A node has one more final block."""
        if not self._kinds:
            return
        pool = self._pools[node.index]
        for tx in decision.block.txs:
            pool.pop(tx.signature, None)
            if node.honest:
                self._pending.pop(tx.signature, None)
        height = decision.state.height
        for tx in [tx for tx in pool.values() if tx.valid_until <= height]:
            del pool[tx.signature]
        if decision.state.open_submissions:
            # Retracing takes its time.
            delay_ms = 1 + int(self._random.random() * 30)
            self._simulation.at(delay_ms, self._answer, node, node.life)

    # Verifiers -----------------------------------------------------------------------------------

    def _answer(self, node: Node, life: int) -> None:
        """Everything that the chain waits for from this node, said once per process."""
        if node.life != life or node.follows or node.machine is None:
            return
        state = node.state
        kind = self._kinds[node.identity]
        me = self._validators.signers[node.identity].public
        for submission in get_unheld(state, me):
            self._say(node, Hold(submission.id), ("hold", submission.id))
        if kind == "withholds":
            return
        for submission, duty in get_duties(state, me):
            key = ("duty", submission.id, duty.interval)
            self._say(node, self._get_answer(submission, duty, kind, me), key)
        if kind == "accuser":
            self._accuse_falsely(node, state)
        for submission, accusation in get_accusations(state, me):
            recomputed = self._recompute(submission, accusation.step, kind)
            vote = PanelVote(submission.id, accusation.interval, accusation.step, recomputed)
            self._say(node, vote, ("panel", submission.id, accusation.step))

    def _get_answer(self, submission: Submission, duty: Duty, kind: str, me: bytes) -> Payload:
        truth = get_truth(submission.submit.name)
        step = truth.get_poisoned_step(duty.interval)
        lies = kind == "ordered" or (kind == "chaotic" and self._random.random() < 0.5)
        if kind == "chaotic" and lies and step is None:
            wrong = make_hash("chaos", me, duty.interval)
            first = duty.interval * STEPS
            return truth.record.make_witness(submission.id, first, recomputed=wrong)
        if step is not None and not lies:
            recomputed = truth.recompute(step)
            return truth.record.make_witness(submission.id, step, recomputed=recomputed)
        return Attest(
            submission=submission.id,
            interval=duty.interval,
            agrees=1,
            work_step=duty.work_step,
            work_digest=compute_digest("work", me),
            distance_ppm=0,
        )

    def _recompute(self, submission: Submission, step: int, kind: str) -> bytes:
        truth = get_truth(submission.submit.name)
        leaf = truth.get_leaf(step)
        if kind == "ordered":
            return leaf
        if kind == "chaotic":
            return leaf if self._random.random() < 0.5 else make_hash("chaos", step)
        if kind == "accuser":
            return make_hash("false", step)
        return truth.recompute(step)

    def _accuse_falsely(self, node: Node, state: LedgerState) -> None:
        for submission in state.open_submissions:
            if submission.phase == RETRACING:
                truth = get_truth(submission.submit.name)
                interval = self._random.randrange(get_interval_count(submission.submit))
                step = interval * STEPS
                wrong = make_hash("false", step)
                witness = truth.record.make_witness(submission.id, step, recomputed=wrong)
                self._say(node, witness, ("accuse", submission.id))

    def on_equivocation(self, node: Node, caught: Equivocation) -> None:
        """A node has caught somebody, and tells the chain."""
        if self._kinds and node.machine is not None and not node.follows:
            evidence = make_evidence(caught.first, caught.second, self._validators.network)
            self._say(node, evidence, ("evidence", caught.first.signature))

    def _say(self, node: Node, payload: Payload, key: tuple[object, ...]) -> None:
        said = self._said[node.index]
        if key in said:
            return
        said.add(key)
        tx = make_tx(
            payload,
            signer=self._validators.signers[node.identity],
            valid_until=node.height + LIFETIME,
            network=self._validators.network,
        )
        self.on_tx(node, tx)
