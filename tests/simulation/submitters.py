"""Submitters, honest or not, and where the record of each run lies.

A submitter may give its record to some nodes only, or to nobody any more once it counts as held.
Whoever lacks a record asks the submitter and all other nodes in turn; of the nodes, honest ones
give what they have.  A validator that is honest says that it holds what it has, a liar whatever it
likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost_consensus.payloads import compute_submission_id
from milepost_consensus.submissions import ANCHORED
from milepost_consensus.transactions import Tx, make_tx
from tests.simulation.nodes import Node
from tests.simulation.options import Run
from tests.simulation.truth import get_truth, make_name

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

ASK_AGAIN_MS = 20
RESUBMIT_MS = 1_000
VALID_HEIGHTS = 900


class Submitters:
    """Everything that is submitted in one schedule."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._validators = simulation.validators
        self._runs: dict[bytes, Run] = {}
        """What was submitted so far, by the id of the submission."""
        self._asking: set[tuple[int, int, bytes]] = set()

    def plan(self) -> None:
        """Set the time of every submission."""
        for run in self._simulation.options.runs:
            self._simulation.at(run.at_ms, self._submit, run)

    def is_done(self) -> bool:
        """Whether everything that was submitted has its verdict at every honest node."""
        if len(self._runs) < len(self._simulation.options.runs):
            return False
        honest = self._simulation.honest
        return all(key in node.state.verdicts for node in honest for key in self._runs)

    def _submit(self, run: Run) -> None:
        submit = get_truth(make_name(run, self._simulation.options.seed)).record.submit
        signer, network = self._validators.submitter, self._validators.network
        height = max(node.height for node in self._simulation.honest)
        tx = make_tx(submit, signer=signer, valid_until=height + VALID_HEIGHTS, network=network)
        self._runs[compute_submission_id(signer.public, submit, network)] = run
        self._simulation.mempools.watch(tx)
        self._resubmit(tx)

    def _resubmit(self, tx: Tx) -> None:
        """Hand it to two nodes, and to two others later, until it is final."""
        simulation = self._simulation
        if simulation.mempools.is_waiting(tx):
            for node in simulation.random.sample(simulation.nodes, 2):
                simulation.mempools.on_tx(node, tx)
            simulation.at(RESUBMIT_MS, self._resubmit, tx)

    # Records -------------------------------------------------------------------------------------

    def has_record(self, node: Node, submission: bytes) -> bool:
        """Whether a node has a record; if not, it begins to ask for it."""
        if submission in node.records:
            return True
        key = (node.index, node.life, submission)
        if key not in self._asking:
            self._asking.add(key)
            self._ask(node, node.life, submission, 0)
        return False

    def _ask(self, node: Node, life: int, submission: bytes, turn: int) -> None:
        simulation = self._simulation
        if node.life != life or submission in node.records:
            return
        peers = [None, *(peer for peer in simulation.nodes if peer is not node)]
        peer = peers[turn % len(peers)]
        if peer is None:
            given = self._is_served(node, submission)
            delay_ms: float | None = 1.0
        else:
            given = peer.machine is not None and peer.honest and submission in peer.records
            delay_ms = simulation.wire.draw_answer_ms(node, peer) if given else None
        if given and delay_ms is not None:
            simulation.at(delay_ms, self._arrive, node, life, submission)
        simulation.at(ASK_AGAIN_MS, self._ask, node, life, submission, turn + 1)

    def _is_served(self, node: Node, submission: bytes) -> bool:
        run = self._runs[submission]
        if run.until_held:
            known = (each.state.submissions.get(submission) for each in self._simulation.honest)
            if any(each is not None and each.phase != ANCHORED for each in known):
                return False
        return not run.served or node.index in run.served

    def _arrive(self, node: Node, life: int, submission: bytes) -> None:
        if node.life == life:
            node.records.add(submission)
            self._simulation.verifiers.on_record(node)
