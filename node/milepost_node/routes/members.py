"""Members for whoever wants to know who may verify what: roles, operators, what each serves."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from milepost_consensus.members import Member
from milepost_consensus.standings import Standing
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
