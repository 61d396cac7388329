"""Files in and out, named by the SHA-256 of their bytes."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response, StreamingResponse

from milepost_node.archive import Archive
from milepost_node.blobs import parse_digest
from milepost_node.bodies import read_body, stream_body
from milepost_node.errors import ArchiveError, InvalidRequest
from milepost_node.problem_json import JsonAnswer
from milepost_node.routes.access import get_node, run_aside

router = APIRouter(prefix="/v1/blobs")

MEDIA_TYPE: Final = "application/octet-stream"
MAX_QUESTION_BYTES: Final = 1024 * 1024
MAX_QUESTION_DIGESTS: Final = 8_192
"""The longest record has about 4,100 files."""


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """Which of these files are missing?"""

    digests: list[str]


_decoder = msgspec.json.Decoder(Question)


@router.post("/missing", response_class=JsonAnswer)
async def post_missing(request: Request) -> Response:
    """Those of the named files that this node does not have, and how much it has of them."""
    body = await read_body(request, limit_bytes=MAX_QUESTION_BYTES)
    try:
        question = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"expected {{'digests': [...]}}: {error}") from error
    if len(question.digests) > MAX_QUESTION_DIGESTS:
        raise InvalidRequest(
            f"{len(question.digests)} digests, the limit is {MAX_QUESTION_DIGESTS}",
            slug="too-large",
        )
    digests = [parse_digest(text) for text in question.digests]
    node = get_node(request)
    blobs, archive = node.blobs, node.archive
    missing = await run_aside(request, blobs.get_missing, digests)
    if archive is not None:
        missing = [digest for digest in missing if not archive.has(digest)]
    begun = {digest.hex(): size for digest, size in blobs.get_begun(missing).items()}
    return JsonAnswer({"missing": [digest.hex() for digest in missing], "begun": begun})


@router.put("/{name}", status_code=201, response_class=JsonAnswer)
async def put_blob(
    request: Request,
    name: str,
    begun: Annotated[int, Query(alias="from", ge=0, lt=2**63)] = 0,
) -> Response:
    """Store a file; it must be exactly the one that its name says.

    With `from`, the body goes on at that byte of a file whose beginning is here.
    """
    node = get_node(request)
    digest = parse_digest(name)
    limit = node.settings.limits.blob_bytes
    body = stream_body(request, limit_bytes=limit)
    await node.blobs.write(digest, body, limit_bytes=limit, begun=begun)
    return JsonAnswer({"stored": name}, status_code=201)


@router.head("/{name}", response_class=FileResponse, include_in_schema=False)
@router.get("/{name}", response_class=FileResponse)
async def get_blob(request: Request, name: str) -> Response:
    """The bytes of a file."""
    node = get_node(request)
    digest = parse_digest(name)
    path = node.blobs.get_path(digest)
    headers = {"etag": f'"{name}"', "cache-control": "public, max-age=31536000, immutable"}
    serves = node.settings.behaviour.serves_files
    try:
        if not serves:
            raise FileNotFoundError
        status = path.stat()
    except FileNotFoundError as error:
        if serves and node.archive is not None and node.archive.has(digest):
            return await _serve_archived(node.archive, digest, headers)
        raise InvalidRequest(f"file {name[:16]} is not on this node", slug="not-found") from error
    return FileResponse(path, media_type=MEDIA_TYPE, stat_result=status, headers=headers)


async def _serve_archived(
    archive: Archive, digest: bytes, headers: dict[str, str]
) -> StreamingResponse:
    """A file that left this machine; whoever asked checks it by its name, as always."""
    try:
        found = await archive.open(digest)
    except ArchiveError as error:
        raise InvalidRequest(
            f"file {digest.hex()[:16]} cannot be read from this node's archive now",
            slug="not-found",
        ) from error
    sized = {**headers, "content-length": str(found.size_bytes)}
    return StreamingResponse(found.pieces, media_type=MEDIA_TYPE, headers=sized)
