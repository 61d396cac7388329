"""Catching up from peers that tell the truth, boast, serve rubbish, or let us wait.

Whoever lies does it in front of an honest peer, and the node must end where the honest one is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from urllib.parse import parse_qs

import httpx
import msgspec
import pytest

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.certificates import verify_certificate
from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.events import BlockFetched
from milepost_consensus.members import VALIDATOR, Member
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_node.handshake import Identity
from milepost_node.peers import Peers, make_client
from milepost_node.sources import SHUN_SECONDS
from milepost_node.sync import BATCH_BLOCKS, PAGE_BLOCKS, Sync, _read_page
from tests.support.ledger import Ledger, make_genesis, make_record, make_signer
from tests.support.nodes import certify

GENESIS = make_genesis(4)
LENGTH = PAGE_BLOCKS + 20

Answer = Callable[[int, int], tuple[bytes, int] | None]
"""From first height and limit to a page and the claimed height; None for no answer at all."""
SILENCE = (b"", -1)
"""An answer that never comes."""


@cache
def get_chain() -> list[tuple[bytes, bytes]]:
    """Blocks with certificates as bytes, the first with a submission in it."""
    ledger = Ledger(GENESIS)
    ledger.submit(make_record())
    ledger.run(LENGTH - 1)
    return [(encode(block), encode(certify(block, ledger.state))) for block in ledger.blocks]


def honest(first: int, limit: int) -> tuple[bytes, int]:
    return msgspec.msgpack.encode(get_chain()[first - 1 : first - 1 + limit]), LENGTH


class Desk:
    """A Sync against peers that answer as told, and a ledger that checks what it is given."""

    def __init__(self, *answers: Answer) -> None:
        self.state: LedgerState = make_initial_state(GENESIS)
        self.asked: list[tuple[str, int]] = []
        self.batches: list[int] = []
        self._answers = {f"p{i}": answer for i, answer in enumerate(answers)}
        members = [
            Member(make_signer(name).public, name, VALIDATOR, name, f"http://{name}")
            for name in self._answers
        ]
        client = make_client(httpx.MockTransport(self._handle))
        self.peers = Peers(
            members, own_id=b"", own=Identity("test", self.state.network), client=client
        )
        self.sync = Sync(
            self.peers,
            get_height=lambda: self.state.height,
            deliver=self.deliver,
            patience_seconds=0.01,
        )

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        query = parse_qs(request.url.query.decode())
        first = int(query["from"][0])
        self.asked.append((request.url.host, first))
        reply = self._answers[request.url.host](first, int(query["limit"][0]))
        if reply is None:
            raise httpx.ConnectError("gone", request=request)
        if reply is SILENCE:
            await asyncio.Event().wait()
        page, claimed = reply
        return httpx.Response(
            200, stream=httpx.ByteStream(page), headers={"milepost-height": str(claimed)}
        )

    async def deliver(self, *events: BlockFetched) -> None:
        self.batches.append(len(events))
        for block, certificate in ((event.block, event.certificate) for event in events):
            validators, network = self.state.validators, self.state.network
            verify_certificate(certificate, block.header, validators, network)
            self.state = validate_block(self.state, block, now_ms=None)

    async def catch_up(self) -> None:
        """What a node does when it starts."""
        await self.sync.catch_up()

    def count(self, name: str) -> int:
        """How often a peer was asked."""
        return sum(host == name for host, _ in self.asked)


async def test_whole_chain_is_fetched_in_pages() -> None:
    desk = Desk(honest)
    assert desk.sync.syncing
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert not desk.sync.syncing
    assert [first for _, first in desk.asked] == [1, 1, PAGE_BLOCKS + 1, LENGTH + 1]
    assert desk.batches == [BATCH_BLOCKS] * (PAGE_BLOCKS // BATCH_BLOCKS) + [20]


async def test_full_blocks_go_to_the_disk_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("milepost_node.sync.BATCH_TRANSACTIONS", 1)
    desk = Desk(honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert desk.batches[:2] == [1, BATCH_BLOCKS], "the first block carries the only transaction"


async def test_blocks_that_consensus_decided_meanwhile_are_not_delivered_again() -> None:
    desk = Desk(honest)
    deliver, seen = desk.deliver, list[int]()

    async def decide_and_deliver(*events: BlockFetched) -> None:
        seen.extend(event.block.header.height for event in events)
        await deliver(*events)
        if desk.state.height < LENGTH:
            block, certificate = get_chain()[desk.state.height]
            await deliver(BlockFetched(decode(Block, block), decode(Certificate, certificate)))

    desk.sync._deliver = decide_and_deliver
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert len(seen) == len(set(seen)) < LENGTH


async def test_peer_that_boasts_does_not_hold_up_the_others() -> None:
    boaster: Answer = lambda first, limit: (b"\x90", 10**9)  # noqa: E731
    desk = Desk(boaster, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert not desk.sync.syncing, "a claim alone does not make a node behind"


async def test_peer_that_is_gone_does_not_hold_up_the_others() -> None:
    desk = Desk(lambda first, limit: None, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert desk.peers.reachable_count == 1


def forge_certificate(first: int, limit: int) -> tuple[bytes, int]:
    """The right blocks, signed by nobody."""
    block, _ = get_chain()[first - 1]
    certificate = encode(Certificate(first, 0, bytes(32), (), ()))
    return msgspec.msgpack.encode([(block, certificate)]), 10**6


@pytest.mark.parametrize(
    "answer",
    [
        forge_certificate,
        lambda first, limit: (b"rubbish", 10**6),
        lambda first, limit: (msgspec.msgpack.encode([(b"x", b"y")]), 10**6),
        lambda first, limit: (b"", 10**6),
    ],
)
async def test_peer_that_serves_rubbish_is_passed_over(answer: Answer) -> None:
    desk = Desk(answer, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert desk.count("p0") <= 2
    for _ in range(6):
        await desk.sync.look()
    assert desk.count("p0") <= 2, "it is not asked again for a while"


async def test_blocks_of_other_heights_than_asked_for_are_no_progress_and_no_loop() -> None:
    # The first block over and over: known already once it was taken.
    desk = Desk(lambda first, limit: (msgspec.msgpack.encode(get_chain()[:1]), 10**6))
    await desk.catch_up()
    assert desk.state.height == 1
    assert len(desk.asked) <= 3


def serve(first: int, count: int) -> bytes:
    """A page of the real chain."""
    return msgspec.msgpack.encode(get_chain()[first - 1 : first - 1 + count])


async def test_silent_peers_are_overtaken() -> None:
    silent: Answer = lambda first, limit: SILENCE if limit > 1 else (serve(first, 1), LENGTH)  # noqa: E731
    desk = Desk(silent, silent, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH


async def test_silent_peer_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_node.sync.ASK_SECONDS", 0.05)
    desk = Desk(lambda first, limit: SILENCE, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH


async def test_peer_that_claims_much_and_later_less_is_left_alone() -> None:
    # The target is never a claim, so there is nothing to wait for; and it may not spin us.
    claims = iter(range(10**9, 0, -1))

    def retreat(first: int, limit: int) -> tuple[bytes, int]:
        return serve(first, 1) if first == 1 else b"\x90", next(claims) % max(first, 10**8)

    desk = Desk(retreat, honest)
    await desk.catch_up()
    assert (desk.state.height, desk.sync.syncing) == (LENGTH, False)
    alone = Desk(retreat)
    await alone.catch_up()
    for _ in range(6):
        await alone.sync.look()
    assert alone.count("p0") == 2


async def test_peer_that_advertises_and_does_not_serve_is_dropped_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("milepost_node.sources.read_monotonic", lambda: now)
    desk = Desk(lambda first, limit: (b"\x90", 10**9), honest)
    await desk.catch_up()
    for _ in range(6):
        await desk.sync.look()
    assert desk.count("p0") == 1
    now += SHUN_SECONDS
    for _ in range(2):
        await desk.sync.look()
    assert desk.count("p0") == 2, "a peer that was repaired is asked again"


async def test_peer_with_nothing_new_does_not_keep_us_from_the_others() -> None:
    """It says what is so far true of it: neither lies nor blocks.  Others get their turns."""
    height = 0

    def late(first: int, limit: int) -> tuple[bytes, int]:
        return serve(first, limit) if first <= height else b"\x90", height

    desk = Desk(lambda first, limit: (b"\x90", 0), late)
    await desk.catch_up()
    height = LENGTH
    for _ in range(2):
        # The idle one is also always said to be ahead: somebody signs messages of later heights.
        desk.sync.request(desk.peers.all[0].id)
        await desk.sync.look()
    assert desk.state.height == LENGTH


async def test_peer_that_serves_block_by_block_does_not_set_the_pace() -> None:
    miser: Answer = lambda first, limit: (serve(first, 1), LENGTH)  # noqa: E731
    desk = Desk(miser, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert desk.count("p0") <= 3
    alone = Desk(miser)
    await alone.catch_up()
    assert alone.state.height == LENGTH, "better than nothing"


@pytest.mark.parametrize("count", [PAGE_BLOCKS + 1, 2**32 - 1])
def test_page_of_too_many_blocks_is_refused_before_they_are_built(count: int) -> None:
    # Millions of empty pairs fit into the bytes of a page.
    page = b"\xdd" + count.to_bytes(4, "big") + b"\x92\xc4\x00\xc4\x00" * (PAGE_BLOCKS + 1)
    with pytest.raises(InvalidEncoding, match=r"not a page of blocks: .* length"):
        _read_page(page, 1, PAGE_BLOCKS)


async def test_more_blocks_than_asked_for_are_refused() -> None:
    desk = Desk(lambda first, limit: (serve(1, 2), LENGTH))
    await desk.catch_up()
    assert (desk.state.height, len(desk.asked)) == (0, 1)


async def test_next_page_is_on_its_way_while_one_is_applied() -> None:
    desk = Desk(honest)
    asked_at: list[int] = []
    deliver = desk.deliver

    async def watch(*events: BlockFetched) -> None:
        await asyncio.sleep(0)
        await deliver(*events)
        if events[-1].block.header.height == PAGE_BLOCKS:
            asked_at.extend(first for _, first in desk.asked)

    desk.sync._deliver = watch
    await desk.catch_up()
    assert PAGE_BLOCKS + 1 in asked_at


async def test_block_that_breaks_a_rule_costs_its_server_the_turn_not_the_chain() -> None:
    def spoil(first: int, limit: int) -> tuple[bytes, int]:
        """Good blocks, and among them one whose transactions were taken out."""
        pairs = get_chain()[first - 1 : first - 1 + limit]
        if first <= 1 < first + limit:
            block = decode(Block, pairs[1 - first][0])
            pairs[1 - first] = (encode(Block(block.header, ())), pairs[1 - first][1])
        return msgspec.msgpack.encode(pairs), LENGTH

    desk = Desk(spoil, honest)
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert desk.count("p0") <= 2


async def test_readiness_believes_only_what_more_than_a_third_claim() -> None:
    # Four peers, one of which may lie; it serves, so nothing but its claim is wrong.
    def boast(first: int, limit: int) -> tuple[bytes, int]:
        return serve(first, limit), 10**9 if first <= LENGTH else LENGTH

    desk = Desk(boast, honest, honest, honest)
    await asyncio.gather(*(desk.sync._fetch(peer, limit=1) for peer in desk.peers.all))
    assert desk.sync.behind == LENGTH
    await desk.catch_up()
    assert (desk.sync.behind, desk.sync.syncing) == (0, False)


async def test_node_that_cannot_get_what_many_claim_says_that_it_is_not_level() -> None:
    withheld = False

    def withhold(first: int, limit: int) -> tuple[bytes, int] | None:
        return None if withheld and limit > 1 else honest(first, limit)

    withheld = True
    desk = Desk(withhold, withhold, withhold, withhold)
    await desk.catch_up()
    assert (desk.state.height, desk.sync.syncing, desk.sync.behind) == (0, True, LENGTH)
    withheld = False
    await desk.sync.look()
    assert (desk.state.height, desk.sync.syncing) == (LENGTH, False)


async def test_too_large_page_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_node.sync.MAX_PAGE_BYTES", 1_000)
    desk = Desk(lambda first, limit: (bytes(5_000), 1))
    await desk.catch_up()
    assert desk.state.height == 0
