"""The next block's state while it is being made: transactions and the passing height, over a base.

New submissions (R8), seeds (R13, R28) and the order in which things happen are decided here; who
may send a transaction in envelopes.py, what an answer does to a submission in answers.py, what a
height does to it in verification.py, what a verdict does to standings in penalties.py; evidence,
membership and onions in governance.py.  Rule numbers refer to
docs/spec/rules.md.
"""

from __future__ import annotations

from msgspec.structs import replace

from milepost_consensus.answers import (
    apply_attest,
    apply_hold,
    apply_panel_vote,
    apply_witness,
    apply_work_refutation,
)
from milepost_consensus.beacon import compute_mix
from milepost_consensus.duties import Terms
from milepost_consensus.election import compute_seed
from milepost_consensus.envelopes import check_envelope
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.governance import (
    Membership,
    apply_evidence,
    apply_refresh,
    apply_update,
)
from milepost_consensus.members import (
    Member,
    compute_fault_limit,
    compute_quorum,
)
from milepost_consensus.params import BEACON
from milepost_consensus.payloads import (
    Attest,
    Hold,
    MemberUpdate,
    OnionRefresh,
    Register,
    Serve,
    Submit,
    Witness,
    WorkRefutation,
    compute_submission_id,
    validate_submit,
)
from milepost_consensus.penalties import apply_verdict, strike_liar
from milepost_consensus.registrations import (
    Registration,
    apply_register,
    compute_registered_seed,
    validate_parent,
    validate_use,
)
from milepost_consensus.services import apply_serve, get_served
from milepost_consensus.standings import (
    Standing,
    is_mixed,
    make_standing,
    miss_turn,
    peel,
    take_turn,
)
from milepost_consensus.state import LedgerState, apply_entries
from milepost_consensus.submissions import ANCHORED, SEEDING, Submission
from milepost_consensus.transactions import (
    Answer,
    Governance,
    Tx,
)
from milepost_consensus.verdicts import VALID, Verdict
from milepost_consensus.verification import advance, apply_seed
from milepost_consensus.windows import compute_hold_window


def get_terms(state: LedgerState) -> Terms:
    """The terms on which submissions are verified in this state."""
    return Terms(
        params=state.params,
        members=state.members,
        verifiers=state.verifiers,
        hold_quorum=compute_quorum(len(state.validators)),
        jailed=frozenset(s.id for s in state.standings.values() if s.jailed_until > state.height),
        barred=frozenset(
            s.id for s in state.standings.values() if s.lies >= state.params.max_strikes
        ),
        served=get_served(state.standings.values()),
    )


