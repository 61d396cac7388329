"""Offline verification: is this verdict part of a chain that the members I trust made final?

Needs a trust file and a proof bundle, no node and no chain.  It shows that more than two thirds of
the trusted validators signed a ledger state that holds the submission and its verdict.  Whether a
model file is the one judged is a comparison of digests, left to whoever can read the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from milepost_consensus.blocks import Certificate, Header
from milepost_consensus.certificates import verify_certificate
from milepost_consensus.dsse import (
    Envelope,
    decode_statement,
    dump_envelope,
    encode_statement,
    load_envelope,
)
from milepost_consensus.encoding import (
    Wire,
    validate_digest,
    validate_text,
    validate_uint,
)
from milepost_consensus.errors import InvalidBlock, InvalidInput
from milepost_consensus.members import (
    VALIDATOR,
    Genesis,
    Member,
    compute_network_id,
    compute_quorum,
    compute_validators_hash,
    get_validators,
)
from milepost_consensus.merkle import verify_path
from milepost_consensus.origin import Origin, make_origin, verify_origin
from milepost_consensus.params import MAX_MEMBERS, MAX_PATH
from milepost_consensus.payloads import compute_submission_id, get_interval_count
from milepost_consensus.state import (
    LedgerState,
    encode_leaf,
    get_entry_path,
    get_submission_key,
    get_verdict_key,
)
from milepost_consensus.submissions import DECIDED, Submission
from milepost_consensus.verdicts import Verdict, compute_coverage
from milepost_consensus.views import View, from_view, to_view

TRUST_FORMAT: Final = "milepost/trust/1"
PROOF_FORMAT: Final = "milepost/proof/2"


class Trust(Wire, frozen=True):
    """Whom somebody trusts: the validators of one network and how many must sign."""

    network: str
    """The network's name, for people."""
    network_id: bytes
    validators: tuple[Member, ...]
    """Ordered by id."""
    quorum: int


class Handover(Wire, frozen=True):
    """A final block after which other validators sign.

    `signers` are the ids, in order, of the validators of this block, `following` those of the next.
    """

    header: Header
    certificate: Certificate
    signers: tuple[bytes, ...]
    following: tuple[bytes, ...]


class ProofBundle(Wire, frozen=True):
    """Everything that shows a verdict to somebody who holds a Trust."""

    handovers: tuple[Handover, ...]
    """From the trusted validators to those of the header, by height."""
    header: Header
    certificate: Certificate
    entries: int
    """Number of entries in the state that the header commits to."""
    submission: Submission
    submission_index: int
    submission_path: tuple[bytes, ...]
    verdict: Verdict
    verdict_index: int
    verdict_path: tuple[bytes, ...]
    origin: Origin
    """What the verdict's registration and parents are, from the same state."""


class Check(NamedTuple):
    """One thing that was verified, for people."""

    name: str
    detail: str


def make_trust(genesis: Genesis) -> Trust:
    """Trust in all validators of a genesis."""
    validators = get_validators(genesis.members)
    return Trust(
        network=genesis.network,
        network_id=compute_network_id(genesis),
        validators=validators,
        quorum=compute_quorum(len(validators)),
    )


def validate_trust(trust: Trust) -> None:
    """Raises InvalidInput (slug bad-trust) unless a trust can mean anything."""
    validate_text("network", trust.network)
    validate_digest("network_id", trust.network_id)
    ids = [member.id for member in trust.validators]
    if not 1 <= len(ids) <= MAX_MEMBERS or ids != sorted(set(ids)):
        raise InvalidInput(
            "the trust file must list different validators, ordered by key", slug="bad-trust"
        )
    if any(not member.roles & VALIDATOR for member in trust.validators):
        raise InvalidInput("the trust file lists a member that is no validator", slug="bad-trust")
    least = compute_quorum(len(ids))
    if not least <= trust.quorum <= len(ids):
        raise InvalidInput(
            f"a quorum of {trust.quorum} of {len(ids)} validators is not safe;"
            f" allowed are {least} to {len(ids)}",
            slug="bad-trust",
        )


def dump_trust(trust: Trust) -> View:
    """The JSON data of a trust file."""
    return {"format": TRUST_FORMAT, **to_view(trust)}


