"""What a node says to the ledger by itself: evidence, and the next onion."""

from __future__ import annotations

import dataclasses

from msgspec.structs import replace

from milepost_consensus.transactions import EVIDENCE, ONION_REFRESH, Tx, decode_payload
from milepost_consensus.votes import NIL, PREVOTE, Vote, sign_vote
from milepost_node.answers import Answers
from milepost_node.chores import Chores
from milepost_node.mempool import Mempool
from tests.support.ledger import Ledger, make_genesis, make_hash, make_signer
from tests.support.validators import LINKS, make_onion

ME = make_signer("node-0")


class Bench:
    """Chores of node-0 over a ledger, whose transactions go into the next block."""

    def __init__(self, name: str = "node-0") -> None:
        self.ledger = Ledger(make_genesis(4))
        self.sent: list[Tx] = []
        self.mempool = Mempool(self.ledger.state.network, limit=10, per_sender=10)
        self.answers = Answers(
            make_signer(name),
            get_state=lambda: self.ledger.state,
            send=self._send,
            mempool=self.mempool,
        )
        signer = make_signer(name)
        self.chores = Chores(
            signer.public,
            make_onion(signer),
            get_state=lambda: self.ledger.state,
            answers=self.answers,
        )

    def _send(self, tx: Tx) -> None:
        self.mempool.add(self.ledger.state, tx)
        self.sent.append(tx)

    def apply(self) -> None:
        block = self.ledger.apply(self.mempool.take())
        self.mempool.apply_block(block, self.ledger.state)
        self.answers.settle()
        self.chores.on_decided()

    def use_up(self, left: int) -> None:
        """Let the onion have `left` reveals left."""
        state = self.ledger.state
        standing = replace(
            state.standings[ME.public], onion=make_onion(ME)._get_chain(0)[left], onion_left=left
        )
        standings = {**state.standings, ME.public: standing}
        self.ledger.state = dataclasses.replace(state, standings=standings)

    def make_double_vote(self, name: str) -> tuple[Vote, Vote]:
        signer, network = make_signer(name), self.ledger.state.network
        first, second = (
            sign_vote(Vote(1, 0, PREVOTE, block_id, signer.public), signer, network)
            for block_id in (NIL, make_hash("x"))
        )
        return first, second


def test_a_double_vote_that_was_seen_ends_up_on_the_chain_once() -> None:
    bench = Bench()
    bench.ledger.run(1)
    bench.chores.on_equivocation(*bench.make_double_vote("node-2"))
    assert [tx.kind for tx in bench.sent] == [EVIDENCE]
    bench.apply()
    assert bench.ledger.state.standings[make_signer("node-2").public].strikes == 1
    assert len(bench.answers) == 0
    bench.chores.on_equivocation(*bench.make_double_vote("node-2"))
    assert len(bench.sent) == 1


def test_nobody_accuses_itself_and_only_validators_accuse() -> None:
    bench = Bench()
    bench.chores.on_equivocation(*bench.make_double_vote("node-0"))
    assert bench.sent == []
    other = Bench("submitter")
    other.chores.on_equivocation(*other.make_double_vote("node-2"))
    other.chores.on_decided()
    assert other.sent == []


def test_the_next_onion_is_promised_in_time_and_once() -> None:
    bench = Bench()
    bench.chores.on_decided()
    assert bench.sent == []
    bench.use_up(3)
    for _ in range(3):
        bench.chores.on_decided()
    assert [tx.kind for tx in bench.sent] == [ONION_REFRESH]
    bench.apply()
    standing = bench.ledger.state.standings[ME.public]
    assert (standing.next_onion, standing.next_left) == (make_onion(ME).get_head(1), LINKS)
    assert decode_payload(bench.sent[0]) is not None
    for _ in range(16):
        bench.apply()
    assert bench.ledger.state.standings[ME.public].generation == 1
    assert bench.ledger.state.standings[ME.public].onion_left < LINKS
    assert len(bench.sent) == 1
