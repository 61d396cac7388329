"""What members and strangers can make a node remember: exact bounds, whatever they send.

Invariant S13: the memory of the machine, of its queue, of the mempool and of the queues to peers
depends on limits and on the number of members, never on how much somebody says.
"""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import httpx
import pytest
from hypothesis import strategies as st
from msgspec.structs import replace

from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    Effect,
    Equivocation,
    GossipDue,
    ReceivedProposal,
    ReceivedVote,
    TimeoutFired,
    Timer,
    TimerKind,
)
from milepost_consensus.inbox import EARLY_ROUNDS
from milepost_consensus.machine import Machine
from milepost_consensus.members import compute_fault_limit
from milepost_consensus.payloads import Attest, Hold, PanelVote, Witness
from milepost_consensus.state import LedgerState
from milepost_consensus.tally import ROUNDS_AHEAD, ROUNDS_BEHIND
from milepost_consensus.transactions import Payload
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE
from milepost_node.envelopes import make_envelope
from milepost_node.errors import InvalidRequest
from milepost_node.handshake import Identity
from milepost_node.mempool import SUBMITS_PER_SENDER, Mempool
from milepost_node.peers import QUEUE_BYTES, QUEUE_MESSAGES, Peer
from milepost_node.runtime import LARGE_BYTES, LARGE_TXS, Runtime
from milepost_node.runtime import QUEUE_BYTES as EVENT_BYTES
from milepost_node.store import Store
from tests.fuzz.properties import THOROUGH, run_property
from tests.support.desk import NOW_MS, Desk, pick
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record
from tests.support.nodes import MemoryNetwork, MemoryPoster
from tests.support.validators import Validators

SEVEN = Validators(7)
LIARS = range(7 - compute_fault_limit(7), 7)
ROUNDS_KEPT = ROUNDS_BEHIND + 1 + ROUNDS_AHEAD
MESSAGES = 900
"""That the liars send in one flood; several times what the machine may keep of them."""

# The machine -------------------------------------------------------------------------------------