def load_trust(view: object) -> Trust:
    """The trust in the JSON data of a trust file; raises InvalidInput where it is not one."""
    if not isinstance(view, dict) or view.get("format") != TRUST_FORMAT:
        raise InvalidInput(f"not a trust file of format {TRUST_FORMAT}", slug="bad-trust")
    trust = from_view(Trust, {key: value for key, value in view.items() if key != "format"})
    validate_trust(trust)
    return trust


def make_bundle(
    state: LedgerState,
    header: Header,
    certificate: Certificate,
    submission_id: bytes,
    *,
    handovers: Sequence[Handover] = (),
) -> ProofBundle:
    """The proof of a decided submission out of the state that `header` commits to.

    `handovers` are all changes of the validators below the header's height.

    Raises KeyError where the submission has no verdict in this state.
    """
    assert (header.height, header.state_root) == (state.height, state.root)
    verdict_key, submission_key = get_verdict_key(submission_id), get_submission_key(submission_id)
    _, verdict_index, entries, verdict_path = get_entry_path(state, verdict_key)
    _, submission_index, _, submission_path = get_entry_path(state, submission_key)
    return ProofBundle(
        handovers=tuple(handovers),
        header=header,
        certificate=certificate,
        entries=entries,
        submission=state.submissions[submission_id],
        submission_index=submission_index,
        submission_path=submission_path,
        verdict=state.verdicts[submission_id],
        verdict_index=verdict_index,
        verdict_path=verdict_path,
        origin=make_origin(state, state.verdicts[submission_id]),
    )


def seal_bundle(bundle: ProofBundle) -> Envelope:
    """The bundle as an in-toto statement about the judged model, not signed yet."""
    return Envelope(
        encode_statement(
            bundle.submission.submit.name, bundle.verdict.model_digest, {"bundle": to_view(bundle)}
        )
    )


def open_envelope(envelope: Envelope) -> ProofBundle:
    """The bundle that an envelope holds; raises InvalidInput where it is not one."""
    subject, predicate = decode_statement(envelope.payload)
    if predicate.keys() != {"bundle"}:
        raise InvalidInput("the statement's predicate is not one bundle", slug="bad-proof")
    bundle = from_view(ProofBundle, predicate["bundle"])
    if subject != bundle.verdict.model_digest:
        raise InvalidInput(
            f"the statement is about model {subject.hex()[:16]}, the verdict inside about"
            f" {bundle.verdict.model_digest.hex()[:16]}",
            slug="bad-proof",
        )
    return bundle


def dump_proof(envelope: Envelope) -> View:
    """The JSON data of a proof file."""
    return {"format": PROOF_FORMAT, "envelope": dump_envelope(envelope)}


def load_proof(view: object) -> Envelope:
    """The envelope in the JSON data of a proof file; raises InvalidInput where it is not one."""
    if not isinstance(view, dict) or view.get("format") != PROOF_FORMAT:
        raise InvalidInput(f"not a proof file of format {PROOF_FORMAT}", slug="bad-proof")
    if view.keys() != {"format", "envelope"}:
        raise InvalidInput("a proof file holds its format and one envelope", slug="bad-proof")
    return load_envelope(view["envelope"])


def verify_bundle(bundle: ProofBundle, trust: Trust) -> tuple[Check, ...]:
    """Check a bundle against a trust and say what was checked, in order.

    Raises InvalidInput: slug wrong-network where the signers are not those trusted, bad-block for
    too few or doubtful signers, bad-signature, bad-path where an entry is not in the signed state,
    bad-proof where the parts belong to different submissions.
    """
    validate_trust(trust)
    return (
        _verify_final(bundle, trust),
        _verify_recorded(bundle),
        _verify_subject(bundle, trust),
    )


def follow_handovers(trust: Trust, handovers: Sequence[Handover]) -> tuple[Member, ...]:
    """The validators that the trusted ones lead to, one change after the other.

    A handover signed by the validators known so far vouches for the next ones (sequential
    verification).  One of later validators counts if more than a third of the known ones are among
    its signers, so that an honest one is, beside more than two thirds of its own set (skipping
    verification, as light clients of Tendermint do it).  Raises InvalidInput otherwise.
    """
    known, height = trust.validators, 0
    for handover in handovers:
        header, certificate = handover.header, handover.certificate
        if header.height <= height:
            raise InvalidBlock("the handovers are not in the order of their heights")
        signers, following = (_name(ids) for ids in (handover.signers, handover.following))
        verify_certificate(certificate, header, signers, trust.network_id)
        ids = {member.id for member in known}
        present = sum(signers[index].id in ids for index in certificate.signers)
        if known is trust.validators and _is_same(signers, known):
            needed = trust.quorum
        elif _is_same(signers, known):
            needed = compute_quorum(len(known))
        else:
            needed = len(known) // 3 + 1
        if present < needed:
            raise InvalidBlock(
                f"{present} of {len(known)} known validators signed block {header.height}, after"
                f" which others follow; {needed} are needed",
                slug="wrong-network",
            )
        if header.next_validators_hash != compute_validators_hash(following):
            raise InvalidBlock(f"block {header.height} hands over to other validators")
        known, height = following, header.height
    return known


