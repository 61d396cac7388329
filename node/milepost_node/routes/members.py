"""Who may verify what, by the ledger, and which of the other nodes this one reaches."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from milepost_consensus.members import Member
from milepost_consensus.standings import Standing
from milepost_node.clock import read_monotonic
from milepost_node.problem_json import JsonAnswer
from milepost_node.routes.access import get_node

router = APIRouter(prefix="/v1")


@router.get("/members", response_class=JsonAnswer)
async def get_members(request: Request) -> Response:
    """Those who agree on the next block, by id, with what each states that it serves."""
    state = get_node(request).runtime.state
    return JsonAnswer(
        {
            "height": state.height,
            "members": [
                _view(state.members[key], state.standings[key]) for key in sorted(state.members)
            ],
        }
    )


def _view(member: Member, standing: Standing) -> dict[str, object]:
    """`device_classes` is null of who never stated any."""
    return {
        "id": member.id.hex(),
        "name": member.name,
        "roles": member.roles,
        "operator": member.operator,
        "endpoint": member.endpoint,
        "device_classes": list(standing.device_classes) if standing.statements else None,
        "strikes": standing.strikes,
        "jailed_until": standing.jailed_until,
    }


@router.get("/peers", response_class=JsonAnswer)
async def get_peers(request: Request) -> Response:
    """The other nodes as this one sees them: reached or not, since when, and at which height."""
    node, now = get_node(request), read_monotonic()
    return JsonAnswer(
        {
            "peers": [
                {
                    "name": peer.name,
                    "key": peer.id.hex(),
                    "endpoint": peer.endpoint,
                    "reachable": peer.reachable,
                    "trouble": peer.trouble,
                    "height": node.sync.get_claim(peer),
                    "answered_seconds_ago": (
                        None if peer.answered_at is None else round(now - peer.answered_at, 1)
                    ),
                    "dropped": peer.dropped,
                }
                for peer in node.peers.all
            ]
        }
    )