class Flood:
    """Validly signed junk of f validators of seven, thrown at the first one."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._desk = Desk(SEVEN)
        self._desk.start()
        self._accused: set[tuple[int, int, bytes]] = set()
        self.most_votes = 0

    @property
    def machine(self) -> Machine:
        return self._desk.machine

    def run(self) -> None:
        for _ in range(MESSAGES):
            self._send()
            self._check()
            self.most_votes = max(self.most_votes, len(self.machine._inbox.tally._votes))
            if self._rng.random() < 0.05:
                self._check_relay(self._desk.machine.handle(GossipDue()))

    def _send(self) -> None:
        rng, machine = self._rng, self._desk.machine
        # Rounds are reached by the machine's own timers, not by what liars say.
        if rng.random() < 0.04:
            timer = Timer(TimerKind.PRECOMMIT, machine.height, machine.round)
            machine.handle(TimeoutFired(timer))
            return
        sender, round_ = rng.choice(LIARS), self._choose_round()
        height = rng.choice((1, 1, 1, 1, 1, 1, 2, 2, 3, rng.randrange(2**62)))
        block_id = rng.choice((NIL, rng.randbytes(32), rng.randbytes(32)))
        if rng.random() < 0.8:
            type_ = rng.choice((PREVOTE, PRECOMMIT))
            event: ReceivedVote | ReceivedProposal = ReceivedVote(
                SEVEN.make_vote(sender, type_, block_id, round_=round_, height=height)
            )
        else:
            block, _ = SEVEN.make_block(round_, later_ms=rng.randrange(1_000))
            event = ReceivedProposal(SEVEN.make_proposal(block, sender=sender), NOW_MS)
        try:
            effects = machine.handle(event)
        except InvalidInput:
            return
        for caught in pick(effects, Equivocation):
            kind = getattr(caught.first, "type", 0)
            place = (kind, caught.first.round, caught.first.sender)
            assert place not in self._accused, "one lie is reported once"
            self._accused.add(place)

    def _choose_round(self) -> int:
        near = self.machine.round + self._rng.randint(-ROUNDS_BEHIND - 2, ROUNDS_AHEAD + 2)
        far = self._rng.randrange(2**31)
        return self._rng.choice((0, 1, max(0, near), max(0, near), max(0, near), far))

    def _check(self) -> None:
        """Everything that the machine holds, counted."""
        inbox, members, liars = self.machine._inbox, len(SEVEN.signers), len(LIARS)
        tally = inbox.tally
        votes = tally._votes
        assert len(votes) <= 2 * ROUNDS_KEPT
        assert all(len(senders) <= liars + 1 for senders in votes.values())
        assert len(tally.proposals) <= ROUNDS_KEPT
        assert len(tally._heard) <= members
        assert len(tally._quorums) <= len(votes)
        assert len(tally._accused) <= 3 * ROUNDS_KEPT * liars
        oldest = self.machine.round - ROUNDS_BEHIND
        assert all(round_ >= oldest for round_, _, _ in tally._accused)
        assert len(inbox._early) <= 3 * EARLY_ROUNDS * members
        assert len(inbox._claims) <= members
        assert len(self.machine._after) <= ROUNDS_KEPT + 2
        assert self.machine.height == 1, "f validators decide nothing"

    def _check_relay(self, effects: list[Effect]) -> None:
        rounds_said_again = 2 + ROUNDS_AHEAD
        assert len(effects) <= rounds_said_again * (2 * (len(LIARS) + 1) + 1)


@pytest.mark.parametrize("times", THOROUGH)
def test_a_flood_of_signed_junk_fills_nothing(times: int) -> None:
    def check(seed: int) -> None:
        flood = Flood(seed)
        flood.run()
        assert flood.most_votes > ROUNDS_KEPT, "a flood that comes near the bounds"
        assert flood.machine.round > ROUNDS_BEHIND

    run_property(check, st.integers(0, 2**32), examples=2, times=times)


# The queue of the machine ------------------------------------------------------------------------


def test_the_queue_of_the_machine_is_bounded_in_bytes(tmp_path: Path) -> None:
    ledger = Ledger(make_genesis(4))
    tx = ledger.sign(Hold(bytes(32)), ledger.verifiers[0])
    large = replace(tx, payload=bytes(1024 * 1024))
    validators = Validators(4)
    block, _ = validators.make_block()
    proposal = validators.make_proposal(replace(block, txs=(large,) * 8))
    vote = ReceivedVote(validators.make_vote(1, PREVOTE, NIL))
    store = Store(tmp_path / "chain.db", ledger.state.network)
    runtime = Runtime(
        Desk(validators).machine,
        store=store,
        mempool=Mempool(ledger.state.network, limit=10, per_sender=10),
        network=Deaf(),
        on_behind=lambda sender: None,
        on_decided=lambda block, state: None,
        on_equivocation=lambda first, second: None,
    )
    for _ in range(100):
        runtime.offer(ReceivedProposal(proposal, NOW_MS))
    assert EVENT_BYTES * 3 // 4 < runtime.queued_bytes <= EVENT_BYTES
    assert runtime.counts["queue-full"] == 100 - 7
    runtime.offer(vote)
    assert runtime.counts["queue-full"] == 100 - 7, "votes find room beside large blocks"
    runtime.stop()
    assert runtime.queued_bytes == 0
    store.close()


async def test_large_blocks_are_executed_off_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(make_genesis(4))
    tx = ledger.sign(Hold(bytes(32)), ledger.verifiers[0])
    desk = Desk(SEVEN)
    store = Store(tmp_path / "chain.db", SEVEN.network)
    runtime = Runtime(
        desk.machine,
        store=store,
        mempool=Mempool(SEVEN.network, limit=10, per_sender=10),
        network=Deaf(),
        on_behind=lambda sender: None,
        on_decided=lambda block, state: None,
        on_equivocation=lambda first, second: None,
    )
    places: list[bool] = []
    vote = ReceivedVote(SEVEN.make_vote(1, PREVOTE, NIL))

    def note(event: object) -> list[Effect]:
        places.append(threading.current_thread() is threading.main_thread())
        return []

    monkeypatch.setattr(desk.machine, "handle", note)
    proposal = SEVEN.make_proposal(SEVEN.make_block()[0])
    many = replace(proposal, block=replace(proposal.block, txs=(tx,) * (LARGE_TXS + 1)))
    heavy = replace(tx, payload=bytes(LARGE_BYTES + 1))
    running = asyncio.create_task(runtime.run())
    await runtime.deliver(vote)
    await runtime.deliver(ReceivedProposal(proposal, NOW_MS))
    assert places.pop(), "what is done soon needs no thread"
    large = replace(proposal, block=replace(proposal.block, txs=(heavy,)))
    for event in (ReceivedProposal(large, NOW_MS), ReceivedProposal(many, NOW_MS), vote):
        # From the first large block of a height on, any event may have it executed.
        await runtime.deliver(event)
        assert not places.pop()
    runtime.stop()
    await running
    store.close()


class Deaf:
    """A network in which nobody listens."""

    def broadcast(self, message: object) -> None:
        """Nothing."""


# Queues to peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("times", THOROUGH)
def test_the_queue_to_a_peer_is_bounded_and_drops_the_oldest(times: int) -> None:
    member = make_genesis(4).members[0]

    def check(sizes: list[int]) -> None:
        network = MemoryNetwork()
        client = httpx.AsyncClient(transport=network)
        peer = Peer(member, client, Identity("test", bytes(32)), MemoryPoster(network, "http://x"))
        sent = [("vote", number.to_bytes(4, "big") + bytes(s)) for number, s in enumerate(sizes)]
        for envelope in sent:
            peer.enqueue(envelope)
            assert len(peer._queue) <= QUEUE_MESSAGES
            held = sum(len(data) for _, data in peer._queue)
            assert held == peer._queued_bytes
            assert held <= QUEUE_BYTES or len(peer._queue) == 1
        kept = list(peer._queue)
        assert kept == sent[len(sent) - len(kept) :]
        assert peer.dropped == len(sent) - len(kept)

    sizes = st.lists(st.sampled_from((0, 100, QUEUE_BYTES // 8, QUEUE_BYTES // 3)), max_size=24)
    run_property(check, sizes, examples=15, times=min(times, 5))


def test_many_small_messages_push_out_the_oldest() -> None:
    network = MemoryNetwork()
    client = httpx.AsyncClient(transport=network)
    poster = MemoryPoster(network, "http://x")
    peer = Peer(make_genesis(4).members[0], client, Identity("test", bytes(32)), poster)
    votes = [SEVEN.make_vote(1, PREVOTE, make_hash(number)) for number in range(20)]
    for _ in range(QUEUE_MESSAGES // 10):
        for vote in votes:
            peer.enqueue(make_envelope(vote))
    assert len(peer._queue) == QUEUE_MESSAGES
    assert peer._queue[-1] == make_envelope(votes[-1])


# The mempool -------------------------------------------------------------------------------------


def open_mempool(state: LedgerState, *, limit: int = 200, per_sender: int = 200) -> Mempool:
    return Mempool(state.network, limit=limit, per_sender=per_sender)


def make_answers(ledger: Ledger, submission: bytes, verifier: bytes) -> list[Payload]:
    """One answer of each kind that the rules take from a verifier now."""
    record = make_record()
    duty = next(duty for duty in ledger.get(submission).duties if duty.verifier == verifier)
    witness = record.make_witness(submission, 1, recomputed=make_hash("mine"))
    attest = Attest(submission, duty.interval, 1, duty.work_step, make_hash("work"), 0)
    return [attest, witness]


def test_an_answer_waits_once_however_often_it_is_signed() -> None:
    ledger = Ledger(make_genesis(4))
    submission = ledger.start(make_record())
    verifier = ledger.get(submission).duties[0].verifier
    mempool = open_mempool(ledger.state)
    answers = make_answers(ledger, submission, verifier)
    for answer in answers:
        assert mempool.add(ledger.state, ledger.sign(answer, verifier))
    for answer in answers:
        for number in range(30):
            later = ledger.sign(answer, verifier, valid_until=ledger.state.height + 1 + number)
            other = vary(answer, number)
            for tx in (later, ledger.sign(other, verifier)):
                with pytest.raises(InvalidRequest) as caught:
                    mempool.add(ledger.state, tx)
                assert caught.value.slug == "mempool-full"
    assert len(mempool) == len(answers)
    block = ledger.apply(mempool.take())
    mempool.apply_block(block, ledger.state)
    assert len(mempool) == 0
    assert not mempool._subjects


def vary(answer: Payload, number: int) -> Payload:
    """The same answer with other words."""
    if isinstance(answer, Attest):
        return replace(answer, work_digest=make_hash(number))
    assert isinstance(answer, Witness)
    return replace(answer, recomputed=make_hash(number))


def test_holds_and_panel_votes_wait_once() -> None:
    ledger = Ledger(make_genesis(4))
    submission = ledger.submit(make_record())
    mempool = open_mempool(ledger.state)
    holder = ledger.verifiers[0]
    assert mempool.add(ledger.state, ledger.sign(Hold(submission), holder))
    again = ledger.sign(Hold(submission), holder, valid_until=ledger.state.height + 5)
    with pytest.raises(InvalidRequest):
        mempool.add(ledger.state, again)
    assert mempool.add(ledger.state, ledger.sign(Hold(submission), ledger.verifiers[1]))
    ledger.hold(submission)
    ledger.apply()
    accuser, juror = ledger.verifiers[:2]
    witness = make_record().make_witness(submission, 1, recomputed=make_hash("mine"))
    ledger.attest_open(submission)
    ledger.apply([ledger.sign(witness, accuser)])
    ledger.run_until(submission, "panel")
    mempool = open_mempool(ledger.state)
    vote = PanelVote(submission, witness.interval, witness.step, make_hash("mine"))
    assert mempool.add(ledger.state, ledger.sign(vote, juror))
    with pytest.raises(InvalidRequest):
        mempool.add(ledger.state, ledger.sign(replace(vote, recomputed=make_hash("x")), juror))


def test_whoever_has_least_takes_the_place_of_whoever_has_most() -> None:
    names = ("greedy", "modest", "late")
    ledger = Ledger(make_genesis(4, submitters=names))
    mempool = open_mempool(ledger.state, limit=10)

    def send(name: str, number: int) -> bool:
        tx = ledger.sign(make_record(f"{name} {number}").submit, name)
        try:
            return mempool.add(ledger.state, tx)
        except InvalidRequest as error:
            slug = error.slug
        assert slug == "mempool-full"
        return False

    assert [send("greedy", number) for number in range(12)] == [True] * 10 + [False] * 2
    assert [send("modest", number) for number in range(7)] == [True] * 5 + [False] * 2
    assert [send("late", number) for number in range(5)] == [True] * 3 + [False] * 2
    assert len(mempool) == 10
    waiting = [submit.name for submit in mempool.get_submits()]
    assert waiting[:3] == [f"greedy {number}" for number in range(3)], "the newest had to go"
    assert len(waiting) == len(mempool)


def test_each_member_has_few_transactions_that_nobody_asked_for() -> None:
    ledger = Ledger(make_genesis(4))
    mempool = open_mempool(ledger.state)
    txs = [ledger.sign(make_record(str(n)).submit, "submitter") for n in range(40)]
    taken = 0
    for tx in txs:
        try:
            taken += mempool.add(ledger.state, tx)
        except InvalidRequest:
            continue
    assert taken == len(mempool) == SUBMITS_PER_SENDER
    mempool.apply_block(ledger.apply(mempool.take()), ledger.state)
    assert not mempool._unasked
    assert mempool.add(ledger.state, txs[-1]), "room is made when a block takes them"
