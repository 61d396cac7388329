"""Evidence and changes of the membership: R23 and R24."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidInput, InvalidMessage
from milepost_consensus.events import Behind, ReceivedVote
from milepost_consensus.governance import (
    MAX_EVIDENCE_AGE,
    PROPOSAL,
    VOTE,
    make_evidence,
    sign_update,
)
from milepost_consensus.inbox import Inbox
from milepost_consensus.members import VALIDATOR, VERIFIER, Member, compute_validators_hash
from milepost_consensus.params import Params
from milepost_consensus.payloads import Evidence, Hold, MemberUpdate
from milepost_consensus.rules import check_tx, get_block_delay_ms
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import (
    NIL,
    PRECOMMIT,
    PREVOTE,
    Proposal,
    Vote,
    sign_proposal,
    sign_vote,
)
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record, make_signer
from tests.support.validators import LINKS, make_onion

GUILTY = make_signer("node-2")


def refuse(ledger: Ledger, tx: Tx, slug: str, match: str | None = None) -> None:
    with pytest.raises(InvalidInput, match=match) as caught:
        check_tx(ledger.state, tx)
    assert caught.value.slug == slug


# Evidence ----------------------------------------------------------------------------------------


def make_vote(
    ledger: Ledger, block_id: bytes, *, height: int = 1, round_: int = 0, type_: int = PREVOTE
) -> Vote:
    bare = Vote(height, round_, type_, block_id, GUILTY.public)
    return sign_vote(bare, GUILTY, ledger.state.network)


def accuse(ledger: Ledger, first: Vote, second: Vote) -> Tx:
    return ledger.sign(make_evidence(first, second, ledger.state.network), "node-0")


def test_a_double_vote_is_a_strike_and_jails() -> None:
    ledger = Ledger(make_genesis(4, params=Params(jail_heights=5)))
    ledger.run(1)
    tx = accuse(ledger, make_vote(ledger, NIL), make_vote(ledger, make_hash("x")))
    ledger.apply([tx])
    standing = ledger.state.standings[GUILTY.public]
    assert (standing.offence, standing.strikes, standing.jailed_until) == (1, 1, 2 + 5)
    submission = ledger.start(make_record(intervals=2))
    assert GUILTY.public not in ledger.get(submission).quorum
    assert GUILTY.public in {member.id for member in ledger.state.validators}
    refuse(
        ledger,
        accuse(
            ledger, make_vote(ledger, NIL, round_=1), make_vote(ledger, make_hash("x"), round_=1)
        ),
        "duplicate",
    )


def test_a_double_proposal_is_proven_without_its_blocks() -> None:
    ledger = Ledger(make_genesis(4))
    blocks = [ledger.apply(), ledger.apply()]
    first, second = (
        sign_proposal(Proposal(2, 0, 0, block, (), GUILTY.public), GUILTY, ledger.state.network)
        for block in blocks
    )
    evidence = make_evidence(first, second, ledger.state.network)
    assert evidence.kind == PROPOSAL
    assert len(encode(evidence)) < 600
    ledger.apply([ledger.sign(evidence, "node-1")])
    assert ledger.state.standings[GUILTY.public].offence == 2


def test_evidence_names_only_the_guilty() -> None:
    ledger = Ledger(make_genesis(4))
    ledger.run(2)
    one, two = make_vote(ledger, NIL), make_vote(ledger, make_hash("x"))
    other = sign_vote(
        Vote(1, 0, PREVOTE, make_hash("x"), make_signer("node-1").public),
        make_signer("node-1"),
        ledger.state.network,
    )
    forged = replace(two, signature=one.signature)
    stranger = make_signer("stranger")
    strange = [
        sign_vote(Vote(1, 0, PREVOTE, b, stranger.public), stranger, ledger.state.network)
        for b in (NIL, make_hash("x"))
    ]
    for first, second, slug in (
        (one, one, "bad-transaction"),
        (one, other, "bad-transaction"),
        (one, make_vote(ledger, make_hash("x"), round_=1), "bad-transaction"),
        (one, make_vote(ledger, make_hash("x"), type_=PRECOMMIT), "bad-transaction"),
        (one, make_vote(ledger, make_hash("x"), height=2), "bad-transaction"),
        (one, forged, "bad-signature"),
        (strange[0], strange[1], "not-a-member"),
        (make_vote(ledger, NIL, height=9), make_vote(ledger, make_hash("x"), height=9), "expired"),
    ):
        refuse(ledger, accuse(ledger, first, second), slug)
    refuse(ledger, ledger.sign(Evidence("gossip", b"", b""), "node-0"), "bad-transaction")
    refuse(ledger, ledger.sign(Evidence(VOTE, b"", b""), "node-0"), "bad-encoding")


def test_old_evidence_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_EVIDENCE_AGE >= 1_000
    monkeypatch.setattr("milepost_consensus.governance.MAX_EVIDENCE_AGE", 3)
    ledger = Ledger(make_genesis(4))
    ledger.run(3)
    tx = accuse(ledger, make_vote(ledger, NIL), make_vote(ledger, make_hash("x")))
    check_tx(ledger.state, tx)
    ledger.run(1)
    refuse(ledger, tx, "expired")


# Membership --------------------------------------------------------------------------------------


def make_member(name: str, roles: int = VALIDATOR | VERIFIER) -> Member:
    signer = make_signer(name)
    onion = make_onion(signer) if roles else None
    return Member(
        *(signer.public, name, roles, f"operator of {name}", ""),
        onion=onion.get_head(0) if onion else b"",
        onion_left=LINKS if onion else 0,
    )


def make_update(
    ledger: Ledger, members: Sequence[Member], *, ahead: int = 3, approvers: int = 7
) -> MemberUpdate:
    bare = MemberUpdate(tuple(sorted(members, key=lambda m: m.id)), ledger.state.height + ahead)
    signers = [ledger.signers[member.id] for member in ledger.state.validators][:approvers]
    return sign_update(bare, signers, ledger.state.network)


def test_a_member_joins_at_the_height_that_two_thirds_approved() -> None:
    ledger = Ledger(make_genesis(4))
    joining = make_member("joining")
    ledger.signers[joining.id] = make_signer("joining")
    update = make_update(ledger, [joining], approvers=3)
    assert update.effective_height == 3
    ledger.apply([ledger.sign(update, "node-0")])
    assert joining.id not in ledger.state.members
    assert joining in ledger.state.next_validators
    ledger.run(1)
    header = ledger.blocks[-1].header
    assert header.validators_hash != header.next_validators_hash
    assert header.next_validators_hash == compute_validators_hash(ledger.state.validators)
    assert joining in ledger.state.validators
    assert ledger.state.membership.effective_height == 0
    assert ledger.state.standings[joining.id].promised == 2  # it may have chosen its onion then
    (change,) = ledger.state.set_changes
    assert (change.height, len(change.before), len(change.after)) == (2, 4, 5)
    assert [m.id for m in ledger.state.last_validators] == list(change.before)
    ledger.run(12)
    assert ledger.state.standings[joining.id].revealed > 0
    submission = ledger.start(make_record(intervals=2))
    assert joining.id in ledger.get(submission).quorum


def test_early_words_are_checked_against_the_validators_of_their_height() -> None:
    """Who joins with the next height may speak early, who leaves with it may not."""
    joining = make_member("joining")
    leaving = next(m for m in Ledger(make_genesis(5)).state.members.values() if m.name == "node-3")
    for member, name, early, late in (
        (joining, "joining", True, False),
        (replace(leaving, roles=0), "node-3", False, True),
    ):
        ledger = Ledger(make_genesis(5))
        ledger.apply([ledger.sign(make_update(ledger, [member]), "node-0")])
        for height, heard in ((3, early), (2, late)):
            bare = Vote(height, 0, PREVOTE, NIL, member.id)
            vote = ReceivedVote(sign_vote(bare, make_signer(name), ledger.state.network))
            inbox = Inbox(ledger.state, ())
            if heard:
                behind = [Behind(3, member.id)] if height == 3 else []
                assert inbox.receive(vote, round_=0) == behind
            else:
                with pytest.raises(InvalidMessage, match="not a validator"):
                    inbox.receive(vote, round_=0)


def test_an_idle_chain_goes_on_until_a_change_takes_effect() -> None:
    ledger = Ledger(make_genesis(4))
    assert get_block_delay_ms(ledger.state) is None
    ledger.apply([ledger.sign(make_update(ledger, [make_member("joining")], ahead=4), "node-0")])
    assert get_block_delay_ms(ledger.state) == ledger.state.params.idle_block_ms
    ledger.run(2)
    assert get_block_delay_ms(ledger.state) is None


def test_a_member_leaves_and_its_entries_stay() -> None:
    ledger = Ledger(make_genesis(5))
    leaving = next(m for m in ledger.state.members.values() if m.name == "node-3")
    ledger.apply([ledger.sign(make_update(ledger, [replace(leaving, roles=0)]), "node-0")])
    ledger.run(1)
    assert leaving.id not in {m.id for m in (*ledger.state.validators, *ledger.state.verifiers)}
    assert ledger.state.members[leaving.id].roles == 0
    ledger.run(8)
    refuse(
        ledger,
        accuse(ledger, make_vote(ledger, NIL), make_vote(ledger, NIL)),
        "bad-transaction",
    )
    refuse(ledger, ledger.sign(Hold(make_hash("x")), leaving.id), "not-a-member")


def test_a_member_that_comes_back_goes_on_with_the_onion_that_it_left_with() -> None:
    ledger = Ledger(make_genesis(5))
    ledger.run(10)
    leaving = next(m for m in ledger.state.members.values() if m.name == "node-3")
    before = ledger.state.standings[leaving.id]
    assert before.onion_left < LINKS
    for member in (replace(leaving, roles=0), leaving):
        ledger.apply([ledger.sign(make_update(ledger, [member]), "node-0")])
        ledger.run(1)
    after = ledger.state.standings[leaving.id]
    assert leaving in ledger.state.validators
    assert after.onion_left <= before.onion_left
    assert after.promised == 0


def test_updates_that_are_refused() -> None:
    ledger = Ledger(make_genesis(7))
    new = make_member("new")
    two = [make_member(f"new {i}") for i in range(3)]
    ledger.signers[new.id] = make_signer("new")
    good = make_update(ledger, [new])
    doubled = replace(good, approvals=(*good.approvals[:4], good.approvals[0]))
    four = replace(good, approvals=good.approvals[:4])
    foreign = sign_update(four, [make_signer("x")], ledger.state.network)
    moved = replace(good, effective_height=good.effective_height + 1)
    for update, slug in (
        (make_update(ledger, [new], approvers=4), "not-approved"),
        (doubled, "not-approved"),
        (foreign, "not-approved"),
        (moved, "bad-signature"),
        (make_update(ledger, [new], ahead=2), "bad-encoding"),
        (make_update(ledger, [new], ahead=99_999), "bad-encoding"),
        (make_update(ledger, []), "bad-transaction"),
        (make_update(ledger, two), "bad-transaction"),
        (make_update(ledger, [new, new]), "bad-transaction"),
        (make_update(ledger, [replace(new, name="")]), "bad-encoding"),
        (make_update(ledger, [replace(new, roles=9)]), "bad-genesis"),
        (make_update(ledger, [replace(new, onion_left=0)]), "bad-genesis"),
    ):
        refuse(ledger, ledger.sign(update, "node-0"), slug)
    check_tx(ledger.state, ledger.sign(good, "node-0"))
    ledger.apply([ledger.sign(good, "node-0")])
    other = make_update(ledger, [make_member("other")], ahead=9)
    refuse(ledger, ledger.sign(other, "node-0"), "bad-transaction", "one at a time")
    ledger.run(3)
    refuse(ledger, ledger.sign(good, "node-0"), "bad-encoding", "effective_height")
    check_tx(ledger.state, ledger.sign(make_update(ledger, [make_member("other")]), "node-0"))


def test_a_network_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(make_genesis(4))
    update = ledger.sign(make_update(ledger, [make_member("joining")]), "node-0")
    monkeypatch.setattr("milepost_consensus.governance.MAX_MEMBERS", len(ledger.state.members))
    refuse(ledger, update, "bad-transaction", "6 members")
    monkeypatch.setattr("milepost_consensus.governance.MAX_MEMBERS", len(ledger.state.members) + 1)
    check_tx(ledger.state, update)


def test_the_last_validator_cannot_leave() -> None:
    ledger = Ledger(make_genesis(1))
    (only,) = ledger.state.validators
    refuse(
        ledger,
        ledger.sign(make_update(ledger, [replace(only, roles=VERIFIER)]), "node-0"),
        "bad-transaction",
        "no validator",
    )
