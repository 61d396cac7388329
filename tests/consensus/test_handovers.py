"""Following changes of the validators offline, one by one and by skipping."""

from __future__ import annotations

from functools import cache

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import make_certificate
from milepost_consensus.errors import InvalidInput
from milepost_consensus.governance import sign_update
from milepost_consensus.light import (
    Handover,
    ProofBundle,
    Trust,
    follow_handovers,
    make_bundle,
    make_trust,
    verify_bundle,
)
from milepost_consensus.members import VALIDATOR, VERIFIER, Member
from milepost_consensus.payloads import MemberUpdate
from milepost_consensus.state import LedgerState, SetChange
from milepost_consensus.votes import PRECOMMIT, Vote, sign_vote
from tests.support.ledger import Ledger, make_genesis, make_record, make_signer
from tests.support.validators import LINKS, make_onion

ROLES = VALIDATOR | VERIFIER


def sign_block(ledger: Ledger, block: Block, ids: tuple[bytes, ...], count: int = 0) -> Certificate:
    """Precommits of the first `count` of these validators, of all by default."""
    header = block.header
    block_id = compute_block_id(header, ledger.state.network)
    votes = [
        sign_vote(
            Vote(header.height, header.round, PRECOMMIT, block_id, member_id),
            ledger.signers[member_id],
            ledger.state.network,
        )
        for member_id in ids[: count or len(ids)]
    ]
    return make_certificate(votes, [ledger.state.members[member_id] for member_id in ids])


def swap(ledger: Ledger, joining: str, leaving: str) -> None:
    """Two updates: one validator comes, then one goes."""
    signer = make_signer(joining)
    ledger.signers[signer.public] = signer
    new = Member(
        *(signer.public, joining, ROLES, joining, ""),
        onion=make_onion(signer).get_head(0),
        onion_left=LINKS,
    )
    old = ledger.state.members[make_signer(leaving).public]
    for member in (new, replace(old, roles=0)):
        update = MemberUpdate((member,), ledger.state.height + 3)
        signers = [ledger.signers[each.id] for each in ledger.state.validators]
        update = sign_update(update, signers, ledger.state.network)
        ledger.apply([ledger.sign(update, ledger.state.validators[0].id)])
        ledger.run(2)


def make_handover(ledger: Ledger, change: SetChange, *, count: int = 0) -> Handover:
    block = ledger.blocks[change.height - 1]
    certificate = sign_block(ledger, block, change.before, count)
    return Handover(block.header, certificate, change.before, change.after)


@cache
def make_case() -> tuple[Ledger, tuple[Handover, ...], ProofBundle, Trust]:
    """Four founders who are all replaced; a verdict under the last set."""
    ledger = Ledger(make_genesis(4))
    for i in range(4):
        swap(ledger, f"new-{i}", f"node-{i}")
    submission = ledger.start(make_record())
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    state: LedgerState = ledger.state
    handovers = tuple(make_handover(ledger, change) for change in state.set_changes)
    ids = tuple(member.id for member in state.validators)
    block = ledger.blocks[-1]
    bundle = make_bundle(
        state, block.header, sign_block(ledger, block, ids), submission, handovers=handovers
    )
    return ledger, handovers, bundle, make_trust(state.genesis)


def reject(handovers: tuple[Handover, ...], slug: str, match: str) -> None:
    with pytest.raises(InvalidInput, match=match) as caught:
        follow_handovers(make_case()[3], handovers)
    assert caught.value.slug == slug


def test_a_verdict_of_later_validators_is_verified_from_the_founders() -> None:
    ledger, handovers, bundle, trust = make_case()
    assert len(handovers) == 8
    assert "8 changes later" in verify_bundle(bundle, trust)[0].detail
    founders = {member.id for member in trust.validators}
    assert not founders & {member.id for member in ledger.state.validators}


def test_without_the_changes_the_signers_are_strangers() -> None:
    _, handovers, bundle, trust = make_case()
    for some in ((), handovers[:-1]):
        with pytest.raises(InvalidInput) as caught:
            verify_bundle(replace(bundle, handovers=some), trust)
        assert caught.value.slug == "wrong-network"


def test_changes_may_be_skipped_while_a_third_of_the_known_validators_still_sign() -> None:
    ledger, handovers, _, trust = make_case()
    for first in (1, 2, 3):
        reached = follow_handovers(trust, handovers[first:])
        assert [m.id for m in reached] == [m.id for m in ledger.state.validators]
    # Of the four founders one signs the seventh change: that could be the one who lies.
    reject(handovers[6:], "wrong-network", "1 of 4 known validators signed")
    # Those who skip a few and then go on are as far.
    assert follow_handovers(trust, (handovers[2], *handovers[4:]))


def test_a_change_needs_two_thirds_of_those_who_make_it() -> None:
    ledger, handovers, _, _ = make_case()
    block = ledger.blocks[handovers[0].header.height - 1]
    votes = sign_block(ledger, block, handovers[0].signers)
    few = Certificate(votes.height, votes.round, votes.block_id, (0, 1), votes.signatures[:2])
    reject((replace(handovers[0], certificate=few),), "bad-block", "2 of 4 validators signed")


def test_forged_changes_lead_nowhere() -> None:
    _, handovers, bundle, trust = make_case()
    first, second = handovers[:2]
    stranger = make_signer("stranger").public
    others = tuple(sorted((*first.following[:-1], stranger)))
    reject((replace(first, following=others),), "bad-block", "hands over to other")
    reject((replace(first, signers=others),), "bad-block", "another validator set")
    reject((replace(first, following=first.following[::-1]),), "bad-block", "in order")
    reject((replace(first, following=()),), "bad-block", "in order")
    reject((replace(first, following=(b"short",)),), "bad-encoding", "validator")
    reject((second, first), "bad-block", "order of their heights")
    reject((first, first), "bad-block", "order of their heights")
    mixed = replace(first, certificate=second.certificate)
    reject((mixed,), "bad-block", "certificate")
    late = replace(bundle, header=first.header, certificate=first.certificate)
    with pytest.raises(InvalidInput, match="past its own block"):
        verify_bundle(late, trust)


def test_a_stricter_quorum_holds_for_the_validators_it_was_stated_for() -> None:
    ledger, handovers, _, trust = make_case()
    strict = replace(trust, quorum=4)
    assert follow_handovers(strict, handovers)
    change = ledger.state.set_changes[0]
    three = make_handover(ledger, change, count=3)
    assert follow_handovers(trust, (three, *handovers[1:]))
    with pytest.raises(InvalidInput, match="4 are needed"):
        follow_handovers(strict, (three, *handovers[1:]))
