"""Who belongs to a network, in which roles, and the arithmetic of Byzantine quorums."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from milepost_consensus.crypto import compute_digest, is_small_order
from milepost_consensus.encoding import (
    Uint,
    Wire,
    encode,
    validate_digest,
    validate_text,
    validate_uint,
)
from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import MAX_LINKS, MAX_MEMBERS, Params, validate_params

VALIDATOR: Final = 1
"""Finalises blocks."""
VERIFIER: Final = 2
"""Can be elected to retrain."""
SUBMITTER: Final = 4
"""May submit runs."""


class Member(Wire, frozen=True):
    """One key of the network.  `id` is its Ed25519 public key; `operator` names who runs it."""

    id: bytes
    name: str
    roles: Uint
    operator: str
    endpoint: str = ""
    """Base URL of its HTTP server; empty for pure submitters."""
    onion: bytes = b""
    """The head of the onion with which a validator joins; empty without one."""
    onion_left: Uint = 0
    """Reveals in it."""


class Genesis(Wire, frozen=True):
    """What a network starts from.  Its digest is the network's identity in every signature."""

    network: str
    time_ms: Uint
    params: Params
    members: tuple[Member, ...]


def compute_network_id(genesis: Genesis) -> bytes:
    """The 32-byte identity of the network: the digest of its genesis."""
    return compute_digest("genesis", encode(genesis))


def get_validators(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members with the validator role, in the one order used everywhere: by id."""
    return tuple(sorted((m for m in members if m.roles & VALIDATOR), key=lambda m: m.id))


def get_verifiers(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members with the verifier role, by id."""
    return tuple(sorted((m for m in members if m.roles & VERIFIER), key=lambda m: m.id))


def compute_validators_hash(validators: Iterable[Member]) -> bytes:
    """What a header commits to about who may sign it: the ordered validator ids."""
    return compute_digest("validators", b"".join(m.id for m in validators))


def compute_quorum(count: int) -> int:
    """Signatures that finalise a block: more than two thirds, floor(2n/3) + 1."""
    return 2 * count // 3 + 1


def compute_fault_limit(count: int) -> int:
    """Byzantine validators that `count` validators tolerate: floor((n - 1) / 3)."""
    return (count - 1) // 3


def validate_genesis(genesis: Genesis) -> None:
    """Raises InvalidInput (slug bad-genesis) unless a network can start from it."""
    validate_params(genesis.params)
    validate_text("network", genesis.network)
    ids = [member.id for member in genesis.members]
    if len(set(ids)) != len(ids) or not 1 <= len(ids) <= MAX_MEMBERS:
        raise InvalidInput(
            f"genesis lists {len(ids)} members, {len(set(ids))} of them different;"
            f" 1 to {MAX_MEMBERS} different ones are needed",
            slug="bad-genesis",
        )
    for member in genesis.members:
        validate_member(member)
        if not member.roles:
            raise InvalidInput(f"member {member.name} has no role", slug="bad-genesis")
    validators = get_validators(genesis.members)
    if not validators:
        raise InvalidInput("genesis names no validator", slug="bad-genesis")
    bare = [member.name for member in validators if not member.onion_left]
    if bare and genesis.params.seed_source == "beacon":
        raise InvalidInput(
            f"{bare[0]} and {len(bare) - 1} more validators promise no reveals, which the beacon"
            " needs of all of them",
            slug="bad-genesis",
        )


def validate_member(member: Member) -> None:
    """Raises InvalidInput (slug bad-genesis) unless a member is well formed in itself."""
    validate_digest("member id", member.id)
    validate_text("member name", member.name)
    validate_text("operator", member.operator)
    validate_text("endpoint", member.endpoint, empty=True)
    if is_small_order(member.id) or member.roles >= 8:
        raise InvalidInput(
            f"member {member.name}: unusable key or roles {member.roles}", slug="bad-genesis"
        )
    validate_uint("onion_left", member.onion_left, high=MAX_LINKS)
    if len(member.onion) != (32 if member.onion_left else 0):
        raise InvalidInput(
            f"member {member.name}: {len(member.onion)} bytes promise {member.onion_left} reveals",
            slug="bad-genesis",
        )
