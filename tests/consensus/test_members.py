"""Members, Byzantine quorums and what a network may start from."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import (
    SUBMITTER,
    VALIDATOR,
    VERIFIER,
    Genesis,
    Member,
    compute_fault_limit,
    compute_network_id,
    compute_quorum,
    compute_validators_hash,
    get_validators,
    get_verifiers,
    validate_genesis,
)
from milepost_consensus.params import BLOCK_HASH, MAX_MEMBERS, Params
from tests.support.ledger import make_genesis, make_hash


def test_two_quorums_share_a_correct_member_and_f_silent_ones_stop_nothing() -> None:
    for count in range(1, 200):
        quorum, faults = compute_quorum(count), compute_fault_limit(count)
        assert 3 * quorum > 2 * count
        assert 2 * quorum - count > faults
        assert count - faults >= quorum
        assert 3 * (quorum - 1) <= 2 * count


def test_known_quorums() -> None:
    assert [compute_quorum(n) for n in (1, 2, 3, 4, 7, 10)] == [1, 2, 3, 3, 5, 7]
    assert [compute_fault_limit(n) for n in (1, 3, 4, 7, 10)] == [0, 0, 1, 2, 3]


def test_roles_select_members_in_order_of_their_ids() -> None:
    members = [
        Member(make_hash(i), f"m{i}", roles, "op")
        for i, roles in enumerate((VALIDATOR, VERIFIER, SUBMITTER, VALIDATOR | VERIFIER, 7))
    ]
    assert {m.name for m in get_validators(members)} == {"m0", "m3", "m4"}
    assert {m.name for m in get_verifiers(members)} == {"m1", "m3", "m4"}
    for chosen in (get_validators(members), get_verifiers(reversed(members))):
        assert [m.id for m in chosen] == sorted(m.id for m in chosen)
    assert get_validators(members) == get_validators(reversed(members))


def test_network_id_and_validators_hash_are_the_documented_digests() -> None:
    genesis = make_genesis()
    assert compute_network_id(genesis) == compute_digest("genesis", encode(genesis))
    validators = get_validators(genesis.members)
    ids = b"".join(m.id for m in validators)
    assert compute_validators_hash(validators) == compute_digest("validators", ids)


def test_any_change_of_the_genesis_is_another_network() -> None:
    genesis = make_genesis()
    others = [
        replace(genesis, network="other"),
        replace(genesis, time_ms=genesis.time_ms + 1),
        replace(genesis, params=Params(auditors=2)),
        replace(genesis, members=genesis.members[1:]),
    ]
    assert len({compute_network_id(each) for each in (genesis, *others)}) == 5


def _with_member(**changes: object) -> Genesis:
    genesis = make_genesis()
    return replace(genesis, members=(replace(genesis.members[0], **changes), *genesis.members[1:]))


def test_a_sound_genesis_is_accepted() -> None:
    validate_genesis(make_genesis())
    validate_genesis(make_genesis(1))
    validate_genesis(_with_member(endpoint="http://127.0.0.1:8420"))


@pytest.mark.parametrize(
    "genesis",
    [
        replace(make_genesis(), members=()),
        replace(make_genesis(), members=make_genesis().members[:1] * 2),
        replace(make_genesis(), members=make_genesis(0).members),
        replace(make_genesis(), members=make_genesis(2).members * (MAX_MEMBERS // 2)),
        replace(make_genesis(), network=""),
        replace(make_genesis(), params=Params(rule="coin")),
        _with_member(id=bytes(31)),
        _with_member(id=bytes(32)),
        _with_member(id=b"\x01" + bytes(31)),
        _with_member(name=""),
        _with_member(name="x" * 200),
        _with_member(operator="line\nbreak"),
        _with_member(endpoint="Köln"),
        _with_member(roles=0),
        _with_member(roles=8),
    ],
)
def test_an_unusable_genesis_is_refused(genesis: Genesis) -> None:
    with pytest.raises(InvalidInput):
        validate_genesis(genesis)


def test_the_beacon_needs_the_promises_of_all_validators() -> None:
    genesis = make_genesis(4)
    bare = tuple(
        replace(m, onion=b"", onion_left=0) if m.name in ("node-1", "node-2") else m
        for m in genesis.members
    )
    with pytest.raises(InvalidInput, match=r"node-. and 1 more validators promise no reveals"):
        validate_genesis(replace(genesis, members=bare))
    validate_genesis(replace(genesis, members=bare, params=Params(seed_source=BLOCK_HASH)))