class Draft:
    """Entries changed so far, over a base state.

    `apply_tx` either takes effect or raises InvalidInput and changes nothing.
    """

    def __init__(self, base: LedgerState) -> None:
        self._base = base
        self._terms = get_terms(base)
        self._height = base.height + 1
        self._membership: Membership | None = None
        self._members: dict[bytes, Member] = {}
        self._standings: dict[bytes, Standing] = {}
        self._registrations: dict[bytes, Registration] = {}
        self._submissions: dict[bytes, Submission] = {}
        self._models: dict[bytes, bytes] = {}
        """New submissions by model."""
        self._verdicts: dict[bytes, Verdict] = {}

    def apply_tx(self, tx: Tx) -> None:
        """R6: one transaction, in the state that those before it left."""
        payload = check_envelope(tx, self._base)
        if isinstance(payload, Register):
            self._register(tx.sender, payload)
        elif isinstance(payload, Submit):
            self._keep(self._make_submission(tx.sender, payload))
        elif isinstance(payload, Answer):
            self._keep(self._apply_answer(tx.sender, payload))
        else:
            self._apply_governance(tx.sender, payload)

    def close(self, *, round_: int, reveal: bytes) -> None:
        """What the block itself does, after its transactions.

        Turns and the beacon first, then the height passes for every open submission, oldest first,
        then a change of the membership takes effect.  `reveal` is the proposer's, checked.
        """
        self._take_turns(round_, reveal)
        mix = compute_mix(self._base.mix, reveal, self._height)
        self._seed_registrations(mix)
        added = [key for key in self._submissions if key not in self._base.submissions]
        for key in [*(each.id for each in self._base.open_submissions), *added]:
            submission = self._give_seed(self._get_submission(key), mix)
            following, verdict = advance(submission, self._terms, height=self._height)
            if following is not self._base.submissions.get(key):
                self._submissions[key] = following
            if verdict is not None:
                self._verdicts[key] = verdict
                self._standings |= apply_verdict(
                    {**self._base.standings, **self._standings},
                    following,
                    verdict,
                    self._base.params,
                    height=self._height,
                )
        self._change_members()

    def get_state(self) -> LedgerState:
        """The base state with the changed entries written."""
        return apply_entries(
            self._base,
            members=self._members,
            membership=self._membership,
            standings=self._standings,
            registrations=self._registrations,
            submissions=self._submissions,
            verdicts=self._verdicts,
        )

    def _keep(self, submission: Submission) -> None:
        self._submissions[submission.id] = submission

    def _get_standing(self, member_id: bytes) -> Standing:
        return self._standings.get(member_id) or self._base.standings[member_id]

    def _get_standings(self) -> list[Standing]:
        return [self._get_standing(key) for key in self._base.standings]

    # What the block does -------------------------------------------------------------------------

    def _take_turns(self, round_: int, reveal: bytes) -> None:
        """R21, R22."""
        proposers = self._base.proposers
        for missed in range(min(round_, len(proposers))):
            absent = proposers[(self._height + missed) % len(proposers)].id
            self._standings[absent] = miss_turn(
                self._get_standing(absent), self._base.params, self._height
            )
        proposer = proposers[(self._height + round_) % len(proposers)].id
        standing = take_turn(self._get_standing(proposer))
        if reveal:
            standing = peel(standing, reveal, self._height)
        if standing is not self._base.standings[proposer]:
            self._standings[proposer] = standing

    def _give_seed(self, submission: Submission, mix: bytes) -> Submission:
        """R13: from the first mix that nobody could know when the submission was anchored."""
        due = not submission.seed and submission.phase in (ANCHORED, SEEDING)
        if not due or self._base.params.seed_source != BEACON:
            return submission
        if not self._is_mixed(submission.anchored_height):
            return submission
        return replace(submission, seed=compute_seed(mix, submission.id))

    def _seed_registrations(self, mix: bytes) -> None:
        """R28: like a submission's, or by the id of the block that carried the registration."""
        from_beacon = self._base.params.seed_source == BEACON
        randomness = mix if from_beacon else self._base.last_id
        for registration in self._base.seedless_registrations:
            if not from_beacon or self._is_mixed(registration.height):
                seed = compute_registered_seed(randomness, registration.id)
                current = self._get_registration(registration.id)
                self._registrations[registration.id] = replace(current, seed=seed)

    def _is_mixed(self, since: int) -> bool:
        fault_limit = compute_fault_limit(len(self._base.validators))
        return is_mixed(since, self._get_standings(), fault_limit)

    def _change_members(self) -> None:
        """R24: the next height is agreed on under the new membership."""
        membership = self._membership or self._base.membership
        if membership.effective_height != self._height + 1:
            return
        self._membership = Membership()
        for member in membership.members:
            self._members[member.id] = member
            if member.id not in self._base.standings:
                self._standings[member.id] = make_standing(member, self._height)

    # Transactions --------------------------------------------------------------------------------

    def _apply_governance(self, sender: bytes, payload: Governance) -> None:
        """R23 to R25, R29."""
        if isinstance(payload, MemberUpdate):
            self._membership = apply_update(
                payload,
                self._base.members,
                self._membership or self._base.membership,
                height=self._height,
                network=self._base.network,
            )
            return
        if isinstance(payload, OnionRefresh):
            standing = apply_refresh(payload, self._get_standing(sender), height=self._height)
        elif isinstance(payload, Serve):
            standing = apply_serve(payload, self._get_standing(sender))
        else:
            standing = apply_evidence(
                payload,
                {**self._base.standings, **self._standings},
                self._base.params,
                height=self._height,
                network=self._base.network,
            )
        self._standings[standing.id] = standing

    def _register(self, sender: bytes, register: Register) -> None:
        """R28."""
        registration, standing = apply_register(
            register, self._get_standing(sender), height=self._height, network=self._base.network
        )
        self._registrations[registration.id] = registration
        self._standings[sender] = standing

    def _get_registration(self, registration_id: bytes) -> Registration:
        found = self._registrations.get(registration_id) or self._base.registrations.get(
            registration_id
        )
        if found is None:
            raise InvalidTransaction(
                f"no registration {registration_id.hex()[:8]} is on the chain",
                slug="unknown-registration",
            )
        return found

    def _use_registration(self, sender: bytes, submit: Submit) -> Registration:
        """R8: for one run that is valid or may become so."""
        registration = self._get_registration(submit.registration)
        validate_use(registration, submit, sender=sender)
        user = registration.submission
        verdict = self._base.verdicts.get(user)
        if user and (verdict is None or verdict.outcome == VALID):
            raise InvalidTransaction(
                f"submission {user.hex()[:8]} has used this registration",
                slug="registration-used",
            )
        return registration

    def _make_submission(self, sender: bytes, submit: Submit) -> Submission:
        """R8: a well-formed record of a model that is not on the chain yet."""
        validate_submit(submit)
        self._check_served(sender, submit)
        submission_id = compute_submission_id(sender, submit, self._base.network)
        if submission_id in self._base.submissions or submission_id in self._submissions:
            raise InvalidTransaction("this very submission is on the chain", slug="duplicate")
        model = submit.model_digest
        other = self._base.models.get(model) or self._models.get(model)
        if other is not None:
            raise InvalidTransaction(
                f"the same model is on the chain as submission {other.hex()[:8]}",
                slug="duplicate",
            )
        if submit.parent:
            validate_parent(submit, self._base.verdicts)
        registrations = 0
        if submit.registration:
            used = self._use_registration(sender, submit)
            self._registrations[used.id] = replace(used, submission=submission_id)
            registrations = self._get_standing(sender).registrations
        self._models[model] = submission_id
        return Submission(
            id=submission_id,
            sender=sender,
            submit=submit,
            anchored_height=self._height,
            deadline=self._height + compute_hold_window(submit, self._base.params),
            registrations=registrations,
        )

    def _check_served(self, sender: bytes, submit: Submit) -> None:
        """R8: what nobody can retrain is refused at once, and not undecided much later."""
        if not self._terms.get_servers(sender, submit):
            raise InvalidTransaction(
                f"no verifier of another operator serves {submit.device_class}", slug="not-served"
            )

    def _apply_answer(self, sender: bytes, payload: Answer) -> Submission:
        """R9 to R12, R26: an answer about a submission on the chain."""
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
        if isinstance(payload, WorkRefutation):
            refuted = apply_work_refutation(submission, payload, self._terms, sender=sender)
            self._standings[payload.verifier] = strike_liar(
                self._get_standing(payload.verifier), self._base.params, self._height
            )
            return refuted
        return apply_panel_vote(submission, payload, sender=sender)

    def _get_seed(self, submission: Submission) -> bytes:
        """R14: the seed that is known at the start of this block."""
        if self._base.params.seed_source == BEACON:
            return submission.seed
        return compute_seed(self._base.last_id, submission.id)

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
        seed = self._get_seed(submission)
        if submission.phase == SEEDING and seed:
            submission = self._submissions[submission_id] = apply_seed(
                submission, self._terms, seed=seed, height=self._height
            )
        return submission
