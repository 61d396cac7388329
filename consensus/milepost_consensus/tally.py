"""The message log of one height: who said what in which round, counted as it comes in.

Only checked messages enter, at most one vote per round, type and sender and one proposal per
round.  Memory is bounded: messages of rounds further than ROUNDS_AHEAD above the own round leave
nothing but their number (relays bring them again once the round is near), and rounds that fell
ROUNDS_BEHIND are dropped (who decides by one of them serves the block with its certificate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from milepost_consensus.blocks import Block
from milepost_consensus.votes import NIL, Proposal, Vote

PROPOSAL: Final = 0
"""Stands for a proposal where votes have PREVOTE or PRECOMMIT."""
ROUNDS_AHEAD: Final = 4
ROUNDS_BEHIND: Final = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """A checked proposal."""

    proposal: Proposal
    block_id: bytes
    timely: bool
    """Whether the block's time was not too far ahead of the local clock when it came."""


class Tally:
    """Votes and proposals of one height.  `quorum` is how many votes are 2f + 1."""

    def __init__(self, quorum: int) -> None:
        self._quorum = quorum
        self._votes: dict[tuple[int, int], dict[bytes, Vote]] = {}
        self._quorums: dict[tuple[int, int], bytes] = {}
        self._heard: dict[bytes, int] = {}
        self._accused: set[tuple[int, int, bytes]] = set()
        self.proposals: dict[int, Seen] = {}

    def add_vote(self, vote: Vote) -> None:
        """Count a checked vote.  The first of a sender in a round counts, a second never comes."""
        votes = self._votes.setdefault((vote.round, vote.type), {})
        assert vote.sender not in votes
        votes[vote.sender] = vote
        if sum(v.block_id == vote.block_id for v in votes.values()) >= self._quorum:
            self._quorums[vote.round, vote.type] = vote.block_id
        self.hear(vote.sender, vote.round)

    def add_proposal(self, seen: Seen) -> None:
        """Keep a checked proposal, the first of its round."""
        assert seen.proposal.round not in self.proposals
        self.proposals[seen.proposal.round] = seen
        self.hear(seen.proposal.sender, seen.proposal.round)

    def hear(self, sender: bytes, round_: int) -> None:
        """Note that a validator said something signed in a round."""
        self._heard[sender] = max(round_, self.get_heard(sender))

    def get_heard(self, sender: bytes) -> int:
        """The highest round in which a validator spoke, -1 for none."""
        return self._heard.get(sender, -1)

    def count_others(self, sender: bytes) -> int:
        """How many validators besides this one spoke."""
        return len(self._heard.keys() - {sender})

    def get_reached(self, senders: int) -> int:
        """The highest round that at least so many validators reached, -1 for none."""
        rounds = sorted(self._heard.values(), reverse=True)
        return rounds[senders - 1] if len(rounds) >= senders else -1

    def get_vote(self, round_: int, type_: int, sender: bytes) -> Vote | None:
        """The vote that counts."""
        return self._votes.get((round_, type_), {}).get(sender)

    def count(self, round_: int, type_: int) -> int:
        """How many validators voted, for whatever."""
        return len(self._votes.get((round_, type_), {}))

    def get_quorum(self, round_: int, type_: int) -> bytes | None:
        """The block id (or NIL) that 2f + 1 votes of a round name; there is at most one."""
        return self._quorums.get((round_, type_))

    def get_quorums(self, type_: int) -> list[tuple[int, bytes]]:
        """Round and block id of all quorums of a type for a block, lowest round first."""
        return sorted(
            (round_, block_id)
            for (round_, t), block_id in self._quorums.items()
            if t == type_ and block_id != NIL
        )

    def get_votes_for(self, round_: int, type_: int, block_id: bytes) -> tuple[Vote, ...]:
        """The votes for one block id, ordered by sender."""
        votes = self._votes.get((round_, type_), {})
        return tuple(votes[s] for s in sorted(votes) if votes[s].block_id == block_id)

    def get_votes(self, first_round: int) -> tuple[Vote, ...]:
        """Every vote of the given round and later ones, in a fixed order."""
        return tuple(
            self._votes[key][sender]
            for key in sorted(self._votes)
            if key[0] >= first_round
            for sender in sorted(self._votes[key])
        )

    def get_proposals(self, first_round: int) -> tuple[Proposal, ...]:
        """Every proposal of the given round and later ones, by round."""
        return tuple(self.proposals[r].proposal for r in sorted(self.proposals) if r >= first_round)

    def get_block(self, block_id: bytes) -> Block | None:
        """The block that a proposal of any round brought."""
        for seen in self.proposals.values():
            if seen.block_id == block_id:
                return seen.proposal.block
        return None

    def is_accused(self, round_: int, type_: int, sender: bytes) -> bool:
        """Whether `accuse` was told about this."""
        return (round_, type_, sender) in self._accused

    def accuse(self, round_: int, type_: int, sender: bytes) -> None:
        """Note that a validator was caught with two messages, so that it is reported once."""
        self._accused.add((round_, type_, sender))

    def drop_below(self, round_: int) -> None:
        """Forget the messages of rounds below this one."""
        for key in [key for key in self._votes if key[0] < round_]:
            del self._votes[key]
            self._quorums.pop(key, None)
        for old in [old for old in self.proposals if old < round_]:
            del self.proposals[old]
        self._accused = {key for key in self._accused if key[0] >= round_}
