"""What a machine says under its own name: proposals and votes, signed only where its key may.

When to speak is the machine's affair (machine); here it is seen to that nothing is said twice at
one place, that the guard of the key (keyguard) agrees, and that a message is known to the inbox
and covered by the outbox's journal before it leaves.
"""

from __future__ import annotations

from milepost_consensus.beacon import Onion
from milepost_consensus.crypto import Signer
from milepost_consensus.inbox import Inbox
from milepost_consensus.journal import Backed
from milepost_consensus.keyguard import KeyGuard, Place
from milepost_consensus.outbox import Outbox
from milepost_consensus.rules import get_proposer, owes
from milepost_consensus.state import LedgerState
from milepost_consensus.tally import PROPOSAL
from milepost_consensus.votes import Proposal, Vote, sign_proposal, sign_vote


class Voice:
    """One key that speaks at the height after the state that each call names.

    `onion` is what it reveals when it proposes.
    """

    def __init__(
        self, signer: Signer, onion: Onion | None, guard: KeyGuard, inbox: Inbox, outbox: Outbox
    ) -> None:
        self._signer = signer
        self._onion = onion
        self._guard = guard
        self._inbox = inbox
        self._outbox = outbox

    @property
    def key(self) -> bytes:
        """Under which name it speaks."""
        return self._signer.public

    def is_my_turn(self, state: LedgerState, round_: int) -> bool:
        """Whether the round's proposal is ours to make, and not made yet."""
        height = state.height + 1
        return (
            get_proposer(state, height, round_).id == self.key
            and round_ not in self._inbox.tally.proposals
            and self._guard.may_sign(Place(height, round_, PROPOSAL))
        )

    def get_reveal(self, state: LedgerState, round_: int) -> bytes | None:
        """What a block of ours must reveal; None where we cannot, and so must pass."""
        if not owes(state, self.key, round_):
            return b""
        return self._onion.get_reveal(state.standings[self.key]) if self._onion else None

    def propose(self, state: LedgerState, round_: int, backed: Backed) -> None:
        """Propose a fresh block, or the valid value with its prevotes; it must be our turn."""
        height = state.height + 1
        bare = Proposal(height, round_, backed.round + 1, backed.block, backed.polc, self.key)
        proposal = sign_proposal(bare, self._signer, state.network)
        self._guard.on_signed(Place(height, round_, PROPOSAL))
        self._inbox.keep_proposal(proposal, timely=True)
        self._outbox.send_signed(proposal)

    def vote(self, state: LedgerState, round_: int, type_: int, block_id: bytes) -> None:
        """Cast a vote if we have one and may."""
        height = state.height + 1
        place = Place(height, round_, type_)
        signed = self._inbox.tally.get_vote(round_, type_, self.key) is not None
        free = not signed and self._guard.may_sign(place)
        if free and any(member.id == self.key for member in state.validators):
            bare = Vote(height, round_, type_, block_id, self.key)
            vote = sign_vote(bare, self._signer, state.network)
            self._guard.on_signed(place)
            self._inbox.tally.add_vote(vote)
            self._outbox.send_signed(vote)
