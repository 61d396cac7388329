"""What nodes say to each other: batches of messages one way, ranges of final blocks the other."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import ReceivedProposal, ReceivedVote
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import Vote
from milepost_node.bodies import read_body
from milepost_node.clock import read_wall_ms
from milepost_node.envelopes import MAX_BATCH_BYTES, Envelope, decode_batch, open_envelope
from milepost_node.node import Node
from milepost_node.peers import HEIGHT_HEADER
from milepost_node.routes.access import get_node, run_aside, validate_network
from milepost_node.sync import PAGE_BLOCKS, PAGE_BYTES

router = APIRouter(prefix="/v1/peer")

BREATH: Final = 16
"""Messages handled before other work gets its turn: a submission takes milliseconds to check."""


@router.post("/messages", status_code=204, response_class=Response)
async def post_messages(request: Request) -> Response:
    """Take a batch of messages.  Bad ones among them are dropped and counted."""
    node = get_node(request)
    validate_network(request, node)
    batch = decode_batch(await read_body(request, limit_bytes=MAX_BATCH_BYTES))
    for position, envelope in enumerate(batch):
        if position % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        receive(node, envelope)
    return Response(status_code=204)


def receive(node: Node, envelope: Envelope) -> None:
    """Hand a peer's message to whom it concerns; the machine and the rules check it."""
    try:
        message = open_envelope(envelope)
    except InvalidInput as error:
        node.runtime.counts[error.slug] += 1
        return
    if isinstance(message, Tx):
        node.admission.receive(message)
    elif isinstance(message, Vote):
        node.runtime.offer(ReceivedVote(message))
    else:
        node.runtime.offer(ReceivedProposal(message, read_wall_ms()))


@router.get("/blocks", response_class=Response)
async def get_blocks(
    request: Request,
    first: Annotated[int, Query(alias="from", ge=1)],
    limit: Annotated[int, Query(ge=1, le=PAGE_BLOCKS)] = PAGE_BLOCKS,
) -> Response:
    """Consecutive final blocks with their certificates, as MessagePack."""
    node = get_node(request)
    validate_network(request, node)
    height = node.runtime.state.height
    limit = limit if first <= height else 0  # what is on disk above it is not carried out yet
    page = await run_aside(request, _read_page, node, first, limit)
    return Response(
        page,
        media_type="application/msgpack",
        headers={HEIGHT_HEADER: str(height)},
    )


def _read_page(node: Node, first: int, limit: int) -> bytes:
    """Up to eight megabytes from the disk: nothing for the event loop."""
    blocks = node.store.get_blocks_from(first, limit=limit, limit_bytes=PAGE_BYTES)
    return msgspec.msgpack.encode([(stored.block, stored.certificate) for stored in blocks])
