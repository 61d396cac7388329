"""What a validator must not forget between its signatures at one height.

A restart with the journal is no more than a short absence: the lock holds, nothing is signed twice,
and the votes that brought the machine into its round are still there to be passed on.  Forgetting
those would be safe, but could leave the others one vote short for ever.  Rounds before the last one
are left out: rounds only grow, so nothing more is signed in them.  After the height was decided the
journal still says what the key signed last, until it signs again.
"""

from __future__ import annotations

from dataclasses import dataclass

from milepost_consensus.blocks import Block, compute_block_id
from milepost_consensus.encoding import Wire
from milepost_consensus.keyguard import ORIGIN, KeyGuard, Place
from milepost_consensus.tally import PROPOSAL, Tally
from milepost_consensus.votes import Proposal, Vote


class Journal(Wire, frozen=True):
    """The one journal row.  Rounds of lock and valid value are 1 + round, 0 where there is none."""

    height: int
    round: int
    step: int
    signed_round: int
    """Round and type of the last message signed: the mark at or below which nothing more is."""
    signed_type: int
    locked_round: int
    locked_id: bytes
    valid_round: int
    valid_id: bytes
    polc: tuple[Vote, ...]
    """The 2f+1 prevotes that made the valid value valid."""
    blocks: tuple[Block, ...]
    """The locked and the valid block, where `proposals` does not have them."""
    proposals: tuple[Proposal, ...]
    """The own proposal of the round, if there is one."""
    votes: tuple[Vote, ...]
    """Own votes and the others', from the round before the own one on."""


@dataclass(frozen=True, slots=True)
class Backed:
    """A block and the round in which 2f+1 prevotes, `polc`, backed it; -1 for a fresh block."""

    round: int
    block_id: bytes
    block: Block
    polc: tuple[Vote, ...]


def make_journal(
    tally: Tally,
    *,
    height: int,
    round_: int,
    step: int,
    locked: Backed | None,
    valid: Backed | None,
    mark: Place,
    sender: bytes,
) -> Journal:
    """The journal of `sender`'s machine, which signed for `mark` last."""
    assert mark.height == height
    seen = tally.proposals.get(round_)
    own = seen if seen is not None and seen.proposal.sender == sender else None
    blocks = {backed.block_id: backed.block for backed in (locked, valid) if backed is not None}
    if own is not None:
        blocks.pop(own.block_id, None)
    return Journal(
        height=height,
        round=round_,
        step=step,
        signed_round=mark.round,
        signed_type=mark.type,
        locked_round=0 if locked is None else locked.round + 1,
        locked_id=b"" if locked is None else locked.block_id,
        valid_round=0 if valid is None else valid.round + 1,
        valid_id=b"" if valid is None else valid.block_id,
        polc=() if valid is None else valid.polc,
        blocks=tuple(blocks[block_id] for block_id in sorted(blocks)),
        proposals=() if own is None else (own.proposal,),
        votes=tally.get_votes(round_ - 1),
    )


def get_backed(journal: Journal, network: bytes) -> tuple[Backed | None, Backed | None]:
    """The locked and the valid block of a journal."""
    known = (*journal.blocks, *(proposal.block for proposal in journal.proposals))
    blocks = {compute_block_id(block.header, network): block for block in known}
    locked = valid = None
    if journal.locked_round:
        block = blocks[journal.locked_id]
        locked = Backed(journal.locked_round - 1, journal.locked_id, block, ())
    if journal.valid_round:
        block = blocks[journal.valid_id]
        valid = Backed(journal.valid_round - 1, journal.valid_id, block, journal.polc)
    return locked, valid


def make_guard(
    journal: Journal | None, height: int, *, key_in_use: bool, restored_among: int = 0
) -> KeyGuard:
    """The guard of a key with this journal, on a chain that is `height` blocks high.

    `restored_among` is the number of validators where the home comes from a backup, else 0.
    """
    if journal is None:
        mark = ORIGIN if height == 0 and not restored_among else None
        return KeyGuard(
            mark, known_from=ORIGIN, key_in_use=key_in_use, restored_among=restored_among
        )
    mark = Place(journal.height, journal.signed_round, journal.signed_type)
    known_from = Place(journal.height, journal.round, PROPOSAL)
    guard = KeyGuard(mark, known_from=known_from, key_in_use=key_in_use)
    guard.settled = True  # a journal says what was signed, even if that is nothing
    return guard


def make_first_journal() -> Journal:
    """That of a key which starts at genesis and has signed nothing."""
    return make_journal(
        Tally(1), height=0, round_=0, step=0, locked=None, valid=None, mark=ORIGIN, sender=b""
    )
