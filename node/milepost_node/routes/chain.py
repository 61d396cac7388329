"""The ledger for people and light clients: status, genesis, blocks, submissions, proofs.

A block may have eight megabytes and a submission two thousand duties: what shows them runs in a
thread, one object after the other, so that votes and timers never wait for a reader.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import decode
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import Submission
from milepost_consensus.views import to_view
from milepost_node.errors import InvalidRequest
from milepost_node.problem_json import JsonAnswer
from milepost_node.proofs import sign_proof
from milepost_node.routes.access import get_node, run_aside
from milepost_node.store import StoredBlock

router = APIRouter(prefix="/v1")

LISTED: Final = 20
MAX_LISTED: Final = 100
LISTED_BYTES: Final = 4 * 1024 * 1024
"""A list stops here, though it always holds one submission."""
MIN_PREFIX: Final = 6
"""Hex digits of a submission id that a person must give at least."""
_HEX: Final = frozenset("0123456789abcdef")

Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]


@router.get("/status", response_class=JsonAnswer)
async def get_status(request: Request) -> Response:
    """Who this node is and where it stands."""
    return JsonAnswer(get_node(request).get_status())


@router.get("/genesis", response_class=JsonAnswer)
async def get_genesis(request: Request) -> Response:
    """What the network started from."""
    return JsonAnswer(to_view(get_node(request).settings.genesis))


@router.get("/blocks", response_class=JsonAnswer)
async def get_blocks(
    request: Request, before: Annotated[int | None, Query(ge=0)] = None, limit: Limit = LISTED
) -> Response:
    """Headers of the newest blocks, or of those below `before`, newest first."""
    node = get_node(request)
    top = min(before if before is not None else 2**62, node.runtime.state.height + 1)
    entries: list[dict[str, object]] = []
    while len(entries) < limit and (stored := node.store.get_block_before(top)) is not None:
        block = await run_aside(request, decode, Block, stored.block)
        top = stored.height
        entries.append(
            {
                "id": stored.id.hex(),
                "header": to_view(block.header),
                "transactions": len(block.txs),
            }
        )
    return JsonAnswer({"blocks": entries})


@router.get("/blocks/{height}", response_class=JsonAnswer)
async def get_block(request: Request, height: int) -> Response:
    """One final block with the certificate that makes it so."""
    node = get_node(request)
    known = 0 < height <= node.runtime.state.height
    stored = node.store.get_block(height) if known else None
    if stored is None:
        raise InvalidRequest(
            f"there is no block {height}; this node is at height {node.runtime.state.height}",
            slug="not-found",
        )
    return JsonAnswer(await run_aside(request, _view_block, stored))


@router.get("/submissions", response_class=JsonAnswer)
async def get_submissions(request: Request, limit: Limit = LISTED) -> Response:
    """The newest submissions, newest first; fewer than asked for where they are very large."""
    state = get_node(request).runtime.state
    newest = sorted(state.submissions.values(), key=lambda item: (-item.anchored_height, item.id))
    shown: list[msgspec.Raw] = []
    size_bytes = 0
    for item in newest[:limit]:
        view = await run_aside(request, _view, state, item)
        size_bytes += len(view)
        if shown and size_bytes > LISTED_BYTES:
            break
        shown.append(view)
    return JsonAnswer({"submissions": shown})


@router.get("/submissions/{name}", response_class=JsonAnswer)
async def get_submission(request: Request, name: str) -> Response:
    """One submission by its id, or by the beginning of it, with its verdict or null."""
    state = get_node(request).runtime.state
    return JsonAnswer(await run_aside(request, _view, state, find_submission(state, name)))


@router.get("/submissions/{name}/proof", response_class=JsonAnswer)
async def get_proof(request: Request, name: str) -> Response:
    """The proof file of a decided submission, its envelope signed by this node."""
    node = get_node(request)
    submission = find_submission(node.runtime.state, name)
    proof = node.store.get_proof(submission.id)
    if proof is None:
        raise InvalidRequest(
            f"submission {submission.id.hex()[:16]} has no verdict yet, it is {submission.phase}",
            slug="not-decided",
        )
    signed = await run_aside(request, sign_proof, proof, node.settings.signer)
    return Response(signed, media_type="application/json")


def find_submission(state: LedgerState, name: str) -> Submission:
    """The submission whose id begins with the hex digits in `name`, "sub_" before them or not.

    Raises InvalidRequest: bad-request for something else, unknown-submission, ambiguous.
    """
    digits = name.removeprefix("sub_").lower()
    if not MIN_PREFIX <= len(digits) <= 64 or not _HEX.issuperset(digits):
        raise InvalidRequest(
            f"a submission is named by {MIN_PREFIX} to 64 hex digits, with or without sub_"
        )
    if len(digits) == 64:
        exact = state.submissions.get(bytes.fromhex(digits))
        found = [exact] if exact is not None else []
    else:
        found = [item for item in state.submissions.values() if item.id.hex().startswith(digits)]
    if not found:
        raise InvalidRequest(
            f"no submission {digits[:16]} is on the chain at height {state.height}",
            slug="unknown-submission",
        )
    if len(found) > 1:
        raise InvalidRequest(
            f"{len(found)} submissions begin with {digits}; give more digits", slug="ambiguous"
        )
    return found[0]


def _view(state: LedgerState, submission: Submission) -> msgspec.Raw:
    verdict = state.verdicts.get(submission.id)
    view = {
        "submission": to_view(submission),
        "verdict": to_view(verdict) if verdict is not None else None,
    }
    return msgspec.Raw(msgspec.json.encode(view))


def _view_block(stored: StoredBlock) -> msgspec.Raw:
    view = {
        "id": stored.id.hex(),
        "block": to_view(decode(Block, stored.block)),
        "certificate": to_view(decode(Certificate, stored.certificate)),
    }
    return msgspec.Raw(msgspec.json.encode(view))
