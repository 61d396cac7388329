"""Evidence against validators, changes of the membership, fresh onions: R23 to R25.

Each function checks a transaction against what the chain knows and returns what it makes of it.
Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from milepost_consensus.crypto import Signer, verify_signature
from milepost_consensus.encoding import Uint, Wire, decode, encode, validate_uint
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.members import (
    Member,
    compute_fault_limit,
    compute_quorum,
    get_validators,
    get_verifiers,
    validate_member,
)
from milepost_consensus.params import MAX_LINKS, MAX_MEMBERS, Params
from milepost_consensus.payloads import Approval, Evidence, MemberUpdate, OnionRefresh
from milepost_consensus.standings import Standing, strike, turn_over
from milepost_consensus.votes import Proposal, ProposalClaim, Vote, get_claim, verify_vote

VOTE: Final = "vote"
PROPOSAL: Final = "proposal"
MAX_EVIDENCE_AGE: Final = 10_000
"""Heights after which a double signature is forgiven: nobody needs to keep older votes."""
MAX_EFFECTIVE_AHEAD: Final = 10_000
"""Heights that a change of the membership may lie ahead."""


class SignedClaim(Wire, frozen=True):
    """A proposal without its block: what its signature covers, and the signature."""

    claim: ProposalClaim
    signature: bytes


class Membership(Wire, frozen=True):
    """The change of the membership that is under way; `effective_height` 0 is none."""

    members: tuple[Member, ...] = ()
    effective_height: Uint = 0


# Evidence ----------------------------------------------------------------------------------------


def make_evidence(first: Vote | Proposal, second: Vote | Proposal, network: bytes) -> Evidence:
    """Of two contradicting messages of one validator."""
    if isinstance(first, Vote):
        return Evidence(VOTE, encode(first), encode(second))
    assert isinstance(second, Proposal)
    claims = [
        SignedClaim(get_claim(each, each.sender, network), each.signature)
        for each in (first, second)
    ]
    return Evidence(PROPOSAL, encode(claims[0]), encode(claims[1]))


def apply_evidence(
    evidence: Evidence,
    standings: Mapping[bytes, Standing],
    params: Params,
    *,
    height: int,
    network: bytes,
) -> Standing:
    """R23: the standing of the guilty, struck.  Raises InvalidInput where nothing is proven."""
    if evidence.kind == VOTE:
        places = [_verify_vote(data, network) for data in (evidence.first, evidence.second)]
    elif evidence.kind == PROPOSAL:
        places = [_verify_claim(data, network) for data in (evidence.first, evidence.second)]
    else:
        raise InvalidTransaction(f"evidence of kind {evidence.kind!r} is unknown")
    (offender, offence), other = places[0][:2], places[1]
    if places[0] != other or evidence.first == evidence.second:
        raise InvalidTransaction("the two messages do not contradict each other")
    standing = standings.get(offender)
    if standing is None:
        raise InvalidTransaction(f"{offender.hex()[:8]} is not a member", slug="not-a-member")
    if not height - MAX_EVIDENCE_AGE <= offence <= height:
        raise InvalidTransaction(
            f"the messages are of height {offence}; block {height} judges"
            f" {max(0, height - MAX_EVIDENCE_AGE)} to {height}",
            slug="expired",
        )
    if offence <= standing.offence:
        raise InvalidTransaction(
            f"a double signature of {offender.hex()[:8]} at height {standing.offence} is known",
            slug="duplicate",
        )
    return strike(replace(standing, offence=offence), params, height)


def _verify_vote(data: bytes, network: bytes) -> tuple[bytes, int, int, int]:
    vote = decode(Vote, data)
    verify_vote(vote, network)
    return vote.sender, vote.height, vote.round, vote.type


def _verify_claim(data: bytes, network: bytes) -> tuple[bytes, int, int, int]:
    signed = decode(SignedClaim, data)
    claim = signed.claim
    verify_signature(
        claim.sender, signed.signature, kind="proposal", body=encode(claim), network=network
    )
    return claim.sender, claim.height, claim.round, 0


# Membership --------------------------------------------------------------------------------------


def sign_update(update: MemberUpdate, signers: Iterable[Signer], network: bytes) -> MemberUpdate:
    """The update with the approvals of these validators."""
    bare = encode(replace(update, approvals=()))
    approvals = tuple(
        Approval(signer.public, signer.sign("approval", bare, network)) for signer in signers
    )
    return replace(update, approvals=(*update.approvals, *approvals))


def apply_update(
    update: MemberUpdate,
    members: Mapping[bytes, Member],
    under_way: Membership,
    *,
    height: int,
    network: bytes,
) -> Membership:
    """R24: the change that is under way from now on.  Raises InvalidInput where it is not allowed.

    At most (n - 1) / 3 validators, though at least one, change at once, and as many verifiers: the
    old and the new set then share more than two thirds of each.
    """
    if under_way.effective_height:
        raise InvalidTransaction(
            f"a change of the membership takes effect at height {under_way.effective_height};"
            " one at a time"
        )
    validate_uint(
        "effective_height",
        update.effective_height,
        low=height + 2,
        high=height + MAX_EFFECTIVE_AHEAD,
    )
    _verify_approvals(update, get_validators(members.values()), network)
    ids = [member.id for member in update.members]
    if not ids or ids != sorted(set(ids)):
        raise InvalidTransaction("an update lists different members, ordered by key")
    for member in update.members:
        validate_member(member)
    after = {**members, **{member.id: member for member in update.members}}
    if len(after) > MAX_MEMBERS or not get_validators(after.values()):
        raise InvalidTransaction(f"{len(after)} members, or no validator among them")
    for name, select in (("validators", get_validators), ("verifiers", get_verifiers)):
        before_ids = {member.id for member in select(members.values())}
        changed = before_ids ^ {member.id for member in select(after.values())}
        limit = max(1, compute_fault_limit(len(before_ids)))
        if len(changed) > limit:
            raise InvalidTransaction(f"{len(changed)} {name} change, allowed are {limit} at once")
    return Membership(update.members, update.effective_height)


def _verify_approvals(update: MemberUpdate, validators: Sequence[Member], network: bytes) -> None:
    ids = {member.id for member in validators}
    senders = {approval.sender for approval in update.approvals}
    needed = compute_quorum(len(ids))
    if not senders <= ids or len(senders) != len(update.approvals) or len(senders) < needed:
        raise InvalidTransaction(
            f"{len(senders & ids)} of {len(ids)} validators approve, {needed} are needed",
            slug="not-approved",
        )
    body = encode(replace(update, approvals=()))
    for approval in update.approvals:
        verify_signature(
            approval.sender, approval.signature, kind="approval", body=body, network=network
        )


# Onions ------------------------------------------------------------------------------------------


def apply_refresh(refresh: OnionRefresh, standing: Standing, *, height: int) -> Standing:
    """R25: the onion that follows once the present one is used up.

    The present one is peeled to its end: nobody may take another where it dislikes what comes.
    """
    if standing.next_left:
        raise InvalidTransaction("the next onion is promised already", slug="duplicate")
    if refresh.generation != standing.generation + 1:
        raise InvalidTransaction(
            f"onion {refresh.generation} is promised, the next one is {standing.generation + 1}",
            slug="duplicate",
        )
    validate_uint("onion_left", refresh.onion_left, low=1, high=MAX_LINKS)
    if len(refresh.onion) != 32:
        raise InvalidTransaction(f"the head of an onion has 32 bytes, not {len(refresh.onion)}")
    return turn_over(
        replace(
            standing,
            next_onion=refresh.onion,
            next_left=refresh.onion_left,
            next_promised=height,
        )
    )
