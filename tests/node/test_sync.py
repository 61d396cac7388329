"""Catching up from peers that tell the truth, lie about their height, or serve rubbish."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from urllib.parse import parse_qs

import httpx
import msgspec
import pytest

from milepost_consensus.blocks import Certificate
from milepost_consensus.certificates import verify_certificate
from milepost_consensus.encoding import encode
from milepost_consensus.events import BlockFetched
from milepost_consensus.members import VALIDATOR, Member
from milepost_consensus.rules import validate_block
from milepost_consensus.state import LedgerState, make_initial_state
from milepost_node.peers import Peers, make_client
from milepost_node.sync import PAGE_BLOCKS, Sync
from tests.support.ledger import Ledger, make_genesis, make_record, make_signer
from tests.support.nodes import certify

GENESIS = make_genesis(4)
LENGTH = PAGE_BLOCKS + 20

Answer = Callable[[int, int], tuple[bytes, int] | None]
"""From first height and limit to a page and the claimed height; None for no answer at all."""


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
        self._answers = {f"p{i}": answer for i, answer in enumerate(answers)}
        members = [
            Member(make_signer(name).public, name, VALIDATOR, name, f"http://{name}")
            for name in self._answers
        ]
        client = make_client(httpx.MockTransport(self._handle))
        self.peers = Peers(members, own_id=b"", network=self.state.network, client=client)
        self.sync = Sync(self.peers, get_height=lambda: self.state.height, deliver=self.deliver)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        query = parse_qs(request.url.query.decode())
        first = int(query["from"][0])
        self.asked.append((request.url.host, first))
        reply = self._answers[request.url.host](first, int(query["limit"][0]))
        if reply is None:
            raise httpx.ConnectError("gone", request=request)
        page, claimed = reply
        return httpx.Response(
            200, stream=httpx.ByteStream(page), headers={"milepost-height": str(claimed)}
        )

    async def deliver(self, event: BlockFetched) -> None:
        header = event.block.header
        verify_certificate(event.certificate, header, self.state.validators, self.state.network)
        self.state = validate_block(self.state, event.block, now_ms=None)

    async def catch_up(self) -> None:
        """What a node does when it starts."""
        await self.sync.catch_up()


async def test_whole_chain_is_fetched_in_pages() -> None:
    desk = Desk(honest)
    assert desk.sync.syncing
    await desk.catch_up()
    assert desk.state.height == LENGTH
    assert not desk.sync.syncing
    assert [first for _, first in desk.asked] == [1, 1, PAGE_BLOCKS + 1, LENGTH + 1]


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
    asked = len(desk.asked)
    liar = desk.peers.all[0]
    await desk.sync.pull(liar)
    assert len(desk.asked) == asked, "it is not asked again for a while"


async def test_blocks_that_do_not_follow_ours_are_no_progress_and_no_loop() -> None:
    # The first block over and over: known already once it was taken.
    desk = Desk(lambda first, limit: (msgspec.msgpack.encode(get_chain()[:1]), 10**6))
    await desk.catch_up()
    assert desk.state.height == 1
    assert len(desk.asked) <= 3


async def test_too_large_page_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost_node.sync.MAX_PAGE_BYTES", 1_000)
    desk = Desk(lambda first, limit: (bytes(5_000), 1))
    await desk.catch_up()
    assert desk.state.height == 0
