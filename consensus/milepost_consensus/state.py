"""The ledger state: what every honest node agrees on after a block.

The state root is the RFC 6962 Merkle root over all entries, sorted by key.  An entry's leaf is its
key followed by the canonical bytes of its value:

    "member/" + member id          Member
    "membership"                   Membership
    "standing/" + member id        Standing
    "registration/" + its id       Registration
    "submission/" + submission id  Submission
    "verdict/" + submission id     Verdict

Hashes of leaves are kept, so that a block encodes only the entries it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

from milepost_consensus.beacon import compute_order
from milepost_consensus.encoding import Wire, encode
from milepost_consensus.governance import Membership
from milepost_consensus.keyed_tree import KeyedTree
from milepost_consensus.members import (
    Genesis,
    Member,
    compute_network_id,
    compute_validators_hash,
    get_validators,
    get_verifiers,
    validate_genesis,
)
from milepost_consensus.merkle import compute_leaf_hash
from milepost_consensus.params import Params
from milepost_consensus.registrations import Registration
from milepost_consensus.standings import Standing, make_standing
from milepost_consensus.submissions import DECIDED, Submission
from milepost_consensus.verdicts import VALID, Verdict

MEMBER_PREFIX: Final = b"member/"
MEMBERSHIP_KEY: Final = b"membership"
STANDING_PREFIX: Final = b"standing/"
REGISTRATION_PREFIX: Final = b"registration/"
SUBMISSION_PREFIX: Final = b"submission/"
VERDICT_PREFIX: Final = b"verdict/"


class SetChange(NamedTuple):
    """A block signed by one set of validators, after which another one signs."""

    height: int
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]
    """Ids in order."""


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
    mix: bytes
    """The beacon after the block at `height`; the network's identity at height 0."""
    order_seed: bytes
    """The mix that shuffles the proposers of the epoch."""
    set_changes: tuple[SetChange, ...]
    """All changes of the validators so far."""
    members: Mapping[bytes, Member]
    """Those who agree on the next block; former members have no role."""
    membership: Membership
    standings: Mapping[bytes, Standing]
    registrations: Mapping[bytes, Registration]
    submissions: Mapping[bytes, Submission]
    verdicts: Mapping[bytes, Verdict]
    leaf_hashes: KeyedTree
    """The hash of every entry's leaf, by key, in the tree of which `root` is the root."""

    @property
    def params(self) -> Params:
        return self.genesis.params

    @cached_property
    def validators(self) -> tuple[Member, ...]:
        """Members that finalise blocks, by id."""
        return get_validators(self.members.values())

    @property
    def last_validators(self) -> tuple[Member, ...]:
        """Members that finalised the block at `height`."""
        if not self.set_changes or self.set_changes[-1].height != self.height:
            return self.validators
        return tuple(self.members[member_id] for member_id in self.set_changes[-1].before)

    @cached_property
    def next_validators(self) -> tuple[Member, ...]:
        """Members that finalise the block after the next."""
        if self.membership.effective_height != self.height + 2:
            return self.validators
        changed = {member.id: member for member in self.membership.members}
        return get_validators({**self.members, **changed}.values())

    @cached_property
    def proposers(self) -> tuple[Member, ...]:
        """Validators in the order in which they take turns."""
        return compute_order(self.order_seed, self.validators)

    @cached_property
    def verifiers(self) -> tuple[Member, ...]:
        """Members that can be elected to retrain, by id."""
        return get_verifiers(self.members.values())

    @cached_property
    def validators_hash(self) -> bytes:
        """What the next header says about who may sign it."""
        return compute_validators_hash(self.validators)

    @cached_property
    def models(self) -> Mapping[bytes, bytes]:
        """The submission of each model that is valid or may become it, by the model's digest."""
        failed = {k for k, verdict in self.verdicts.items() if verdict.outcome != VALID}
        return {s.submit.model_digest: k for k, s in self.submissions.items() if k not in failed}

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
    def seedless_registrations(self) -> tuple[Registration, ...]:
        """Registrations that wait for the seed of their run, oldest first, then by id."""
        return tuple(
            sorted(
                (r for r in self.registrations.values() if not r.seed),
                key=lambda r: (r.height, r.id),
            )
        )

    @cached_property
    def sorted_keys(self) -> tuple[bytes, ...]:
        """The keys of all entries in the order of the tree's leaves."""
        return tuple(self.leaf_hashes)

    @property
    def root(self) -> bytes:
        """The state root."""
        return self.leaf_hashes.root


