"""How each member does: its onion, the turns it missed, and until when it is not elected.

A standing is an entry of the ledger state.  Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from milepost_consensus.encoding import Uint, Wire
from milepost_consensus.members import Member
from milepost_consensus.params import Params


class Standing(Wire, frozen=True):
    """What the chain remembers about one member."""

    id: bytes
    onion: bytes = b""
    """The digest whose preimage is revealed next; empty without an onion."""
    onion_left: Uint = 0
    """Reveals that are left in it."""
    promised: Uint = 0
    """The height at which it was promised; 0 in the genesis."""
    next_onion: bytes = b""
    """The onion that follows; `next_left` is 0 without one."""
    next_left: Uint = 0
    next_promised: Uint = 0
    generation: Uint = 0
    """How many onions were used up."""
    revealed: Uint = 0
    """Height of the last reveal."""
    missed: Uint = 0
    """Turns as proposer missed in a row."""
    offence: Uint = 0
    """The height of the last double signature that was proven."""
    strikes: Uint = 0
    lies: Uint = 0
    """Strikes that stand for words about training which the ledger found wrong."""
    missed_duties: Uint = 0
    """Submissions in a row of which the member answered no duty."""
    registrations: Uint = 0
    """Registrations that the member made."""
    device_classes: tuple[str, ...] = ()
    """What the verifier serves, by its last statement."""
    statements: Uint = 0
    """Statements of what it serves; without one it serves what every machine can."""
    jailed_until: Uint = 0
    """The last height at which the member is not elected."""


def make_standing(member: Member, height: int) -> Standing:
    """Of a member that joins by the block at `height`."""
    return Standing(member.id, onion=member.onion, onion_left=member.onion_left, promised=height)


def owes_reveal(standing: Standing, standings: Iterable[Standing], fault_limit: int) -> bool:
    """R21: whether a member's block in round 0 must carry a reveal.

    Not before f + 1 members have revealed since its onion was promised: whoever could choose an
    onion knowing the mix that it meets would choose the next mix.
    """
    if not standing.onion_left:
        return False
    return standing.promised == 0 or is_mixed(standing.promised, standings, fault_limit)


def is_mixed(since: int, standings: Iterable[Standing], fault_limit: int) -> bool:
    """Whether f + 1 different members have revealed since a height, so that one honest one has."""
    return sum(standing.revealed > since for standing in standings) > fault_limit


def peel(standing: Standing, reveal: bytes, height: int) -> Standing:
    """R21: what was revealed is the promise of what comes next."""
    return turn_over(
        replace(standing, onion=reveal, onion_left=standing.onion_left - 1, revealed=height)
    )


def turn_over(standing: Standing) -> Standing:
    """R25: the next onion once the present one is used up."""
    if standing.onion_left or not standing.next_left:
        return standing
    return replace(
        standing,
        onion=standing.next_onion,
        onion_left=standing.next_left,
        promised=standing.next_promised,
        next_onion=b"",
        next_left=0,
        next_promised=0,
        generation=standing.generation + 1,
    )


def miss_turn(standing: Standing, params: Params, height: int) -> Standing:
    """R22: a block was first proposed in a later round than this member's."""
    missed = standing.missed + 1
    if missed < params.max_missed_turns:
        return replace(standing, missed=missed)
    return strike(replace(standing, missed=0), params, height)


def take_turn(standing: Standing) -> Standing:
    """R22: the member's block was decided."""
    return replace(standing, missed=0) if standing.missed else standing


def strike(standing: Standing, params: Params, height: int) -> Standing:
    """Jail a member from elections, from the next height on."""
    return replace(
        standing, strikes=standing.strikes + 1, jailed_until=height + params.jail_heights
    )
