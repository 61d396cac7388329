"""The next block's state while it is being made: transactions and the passing height, over a base.

The envelope of transactions (R7), new submissions (R8) and the order in which things happen are
decided here; what an answer does to a submission in answers.py, what a height does in
verification.py.  Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.answers import (
    apply_attest,
    apply_hold,
    apply_panel_vote,
    apply_witness,
)
from milepost_consensus.duties import Terms
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.members import SUBMITTER, VALIDATOR, VERIFIER, compute_quorum
from milepost_consensus.state import LedgerState, apply_entries
from milepost_consensus.submissions import (
    ATTEST,
    HOLD,
    PANEL_VOTE,
    SEEDING,
    SUBMIT,
    WITNESS,
    Attest,
    Hold,
    PanelVote,
    Payload,
    Submission,
    Submit,
    Tx,
    Witness,
    compute_submission_id,
    decode_payload,
    validate_submit,
    verify_tx,
)
from milepost_consensus.verdicts import INVALID, UNDECIDED, Verdict
from milepost_consensus.verification import advance, apply_seed

MAX_VALID_AHEAD: Final = 1_000
"""Heights that a transaction may wait: nodes need not remember it for longer."""

_ROLES: Final = {
    SUBMIT: SUBMITTER,
    HOLD: VALIDATOR,
    ATTEST: VERIFIER,
    WITNESS: VERIFIER,
    PANEL_VOTE: VERIFIER,
}


def get_terms(state: LedgerState) -> Terms:
    """The terms on which submissions are verified in this state."""
    return Terms(
        params=state.params,
        members=state.members,
        verifiers=state.verifiers,
        hold_quorum=compute_quorum(len(state.validators)),
    )


class Draft:
    """Entries changed so far, over a base state.

    `apply_tx` either takes effect or raises InvalidInput and changes nothing.
    """

    def __init__(self, base: LedgerState) -> None:
        self._base = base
        self._terms = get_terms(base)
        self._height = base.height + 1
        self._submissions: dict[bytes, Submission] = {}
        self._verdicts: dict[bytes, Verdict] = {}

    def apply_tx(self, tx: Tx) -> None:
        """R6, R7: one transaction, in the state that those before it left."""
        payload = self._check_envelope(tx)
        if isinstance(payload, Submit):
            following = self._make_submission(tx.sender, payload)
        else:
            following = self._apply_answer(tx.sender, payload)
        self._submissions[following.id] = following

    def close(self) -> None:
        """The height passes for every open submission, oldest first."""
        added = [key for key in self._submissions if key not in self._base.submissions]
        for key in [*(each.id for each in self._base.open_submissions), *added]:
            submission = self._get_submission(key)
            following, verdict = advance(submission, self._terms, height=self._height)
            if following is not self._base.submissions.get(key):
                self._submissions[key] = following
            if verdict is not None:
                self._verdicts[key] = verdict

    def get_state(self) -> LedgerState:
        """The base state with the changed entries written."""
        return apply_entries(self._base, submissions=self._submissions, verdicts=self._verdicts)

    def _check_envelope(self, tx: Tx) -> Payload:
        """R7: a member with the right role signed it for this network and about this time."""
        role = _ROLES.get(tx.kind)
        if role is None:
            raise InvalidTransaction(f"unknown transaction kind {tx.kind!r}")
        member = self._base.members.get(tx.sender)
        if member is None or not member.roles & role:
            raise InvalidTransaction(
                f"{tx.sender.hex()[:8]} is not a member that may send {tx.kind}",
                slug="not-a-member",
            )
        if not self._height <= tx.valid_until <= self._height + MAX_VALID_AHEAD:
            raise InvalidTransaction(
                f"valid until height {tx.valid_until}; block {self._height} takes"
                f" {self._height} to {self._height + MAX_VALID_AHEAD}",
                slug="expired",
            )
        verify_tx(tx, self._base.network)
        return decode_payload(tx)

    def _make_submission(self, sender: bytes, submit: Submit) -> Submission:
        """R8: a well-formed record of a model that is not on the chain yet."""
        validate_submit(submit)
        submission_id = compute_submission_id(sender, submit, self._base.network)
        if submission_id in self._base.submissions or submission_id in self._submissions:
            raise InvalidTransaction("this very submission is on the chain", slug="duplicate")
        for other in (*self._base.submissions.values(), *self._submissions.values()):
            verdict = self._base.verdicts.get(other.id)
            failed = verdict is not None and verdict.outcome in (INVALID, UNDECIDED)
            if other.submit.model_digest == submit.model_digest and not failed:
                raise InvalidTransaction(
                    f"the same model is on the chain as submission {other.id.hex()[:8]}",
                    slug="duplicate",
                )
        return Submission(
            id=submission_id,
            sender=sender,
            submit=submit,
            anchored_height=self._height,
            deadline=self._height + self._base.params.hold_window,
        )

    def _apply_answer(
        self, sender: bytes, payload: Hold | Attest | Witness | PanelVote
    ) -> Submission:
        """R9 to R12: an answer about a submission on the chain."""
        submission = self._get_submission(payload.submission)
        if isinstance(payload, Hold):
            return apply_hold(submission, sender=sender)
        if isinstance(payload, Attest):
            return apply_attest(
                submission, payload, self._terms, sender=sender, height=self._height
            )
        if isinstance(payload, Witness):
            return apply_witness(
                submission, payload, self._terms, sender=sender, height=self._height
            )
        return apply_panel_vote(submission, payload, sender=sender)

    def _get_submission(self, submission_id: bytes) -> Submission:
        """A submission as the transactions so far left it, its election held where it is due."""
        changed = self._submissions.get(submission_id)
        if changed is not None:
            return changed
        submission = self._base.submissions.get(submission_id)
        if submission is None:
            raise InvalidTransaction(
                f"no submission {submission_id.hex()[:8]} is on the chain",
                slug="unknown-submission",
            )
        if submission.phase == SEEDING:
            submission = self._submissions[submission_id] = apply_seed(
                submission, self._terms, prev_id=self._base.last_id, height=self._height
            )
        return submission