def _name(ids: Sequence[bytes]) -> tuple[Member, ...]:
    """Validators of whom nothing is known but their keys; raises InvalidInput for a bad list."""
    if not 1 <= len(ids) <= MAX_MEMBERS or list(ids) != sorted(set(ids)):
        raise InvalidBlock("validators are not different keys in order")
    for member_id in ids:
        validate_digest("validator", member_id)
    return tuple(Member(member_id, member_id.hex()[:8], VALIDATOR, "") for member_id in ids)


def _is_same(one: Sequence[Member], other: Sequence[Member]) -> bool:
    return [member.id for member in one] == [member.id for member in other]


def _verify_final(bundle: ProofBundle, trust: Trust) -> Check:
    validators = follow_handovers(trust, bundle.handovers)
    if bundle.handovers and bundle.handovers[-1].header.height >= bundle.header.height:
        raise InvalidBlock("the proof follows changes of the validators past its own block")
    if bundle.header.validators_hash != compute_validators_hash(validators):
        raise InvalidBlock(
            f"the block was made by other validators than those of {trust.network}",
            slug="wrong-network",
        )
    verify_certificate(bundle.certificate, bundle.header, validators, trust.network_id)
    signed = len(bundle.certificate.signers)
    needed = compute_quorum(len(validators)) if bundle.handovers else trust.quorum
    if signed < needed:
        raise InvalidBlock(f"{signed} validators signed, the trust file asks for {needed}")
    followed = f", {len(bundle.handovers)} changes later" if bundle.handovers else ""
    return Check(
        "final",
        f"block {bundle.header.height} signed by {signed} of {len(validators)} validators"
        f"{followed} ({needed} needed)",
    )


def _verify_recorded(bundle: ProofBundle) -> Check:
    root = bundle.header.state_root
    for name, leaf, index, path in (
        (
            "submission",
            encode_leaf(get_submission_key(bundle.submission.id), bundle.submission),
            bundle.submission_index,
            bundle.submission_path,
        ),
        (
            "verdict",
            encode_leaf(get_verdict_key(bundle.verdict.submission), bundle.verdict),
            bundle.verdict_index,
            bundle.verdict_path,
        ),
    ):
        validate_uint(f"{name} path length", len(path), high=MAX_PATH)
        verify_path(root, leaf, index=index, count=bundle.entries, path=path)
    verify_origin(bundle.origin, bundle.verdict, root=root, entries=bundle.entries)
    return Check(
        "recorded",
        f"submission and verdict are in the state after block {bundle.header.height}"
        f" ({len(bundle.verdict_path)}-step path)",
    )


def _verify_subject(bundle: ProofBundle, trust: Trust) -> Check:
    """The chain's own rules imply all of this; a bundle put together by hand may break it."""
    submission, verdict = bundle.submission, bundle.verdict
    expected = compute_submission_id(submission.sender, submission.submit, trust.network_id)
    fits = (
        verdict.submission == submission.id == expected
        and submission.phase == DECIDED
        and verdict.sender == submission.sender
        and verdict.model_digest == submission.submit.model_digest
        and verdict.registration == submission.submit.registration
        and verdict.parent == submission.submit.parent
        and verdict.intervals == get_interval_count(submission.submit)
        and verdict.registration == submission.submit.registration
        and verdict.parent == submission.submit.parent
        and verdict.registrations == submission.registrations
        and verdict.coverage
        == compute_coverage(verdict.retraced, intervals=verdict.intervals, rule=verdict.rule)
        and verdict.height <= bundle.header.height
    )
    if not fits:
        raise InvalidInput(
            f"the verdict is about submission {verdict.submission.hex()[:8]}, the proof shows"
            f" {submission.id.hex()[:8]}: it was put together by hand",
            slug="bad-proof",
        )
    return Check("verdict", f"{verdict.outcome}: {verdict.reason}")
