"""The ledger state: what every honest node agrees on after a block.

The state root is the RFC 6962 Merkle root over all entries, sorted by key.  An entry's leaf is its
key followed by the canonical bytes of its value:

    "member/" + member id          Member
    "submission/" + submission id  Submission
    "verdict/" + submission id     Verdict

Hashes of leaves are kept, so that a block encodes only the entries it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from milepost_consensus.encoding import Wire, encode
from milepost_consensus.members import (
    Genesis,
    Member,
    compute_network_id,
    compute_validators_hash,
    get_validators,
    get_verifiers,
    validate_genesis,
)
from milepost_consensus.merkle import (
    compute_leaf_hash,
    compute_path_of_hashes,
    compute_root_of_hashes,
)
from milepost_consensus.params import Params
from milepost_consensus.submissions import DECIDED, Submission
from milepost_consensus.verdicts import Verdict

MEMBER_PREFIX: Final = b"member/"
SUBMISSION_PREFIX: Final = b"submission/"
VERDICT_PREFIX: Final = b"verdict/"


@dataclass(frozen=True, eq=False)
class LedgerState:
    """The state after the block at `height`; height 0 is the genesis.

    Never changed in place.  Two states are the same when height, last_id and root are.
    """

    network: bytes
    """The network's identity, which every digest and signature covers."""
    genesis: Genesis
    height: int
    last_id: bytes
    """Id of the block at `height`; the network's identity at height 0."""
    last_time_ms: int
    members: Mapping[bytes, Member]
    submissions: Mapping[bytes, Submission]
    verdicts: Mapping[bytes, Verdict]
    leaf_hashes: Mapping[bytes, bytes]
    """The hash of every entry's leaf, by key."""

    @property
    def params(self) -> Params:
        return self.genesis.params

    @cached_property
    def validators(self) -> tuple[Member, ...]:
        """Members that finalise blocks, by id."""
        return get_validators(self.members.values())

    @cached_property
    def verifiers(self) -> tuple[Member, ...]:
        """Members that can be elected to retrain, by id."""
        return get_verifiers(self.members.values())

    @cached_property
    def validators_hash(self) -> bytes:
        """What the next header says about who may sign it."""
        return compute_validators_hash(self.validators)

    @cached_property
    def open_submissions(self) -> tuple[Submission, ...]:
        """Submissions without a verdict, oldest first, then by id."""
        return tuple(
            sorted(
                (s for s in self.submissions.values() if s.phase != DECIDED),
                key=lambda s: (s.anchored_height, s.id),
            )
        )

    @cached_property
    def sorted_keys(self) -> tuple[bytes, ...]:
        """The keys of all entries in the order of the tree's leaves."""
        return tuple(sorted(self.leaf_hashes))

    @cached_property
    def root(self) -> bytes:
        """The state root."""
        return compute_root_of_hashes([self.leaf_hashes[key] for key in self.sorted_keys])


def get_member_key(member_id: bytes) -> bytes:
    """The key of a member's entry."""
    return MEMBER_PREFIX + member_id


def get_submission_key(submission_id: bytes) -> bytes:
    """The key of a submission's entry."""
    return SUBMISSION_PREFIX + submission_id


def get_verdict_key(submission_id: bytes) -> bytes:
    """The key of a verdict's entry."""
    return VERDICT_PREFIX + submission_id


def encode_leaf(key: bytes, value: Wire) -> bytes:
    """The leaf of an entry."""
    return key + encode(value)


def make_initial_state(genesis: Genesis) -> LedgerState:
    """The state before the first block; raises InvalidInput for an unusable genesis."""
    return make_state(
        genesis,
        height=0,
        last_id=compute_network_id(genesis),
        last_time_ms=genesis.time_ms,
        submissions={},
        verdicts={},
    )


def make_state(
    genesis: Genesis,
    *,
    height: int,
    last_id: bytes,
    last_time_ms: int,
    submissions: Mapping[bytes, Submission],
    verdicts: Mapping[bytes, Verdict],
) -> LedgerState:
    """A state from its parts, as a store rebuilds it; the caller compares its root."""
    validate_genesis(genesis)
    empty = LedgerState(
        network=compute_network_id(genesis),
        genesis=genesis,
        height=height,
        last_id=last_id,
        last_time_ms=last_time_ms,
        members={member.id: member for member in genesis.members},
        submissions={},
        verdicts={},
        leaf_hashes={
            get_member_key(member.id): compute_leaf_hash(
                encode_leaf(get_member_key(member.id), member)
            )
            for member in genesis.members
        },
    )
    return apply_entries(empty, submissions=submissions, verdicts=verdicts)


def apply_entries(
    state: LedgerState,
    *,
    submissions: Mapping[bytes, Submission],
    verdicts: Mapping[bytes, Verdict],
) -> LedgerState:
    """The state with these entries written; height, last_id and time stay."""
    if not submissions and not verdicts:
        return state
    leaf_hashes = dict(state.leaf_hashes)
    entries: list[tuple[bytes, Wire]] = [
        *((get_submission_key(key), value) for key, value in submissions.items()),
        *((get_verdict_key(key), value) for key, value in verdicts.items()),
    ]
    for key, value in entries:
        leaf_hashes[key] = compute_leaf_hash(encode_leaf(key, value))
    return LedgerState(
        network=state.network,
        genesis=state.genesis,
        height=state.height,
        last_id=state.last_id,
        last_time_ms=state.last_time_ms,
        members=state.members,
        submissions={**state.submissions, **submissions},
        verdicts={**state.verdicts, **verdicts},
        leaf_hashes=leaf_hashes,
    )


def compute_state_root(state: LedgerState) -> bytes:
    """The 32-byte root that a header commits to."""
    return state.root


def get_entry(state: LedgerState, key: bytes) -> Wire:
    """The value under a key; raises KeyError where there is none."""
    for prefix, entries in (
        (MEMBER_PREFIX, state.members),
        (SUBMISSION_PREFIX, state.submissions),
        (VERDICT_PREFIX, state.verdicts),
    ):
        if key.startswith(prefix):
            return entries[key[len(prefix) :]]
    raise KeyError(key)


def get_entry_path(state: LedgerState, key: bytes) -> tuple[bytes, int, int, tuple[bytes, ...]]:
    """Leaf bytes, index, number of leaves and inclusion path of an entry; KeyError if absent."""
    leaf = encode_leaf(key, get_entry(state, key))
    keys = state.sorted_keys
    index = keys.index(key)
    path = compute_path_of_hashes([state.leaf_hashes[each] for each in keys], index)
    return leaf, index, len(keys), path


def get_changed_entries(before: LedgerState, after: LedgerState) -> dict[bytes, Wire]:
    """Entries of `after` that `before` lacks or holds differently, by key, for a store."""
    return {
        key: get_entry(after, key)
        for key in after.sorted_keys
        if before.leaf_hashes.get(key) != after.leaf_hashes[key]
    }
