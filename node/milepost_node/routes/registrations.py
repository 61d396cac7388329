"""Registrations for those who wait for a seed, and for whoever wants to see how many there are."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from milepost_consensus.state import LedgerState
from milepost_consensus.views import to_view
from milepost_node.errors import InvalidRequest
from milepost_node.problem_json import JsonAnswer
from milepost_node.routes.access import get_node, run_aside

router = APIRouter(prefix="/v1")

MAX_LISTED: Final = 100

Digest = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")]


@router.get("/registrations", response_class=JsonAnswer)
async def get_registrations(
    request: Request, sender: Digest = None, recipe: Digest = None
) -> Response:
    """The newest registrations, newest first: all, or those of one sender or recipe.

    `made` is how many the sender made in all.
    """
    state = get_node(request).runtime.state
    # Registrations are never deleted, so there may be many.
    return JsonAnswer(await run_aside(request, _list, state, sender, recipe))


@router.get("/registrations/{name}", response_class=JsonAnswer)
async def get_registration(request: Request, name: str) -> Response:
    """One registration by its id, with the seed once the network has given it."""
    state = get_node(request).runtime.state
    try:
        found = state.registrations.get(bytes.fromhex(name))
    except ValueError as error:
        raise InvalidRequest("a registration is named by the 64 hex digits of its id") from error
    if found is None:
        raise InvalidRequest(
            f"no registration {name[:16]} is on the chain at height {state.height}",
            slug="unknown-registration",
        )
    return JsonAnswer({"registration": to_view(found)})


def _list(state: LedgerState, sender: str | None, recipe: str | None) -> dict[str, object]:
    found = [
        item
        for item in state.registrations.values()
        if sender in (None, item.sender.hex()) and recipe in (None, item.register.recipe.hex())
    ]
    found.sort(key=lambda item: (-item.height, -item.register.attempt, item.id))
    standing = state.standings.get(bytes.fromhex(sender)) if sender is not None else None
    return {
        "made": standing.registrations if standing is not None else 0,
        "registrations": [to_view(item) for item in found[:MAX_LISTED]],
    }
