"""The laws of the chain: what every final block and every verdict has to be.

S2   a certificate holds more than two thirds of the validators' signatures, counted anew
S3   only signed transactions are in it, none twice
S6   whoever runs the blocks' bytes again from the genesis gets the same state roots
S7   every block names the one before it and those who sign it (member_laws.py); a verdict's proof
     bundle verifies offline
S8   mix, onions and seeds follow from the reveals alone (beacon_laws.py), and elect() deals the
     same duties again
S9   INVALID rests on an upheld witness, VALID on coverage, and while liars are fewer than half
     of the verifiers nobody honest is overruled or struck for what it said, and agreement without
     work does not count beside honest work
S10  what an honest witness has accused is never VALID, nor is it ever dismissed; with an honest
     assignee that could answer, a poisoned interval is never VALID
S11  no submission is lost: it stays on the chain and reaches a verdict, and with more than f
     honest holders its record is not lost either
S12  the offline check refuses headers that are not the chain's
S14  elected are those who stated the run's device class, or nothing, and nobody else has a say
L5   a verdict takes a bounded number of heights, whatever anybody does
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.draft import get_terms
from milepost_consensus.election import elect
from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import PersistDecision
from milepost_consensus.light import make_bundle, make_trust, verify_bundle
from milepost_consensus.members import compute_fault_limit, compute_quorum
from milepost_consensus.payloads import Serve
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import (
    AGREES,
    DECIDED,
    DISMISSED,
    REFUTED,
    RETRACING,
    SEEDING,
    UPHELD,
    Accusation,
    Submission,
)
from milepost_consensus.transactions import SERVE, verify_tx
from milepost_consensus.verdicts import INVALID, VALID, Verdict
from milepost_consensus.votes import PRECOMMIT, Vote, verify_vote
from tests.simulation.beacon_laws import BeaconLaws
from tests.simulation.member_laws import MemberLaws
from tests.simulation.monitor import Violation
from tests.simulation.nodes import Node
from tests.simulation.options import Options
from tests.simulation.truth import get_truth
from tests.support.validators import Validators

VERDICT_HEIGHTS = 120
"""L5: hold, three retracing windows, witness and panel windows three times, and some slack."""


class ChainLaws:
    """Follows the chain with a state of its own, made from the bytes of the blocks."""

    def __init__(self, validators: Validators, honest: Sequence[int], options: Options) -> None:
        self._validators = validators
        self._options = options
        self._before = self._state = validators.state
        self.beacon = BeaconLaws(validators.state)
        self.members = MemberLaws(validators.state)
        self._txs: set[bytes] = set()
        self._certificates: set[bytes] = set()
        self._honest = tuple(validators.signers[i].public for i in honest)
        everybody = range(len(validators.signers))
        liars = {i for i in everybody if i not in honest}
        liars |= {i for i, kind in enumerate(options.verifiers) if kind != "honest"}
        self._honest_verifiers = frozenset(
            validators.signers[i].public for i in everybody if i not in liars
        )
        leavers = {change.node for change in options.changes if change.kind == "leave"}
        leavers |= {withdrawal.node for withdrawal in options.withdrawals}
        self._staying = frozenset(
            validators.signers[i].public for i in everybody if i not in leavers
        )
        """Those who can answer all the time."""
        self._few_liars = 2 * len(liars) < options.count - len(leavers)
        self._stated: dict[bytes, Serve] = {}
        """The last statement of every verifier that made one."""

    def on_decision(self, before: LedgerState, decision: PersistDecision) -> None:
        """A block is final at some honest node."""
        header = decision.block.header
        if header.prev_id != before.last_id or header.height != before.height + 1:
            raise Violation(f"S7: block {header.height} does not follow its parent")
        self._check_certificate(decision.block, decision.certificate, before)
        if header.height == self._state.height + 1:
            self._follow(decision)
        if header.height > self._state.height:
            raise Violation(f"S7: block {header.height} came before its parent")

    def _check_certificate(
        self, block: Block, certificate: Certificate, before: LedgerState
    ) -> None:
        key = encode(certificate)
        if key in self._certificates:
            return
        self._certificates.add(key)
        block_id = compute_block_id(block.header, before.network)
        senders = set()
        for index, signature in zip(certificate.signers, certificate.signatures, strict=True):
            sender = before.validators[index].id
            place = (certificate.height, certificate.round, PRECOMMIT)
            verify_vote(Vote(*place, block_id, sender, signature), before.network)
            senders.add(sender)
        enough = len(senders) >= compute_quorum(len(before.validators))
        if not enough or certificate.height != block.header.height:
            raise Violation(f"S2: a certificate of height {certificate.height} is not one")

    def _follow(self, decision: PersistDecision) -> None:
        """The first time that a height is seen."""
        before = self._state
        block = decode(Block, encode(decision.block))
        try:
            after = validate_block(before, block, now_ms=None)
        except InvalidInput as error:
            raise Violation(f"S3: an invalid block is final: {error}") from error
        same = (after.root, after.last_id) == (decision.state.root, decision.state.last_id)
        if not same or after.root != block.header.state_root:
            raise Violation(f"S6: two states after block {after.height}")
        self.beacon.on_block(before, block, after)
        self.members.on_block(block, after)
        for tx in block.txs:
            verify_tx(tx, before.network)
            body = tx.sender + tx.kind.encode() + tx.payload
            if body in self._txs:
                raise Violation(f"S3: a transaction is in the chain twice: {tx.kind}")
            self._txs.add(body)
        self._before, self._state = before, after
        self._check_standings(after)
        if any(key not in after.submissions for key in before.submissions):
            raise Violation("S11: a submission is gone")
        for key, submission in after.submissions.items():
            previous = before.submissions.get(key)
            if submission is not previous:
                self._check_submission(previous, submission)
            self._check_deadline(submission)
        for tx in block.txs:
            if tx.kind == SERVE:
                self._stated[tx.sender] = decode(Serve, tx.payload)

    def _check_standings(self, state: LedgerState) -> None:
        standings = (state.standings.get(member) for member in self._honest)
        if any(standing is not None and standing.offence for standing in standings):
            raise Violation("S12: an honest validator is convicted of a double signature")
        members = self._honest_verifiers & state.standings.keys() if self._few_liars else ()
        if any(state.standings[member].lies for member in members):
            raise Violation("S9: an honest verifier is struck for what it said")

    # Submissions ---------------------------------------------------------------------------------

    def _check_submission(self, before: Submission | None, after: Submission) -> None:
        if after.quorum and not (before and before.quorum):
            self._check_election(after)
        if after.phase == SEEDING and (before is None or before.phase != SEEDING):
            self._check_holders(after)
        truth = get_truth(after.submit.name)
        for duty in after.duties:
            honest = duty.verifier in self._honest_verifiers
            if honest and duty.answer == AGREES and duty.interval in truth.poisoned:
                raise Violation("S9: an honest verifier attested a poisoned interval")
        if self._few_liars:
            self._check_dismissed(after)
        verdict = self._state.verdicts.get(after.id)
        if (verdict is not None) != (after.phase == DECIDED):
            raise Violation(f"S11: a submission is {after.phase}, its verdict says otherwise")
        if verdict is not None and before is not None and before.phase != DECIDED:
            self._check_verdict(after, verdict)

    def _check_dismissed(self, submission: Submission) -> None:
        """While liars are few, nothing is dropped that somebody honest says, or that liars say whom
        no panel has unmasked."""
        wrong = _find_unmasked(submission)
        for accusation in submission.accusations:
            if accusation.outcome != DISMISSED:
                continue
            claimants = _get_claimants(accusation)
            if claimants & self._honest_verifiers:
                raise Violation("S10: what an honest verifier accuses is dismissed")
            if not claimants <= wrong:
                raise Violation("S9: an accusation is dismissed before its accusers are unmasked")

    def _check_holders(self, submission: Submission) -> None:
        held = len(set(submission.holders).intersection(self._honest))
        if held <= compute_fault_limit(len(self._before.validators)):
            raise Violation(f"S11: a record counts as held, and {held} honest validators have it")

    def _check_deadline(self, submission: Submission) -> None:
        age = self._state.height - submission.anchored_height
        if submission.phase != DECIDED and age > VERDICT_HEIGHTS:
            raise Violation(f"L5: a submission is {submission.phase} after {age} heights")

    def _check_panel(self, submission: Submission) -> None:
        """By the statements in the blocks, counted without the ledger's own functions."""
        silent = Serve(0, ("exact/1",))  # what it serves who stated nothing
        wanted = submission.submit.device_class
        serving = [
            member.id
            for member in self._before.verifiers
            if wanted in self._stated.get(member.id, silent).device_classes
        ]
        if list(submission.panel) != serving:
            raise Violation("S14: the panel is not all who serve the run's device class")
        if not {*submission.quorum, *submission.standbys} <= set(serving):
            raise Violation("S14: somebody is elected that does not serve the run's device class")
        answers = {a.verifier for each in submission.accusations for a in each.answers}
        if not answers <= set(serving):
            raise Violation("S14: somebody who is not on the panel has a say")

    def _check_election(self, submission: Submission) -> None:
        self._check_panel(submission)
        terms = get_terms(self._before)
        election = elect(
            seed=submission.seed,
            submit=submission.submit,
            eligible=terms.get_eligible(submission.sender, submission.submit),
            flagged=submission.flagged,
            params=terms.params,
        )
        dealt = [(duty.interval, duty.verifier) for duty in submission.duties]
        if submission.phase == RETRACING and not submission.extensions:
            again = [(duty.interval, duty.verifier) for duty in election.duties]
            if dealt != again or election.quorum != submission.quorum:
                raise Violation("S8: the seed deals other duties than the chain")

    def _check_verdict(self, submission: Submission, verdict: Verdict) -> None:
        upheld = [a for a in submission.accusations if a.outcome == UPHELD]
        if (verdict.outcome == INVALID) != bool(upheld):
            raise Violation(f"S9: {verdict.outcome} with {len(upheld)} upheld witnesses")
        if verdict.outcome == VALID:
            self._check_coverage(submission)
        if not self._few_liars:
            return
        if self._honest_verifiers & set(verdict.overruled):
            raise Violation("S9: an honest verifier was overruled")
        truth = get_truth(submission.submit.name)
        if verdict.outcome == VALID:
            self._check_work(submission)
        if verdict.outcome == INVALID and not truth.poisoned:
            raise Violation("S9: a clean run is INVALID")
        if verdict.outcome == VALID and truth.poisoned:
            self._check_acquittal(submission, frozenset(truth.poisoned))

    def _check_coverage(self, submission: Submission) -> None:
        """What VALID promises, counted without the ledger's own functions."""
        if any(a.outcome not in (REFUTED, DISMISSED) for a in submission.accusations):
            raise Violation("S9: VALID with an accusation that nobody refuted")
        size = min(self._state.params.sub_quorum_size, len(submission.quorum))
        last = len(submission.submit.step_roots) - 1
        agreed = Counter(duty.interval for duty in submission.duties if duty.answer == AGREES)
        for interval in range(last + 1):
            need = size - size // 3 if interval in submission.flagged else 1
            if agreed[interval] < need:
                raise Violation(
                    f"S9: VALID without coverage: {agreed[interval]} of {need} agreeing answers"
                    f" for interval {interval}"
                )

    def _check_work(self, submission: Submission) -> None:
        """VALID counts no agreement without work beside that of somebody who did it."""
        truth = get_truth(submission.submit.name)
        honest = {
            duty.interval
            for duty in submission.duties
            if duty.answer == AGREES and duty.verifier in self._honest_verifiers & self._staying
        }
        if not self._is_undisturbed():
            return
        for duty in submission.duties:
            if duty.interval in honest and truth.is_made_up(duty):
                raise Violation("S9: lazy work beside honest work counts for VALID")

    def _is_undisturbed(self) -> bool:
        """Before the faults stop, an honest verifier may be cut off for the whole of a window."""
        return all(run.at_ms >= self._options.calm_ms for run in self._options.runs)

    def _check_acquittal(self, submission: Submission, poisoned: frozenset[int]) -> None:
        """A poisoned run was found VALID: nobody honest may have looked at the poison."""
        accusers = {
            accuser
            for accusation in submission.accusations
            if accusation.interval in poisoned
            for accuser in accusation.accusers
        }
        assigned = {duty.verifier for duty in submission.duties if duty.interval in poisoned}
        able = accusers | assigned if self._is_undisturbed() else accusers
        if self._honest_verifiers & self._staying & able:
            raise Violation("S10: a poisoned interval with an honest assignee is VALID")

    # The end -------------------------------------------------------------------------------------

    def check_end(self, nodes: Sequence[Node]) -> None:
        """What needs the whole chain: verdicts of all, proofs that hold and forgeries that do not.

        An auditor starts from the genesis and one node's bytes and knows nothing else.
        """
        chain = max((node.chain for node in nodes), key=len)
        last_id = self._validators.network
        for block, certificate, _ in chain:
            if block.header.prev_id != last_id or certificate.height != block.header.height:
                raise Violation(f"S7: the chain breaks at height {block.header.height}")
            last_id = compute_block_id(block.header, self._validators.network)
        handovers = self.members.check_end(chain)
        if not self._state.verdicts:
            return
        block, certificate, state = chain[-1]
        handovers = tuple(each for each in handovers if each.header.height < block.header.height)
        trust = make_trust(self._validators.genesis)
        for key in state.verdicts:
            bundle = make_bundle(state, block.header, certificate, key, handovers=handovers)
            verify_bundle(bundle, trust)
            header = replace(block.header, time_ms=block.header.time_ms + 1)
            forged_id = compute_block_id(header, self._validators.network)
            for forged in (
                replace(bundle, header=header),
                replace(
                    bundle,
                    header=header,
                    certificate=replace(certificate, block_id=forged_id),
                ),
            ):
                try:
                    verify_bundle(forged, trust)
                except InvalidInput:
                    continue
                raise Violation("S12: the offline check takes a header that is not the chain's")


def _get_claimants(accusation: Accusation) -> set[bytes]:
    """Who says that the step does not follow."""
    said = {a.verifier for a in accusation.answers if a.recomputed != accusation.leaf}
    return said | set(accusation.accusers)


def _find_unmasked(submission: Submission) -> set[bytes]:
    """Whose word about a step is known to be wrong: the truth about every run is, here."""
    truth = get_truth(submission.submit.name)
    return {
        answer.verifier
        for accusation in submission.accusations
        if accusation.outcome in (REFUTED, UPHELD)
        for answer in accusation.answers
        if answer.recomputed != truth.recompute(accusation.step)
    }.union(*(each.accusers for each in submission.accusations if each.outcome == REFUTED))
