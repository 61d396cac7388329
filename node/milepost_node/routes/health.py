"""Whether the node is alive and ready, its metrics, and the long texts of its refusals."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from milepost_consensus.problems import PROBLEMS
from milepost_node.behaviours.registry import HONEST
from milepost_node.errors import InvalidRequest
from milepost_node.problem_json import JsonAnswer
from milepost_node.routes.access import get_node

router = APIRouter()


@router.get("/health/live", response_class=JsonAnswer)
async def get_live() -> Response:
    """200 while the process answers at all."""
    return JsonAnswer({"reason": "alive"})


@router.get("/health/ready", response_class=JsonAnswer)
async def get_ready(request: Request) -> Response:
    """200 ready, 206 following but not taking part yet, 503 not able to take part.

    One that breaks the rules on purpose says so, whatever else it says; `strangers` are peers that
    are of another network, and how they differ.
    """
    node = get_node(request)
    status, reason = node.get_readiness()
    if node.settings.behaviour is not HONEST:
        reason = {**reason, "behaviour": node.settings.behaviour.name}
    strangers = {peer.name: peer.stranger for peer in node.peers.all if peer.stranger}
    if strangers:
        reason = {**reason, "strangers": strangers}
    return JsonAnswer(reason, status_code=status)


@router.get("/metrics", response_class=Response)
async def get_metrics(request: Request) -> Response:
    """Counters, gauges and histograms in the text format of Prometheus."""
    return Response(generate_latest(request.app.state.scrape), media_type=CONTENT_TYPE_LATEST)


@router.get("/problems", response_class=JsonAnswer)
async def get_problems() -> Response:
    """Every slug with its title."""
    return JsonAnswer({slug: problem.title for slug, problem in sorted(PROBLEMS.items())})


@router.get("/problems/{slug}", response_class=JsonAnswer)
async def get_problem(slug: str) -> Response:
    """What a refusal means and what to do about it."""
    problem = PROBLEMS.get(slug)
    if problem is None:
        raise InvalidRequest("there is no such problem; /problems lists all", slug="not-found")
    return JsonAnswer({"slug": slug, **problem._asdict()})
