"""A few validators with fixed keys, and the messages that they sign."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from milepost_consensus.beacon import Onion, compute_order
from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import make_certificate
from milepost_consensus.crypto import Ed25519Signer, Signer
from milepost_consensus.machine import Machine
from milepost_consensus.members import (
    SUBMITTER,
    VALIDATOR,
    VERIFIER,
    Genesis,
    Member,
    compute_network_id,
)
from milepost_consensus.params import Params
from milepost_consensus.rules import build_block, get_proposer, owes
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_consensus.votes import PRECOMMIT, Proposal, Vote, sign_proposal, sign_vote

GENESIS_MS = 1_750_000_000_000


def make_signer(name: str) -> Ed25519Signer:
    """The signer whose seed is the digest of a name."""
    return Ed25519Signer.from_seed(hashlib.sha256(name.encode()).digest())


LINKS = 256
"""Reveals of each test onion."""


_ONIONS: dict[tuple[bytes, int], Onion] = {}


class Deriving(Signer, Protocol):
    """A signer that keeps secrets for onions."""

    def derive(self, purpose: str) -> bytes: ...


def make_onion(signer: Deriving, links: int = LINKS) -> Onion:
    """The onion of a key, made once."""
    key = (signer.public, links)
    if key not in _ONIONS:
        _ONIONS[key] = Onion(signer.derive, signer.public, links=links)
    return _ONIONS[key]


class Validators:
    """`count` validators in the order of their ids, and what they could say.

    Up to four of them take turns in this order in the first epoch.  With `verify` they verify as
    well and there is a `submitter`; `make` gives a name its key.  After them come the keys of
    `candidates`, which are no members yet.  `links` are the reveals in each one's onions.
    """

    def __init__(
        self,
        count: int,
        params: Params | None = None,
        *,
        verify: bool = False,
        make: Callable[[str], Deriving] = make_signer,
        candidates: int = 0,
        links: Sequence[int] = (),
    ) -> None:
        signers = sorted((make(f"validator {i}") for i in range(count)), key=_public)
        signers += [make(f"candidate {i}") for i in range(candidates)]
        self.signers: Sequence[Deriving] = signers
        self.submitter = make("submitter")
        self._links = tuple(links)
        roles = VALIDATOR | VERIFIER if verify else VALIDATOR
        self.members = tuple(self._make_member(index, roles) for index in range(len(signers)))
        """Founders first, candidates as they would join."""
        submitter = self.submitter.public if verify else b""
        self.genesis = _make_genesis(self.members[:count], params or Params(), submitter)
        self.state = make_initial_state(self.genesis)
        self.network = self.state.network
        self._indices = {signer.public: index for index, signer in enumerate(signers)}

    def _make_member(self, index: int, roles: int) -> Member:
        onion = self.get_onion(index)
        return Member(
            *(self.signers[index].public, f"v{index}", roles, f"o{index}", ""),
            onion=onion.get_head(0),
            onion_left=onion.links,
        )

    def get_onion(self, index: int) -> Onion:
        """The onion of one validator."""
        links = self._links[index] if index < len(self._links) else LINKS
        return make_onion(self.signers[index], links)

    def get_index(self, public: bytes) -> int:
        """Whose key it is."""
        return self._indices[public]

    def get_turn(self, height: int, round_: int, *, state: LedgerState | None = None) -> int:
        """The index of the round's proposer."""
        return self.get_index(get_proposer(state or self.state, height, round_).id)

    def get_reveal(self, round_: int, *, state: LedgerState | None = None) -> bytes:
        """What a block that follows a state and is first proposed in a round has to reveal."""
        state = state or self.state
        index = self.get_turn(state.height + 1, round_, state=state)
        public = self.signers[index].public
        if not owes(state, public, round_):
            return b""
        reveal = self.get_onion(index).get_reveal(state.standings[public])
        assert reveal is not None
        return reveal

    def make_machine(
        self,
        index: int,
        state: LedgerState | None = None,
        *,
        journal: bytes | None = None,
        certificate: Certificate | None = None,
        key_in_use: bool = False,
        restored: bool = False,
        kind: type[Machine] = Machine,
    ) -> Machine:
        """The machine of one validator, fresh or from what it had on disk."""
        return kind(
            state or self.state,
            self.signers[index],
            self.get_onion(index),
            journal=journal,
            last_certificate=certificate,
            key_in_use=key_in_use,
            restored=restored,
        )

    def make_block(
        self, round_: int = 0, *, state: LedgerState | None = None, later_ms: int = 0
    ) -> tuple[Block, LedgerState]:
        """An empty block of the round's proposer; different `later_ms` make different ones."""
        state = state or self.state
        return build_block(
            state,
            round=round_,
            proposer=self.signers[self.get_turn(state.height + 1, round_, state=state)].public,
            reveal=self.get_reveal(round_, state=state),
            txs=(),
            time_ms=state.last_time_ms + 5_000 + later_ms,
        )

    def get_id(self, block: Block) -> bytes:
        """The id of a block."""
        return compute_block_id(block.header, self.network)

    def make_proposal(
        self,
        block: Block,
        *,
        round_: int | None = None,
        polc: tuple[Vote, ...] = (),
        sender: int | None = None,
        valid_round: int | None = None,
    ) -> Proposal:
        """A proposal in the block's own round, or of a backed block in a later one."""
        height = block.header.height
        round_ = block.header.round if round_ is None else round_
        if valid_round is None:
            valid_round = polc[0].round if polc else -1
        signer = self.signers[self.get_turn(height, round_) if sender is None else sender]
        bare = Proposal(height, round_, valid_round + 1, block, polc, signer.public)
        return sign_proposal(bare, signer, self.network)

    def make_vote(
        self, sender: int, type_: int, block_id: bytes, *, round_: int = 0, height: int = 1
    ) -> Vote:
        """A vote of one validator."""
        signer = self.signers[sender]
        return sign_vote(Vote(height, round_, type_, block_id, signer.public), signer, self.network)

    def make_votes(
        self, senders: Sequence[int], type_: int, block_id: bytes, *, round_: int = 0
    ) -> tuple[Vote, ...]:
        """Votes of several validators at height 1."""
        return tuple(self.make_vote(i, type_, block_id, round_=round_) for i in senders)

    def make_certificate(
        self, block: Block, senders: Sequence[int], *, round_: int = 0
    ) -> Certificate:
        """The certificate that these validators sign."""
        votes = [
            self.make_vote(
                i, PRECOMMIT, self.get_id(block), round_=round_, height=block.header.height
            )
            for i in senders
        ]
        return make_certificate(votes, self.state.validators)


@functools.cache
def _make_genesis(members: tuple[Member, ...], params: Params, submitter: bytes) -> Genesis:
    """The first network by name whose order of turns is that of the members, if they are few."""
    others = (Member(submitter, "submitter", SUBMITTER, "of-submitter"),) if submitter else ()
    for attempt in itertools.count():
        genesis = Genesis(f"test {attempt}", GENESIS_MS, params, (*members, *others))
        order = compute_order(compute_network_id(genesis), members)
        if len(members) > 4 or order == members:
            return genesis
    raise AssertionError


def _public(signer: Signer) -> bytes:
    return signer.public
