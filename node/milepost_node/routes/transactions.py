"""Where clients hand in transactions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from milepost_node.bodies import read_body
from milepost_node.mempool import MAX_TX_BYTES
from milepost_node.problem_json import JsonAnswer
from milepost_node.routes.access import get_node

router = APIRouter(prefix="/v1")


@router.post("/transactions", status_code=202, response_class=JsonAnswer)
async def post_transaction(request: Request) -> Response:
    """Take in a signed transaction, given as its canonical bytes.

    Submissions and registrations are answered once the transaction is on disk, submissions also
    only once the whole record was validated; its files must be here before.
    """
    data = await read_body(request, limit_bytes=MAX_TX_BYTES)
    node = get_node(request)
    admitted = await node.admission.admit(data)
    if admitted.kept:
        await node.accepted.keep(data)
    submission, registration = admitted.submission_id, admitted.registration_id
    return JsonAnswer(
        {
            "id": admitted.tx_id.hex(),
            "submission": submission.hex() if submission is not None else None,
            "registration": registration.hex() if registration is not None else None,
        },
        status_code=202,
    )
