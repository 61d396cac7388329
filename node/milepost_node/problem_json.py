"""Every refusal as `application/problem+json` (RFC 9457), whatever raised it.

`type` is a path on this node, readable without any other network; `instance` is the number under
which the log has the request.  Nothing here names a path of this machine or repeats a request.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from milepost_consensus.errors import InvalidInput
from milepost_consensus.problems import PROBLEMS
from milepost_ml.errors import MilepostMLError
from milepost_node.errors import NodeError

logger = logging.getLogger(__name__)

STATUS: Final = {
    "already-said": 409,
    "ambiguous": 409,
    "bad-request": 400,
    "busy": 503,
    "closed": 409,
    "duplicate": 409,
    "internal-error": 500,
    "mempool-full": 503,
    "method-not-allowed": 405,
    "missing-blobs": 409,
    "not-a-member": 403,
    "not-decided": 404,
    "not-found": 404,
    "store-full": 507,
    "too-large": 413,
    "too-slow": 408,
    "not-on-panel": 409,
    "not-served": 409,
    "part-lost": 409,
    "registration-used": 409,
    "unknown-registration": 404,
    "unknown-submission": 404,
    "wrong-attempt": 409,
    "wrong-network": 409,
    "wrong-protocol": 409,
}
"""HTTP status by slug; input that breaks any other rule is 422."""
_HTTP_SLUGS: Final = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
MAX_DETAIL: Final = 2_000


class JsonAnswer(Response):
    """JSON written by msgspec, which is several times faster than the standard library."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


def make_problem(slug: str, detail: str, *, status: int | None = None, **more: object) -> Response:
    """The answer for one refusal; `more` are further members, such as `missing`."""
    problem = PROBLEMS.get(slug)
    code = status or STATUS.get(slug, 422)
    instance = secrets.token_hex(8)
    logger.info("refused", extra={"slug": slug, "status": code, "request": instance})
    body = {
        "type": f"/problems/{slug}",
        "title": problem.title if problem else "Request refused",
        "status": code,
        # Half of a surrogate pair cannot be written as JSON, and a refusal must never fail.
        "detail": detail[:MAX_DETAIL].encode("utf-8", "replace").decode(),
        "instance": f"/requests/{instance}",
        **more,
    }
    return JsonAnswer(body, status_code=code, media_type="application/problem+json")


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput | MilepostMLError)
    return make_problem(error.slug, str(error), **getattr(error, "members", {}))


async def _on_node_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NodeError)
    logger.error("request failed", extra={"slug": error.slug, "reason": str(error)})
    return make_problem(error.slug, str(error), status=503)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    pointers = [
        {
            "pointer": "/" + "/".join(str(part) for part in item["loc"]),
            "detail": str(item["msg"]),
        }
        for item in error.errors()[:20]
    ]
    first = pointers[0] if pointers else {"pointer": "/", "detail": "malformed"}
    return make_problem(
        "bad-request", f"{first['pointer']}: {first['detail']}", status=422, errors=pointers
    )


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = _HTTP_SLUGS.get(error.status_code, "bad-request")
    return make_problem(slug, str(error.detail), status=error.status_code)


async def _on_bug(request: Request, error: Exception) -> Response:
    # The server logs the traceback itself; the caller learns nothing of it.
    return make_problem("internal-error", "This node made a mistake. Its log says more.")


def install_handlers(app: FastAPI) -> None:
    """Make every error of an application a problem."""
    app.add_exception_handler(InvalidInput, _on_invalid)
    app.add_exception_handler(MilepostMLError, _on_invalid)
    app.add_exception_handler(NodeError, _on_node_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