def get_member_key(member_id: bytes) -> bytes:
    """The key of a member's entry."""
    return MEMBER_PREFIX + member_id


def get_standing_key(member_id: bytes) -> bytes:
    """The key of a member's standing."""
    return STANDING_PREFIX + member_id


def get_registration_key(registration_id: bytes) -> bytes:
    """The key of a registration's entry."""
    return REGISTRATION_PREFIX + registration_id


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
    validate_genesis(genesis)
    network = compute_network_id(genesis)
    empty = LedgerState(
        network=network,
        genesis=genesis,
        height=0,
        last_id=network,
        last_time_ms=genesis.time_ms,
        mix=network,
        order_seed=network,
        set_changes=(),
        members={},
        membership=Membership(),
        standings={},
        registrations={},
        submissions={},
        verdicts={},
        leaf_hashes=KeyedTree(),
    )
    return apply_entries(
        empty,
        members={member.id: member for member in genesis.members},
        membership=Membership(),
        standings={member.id: make_standing(member, 0) for member in genesis.members},
    )


def apply_entries(
    state: LedgerState,
    *,
    members: Mapping[bytes, Member] | None = None,
    membership: Membership | None = None,
    standings: Mapping[bytes, Standing] | None = None,
    registrations: Mapping[bytes, Registration] | None = None,
    submissions: Mapping[bytes, Submission] | None = None,
    verdicts: Mapping[bytes, Verdict] | None = None,
) -> LedgerState:
    """The state with these entries written; what belongs to the last block stays."""
    changed = {
        **({} if membership is None else {MEMBERSHIP_KEY: membership}),
        **{get_member_key(key): value for key, value in (members or {}).items()},
        **{get_standing_key(key): value for key, value in (standings or {}).items()},
        **{get_registration_key(key): value for key, value in (registrations or {}).items()},
        **{get_submission_key(key): value for key, value in (submissions or {}).items()},
        **{get_verdict_key(key): value for key, value in (verdicts or {}).items()},
    }
    if not changed:
        return state
    hashes = {key: compute_leaf_hash(encode_leaf(key, value)) for key, value in changed.items()}
    return replace(
        state,
        members={**state.members, **members} if members else state.members,
        membership=state.membership if membership is None else membership,
        standings={**state.standings, **standings} if standings else state.standings,
        registrations=(
            {**state.registrations, **registrations} if registrations else state.registrations
        ),
        submissions={**state.submissions, **submissions} if submissions else state.submissions,
        verdicts={**state.verdicts, **verdicts} if verdicts else state.verdicts,
        leaf_hashes=state.leaf_hashes.write(hashes),
    )


def compute_state_root(state: LedgerState) -> bytes:
    """The 32-byte root that a header commits to."""
    return state.root


def get_entry(state: LedgerState, key: bytes) -> Wire:
    """The value under a key; raises KeyError where there is none."""
    if key == MEMBERSHIP_KEY:
        return state.membership
    for prefix, entries in (
        (MEMBER_PREFIX, state.members),
        (STANDING_PREFIX, state.standings),
        (REGISTRATION_PREFIX, state.registrations),
        (SUBMISSION_PREFIX, state.submissions),
        (VERDICT_PREFIX, state.verdicts),
    ):
        if key.startswith(prefix):
            return entries[key[len(prefix) :]]
    raise KeyError(key)


def get_entry_path(state: LedgerState, key: bytes) -> tuple[bytes, int, int, tuple[bytes, ...]]:
    """Leaf bytes, index, number of leaves and inclusion path of an entry; KeyError if absent."""
    leaf = encode_leaf(key, get_entry(state, key))
    tree = state.leaf_hashes
    return leaf, tree.get_index(key), len(tree), tree.get_path(key)


def get_changed_entries(before: LedgerState, after: LedgerState) -> dict[bytes, Wire]:
    """Entries of `after` that `before` lacks or holds differently, by key, for a store."""
    return {
        key: get_entry(after, key)
        for key in after.sorted_keys
        if before.leaf_hashes.get(key) != after.leaf_hashes[key]
    }
