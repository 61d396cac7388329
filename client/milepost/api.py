"""The HTTP side of the client: one object for any number of nodes.

A node that does not answer, answers 5xx or answers something that is not the protocol is left for
the next one.  A 4xx answer is an answer: it is raised as Refused with the node's own words.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from milepost.errors import Refused, Unreachable
from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import Wire
from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import Genesis
from milepost_consensus.registrations import Registration
from milepost_consensus.submissions import Submission
from milepost_consensus.verdicts import Verdict
from milepost_consensus.views import from_view

Answer = dict[str, Any]
T = TypeVar("T")

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 15.0
ADMISSION_SECONDS: Final = 900.0
"""A node reads the whole record before it takes a submission."""
CHUNK_BYTES: Final = 1 << 20
MAX_ANSWER_BYTES: Final = 64 << 20
"""Larger JSON answers are not read: the largest block with all its views stays below."""


class NodeFailed(Exception):
    """One node gave no usable answer; the next one may."""


class Client:
    """Talks to the nodes at `urls`, staying with the one that last answered.

    Not safe for use from several threads.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        read_seconds: float = READ_SECONDS,
        on_failure: Callable[[str, str], None] | None = None,
    ) -> None:
        """`on_failure(url, reason)` hears of each node that is left for the next."""
        assert urls, "a client needs at least one node"
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._on_failure = on_failure or (lambda url, reason: None)
        self._current = 0
        # Nodes are named explicitly: a proxy of the environment has no business in between.
        self._http = httpx.Client(
            timeout=httpx.Timeout(read_seconds, connect=CONNECT_SECONDS), trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Which node ----------------------------------------------------------------------------------

    def attempt(self, work: Callable[[Node], T]) -> T:
        """Run `work` against one node after the other until one carries it through.

        Raises Unreachable with every node's reason if none does, and whatever else `work` raises.
        """
        reasons: list[str] = []
        for offset in range(len(self.urls)):
            index = (self._current + offset) % len(self.urls)
            url = self.urls[index]
            try:
                result = work(Node(self._http, url))
            except NodeFailed as error:
                reasons.append(f"{url}: {error}")
                self._on_failure(url, str(error))
                continue
            self._current = index
            return result
        raise Unreachable(
            f"None of {len(self.urls)} nodes answered ({'; '.join(reasons)})."
            " Is the network running? milepost dev starts one on this machine."
        )

    @property
    def current(self) -> str:
        """The URL of the node that last answered."""
        return self.urls[self._current]

    def nodes(self) -> Iterator[Node]:
        """Every node, for questions that each must answer for itself."""
        for url in self.urls:
            yield Node(self._http, url)

    def node(self, url: str) -> Node:
        """One node by its URL."""
        return Node(self._http, url.rstrip("/"))

    # Questions any node can answer ---------------------------------------------------------------

    def status(self) -> Answer:
        return self.attempt(lambda node: node.get("/v1/status"))

    def genesis(self) -> Answer:
        """What the network started from, as its view."""
        return self.attempt(lambda node: _check(node.get("/v1/genesis"), Genesis))

    def members(self) -> list[Answer]:
        """Those who agree on the next block: id, name, roles, operator, and what each serves."""

        def ask(node: Node) -> list[Answer]:
            listed = node.get("/v1/members").get("members")
            if not isinstance(listed, list) or not all(map(_is_member, listed)):
                raise NodeFailed("/v1/members gave something else than members")
            return listed

        return self.attempt(ask)

    def block(self, height: int) -> Answer:
        """One block under `block`, its `certificate`, and its `id`."""

        def ask(node: Node) -> Answer:
            answer = node.get(f"/v1/blocks/{height}")
            _check(answer.get("block"), Block)
            _check(answer.get("certificate"), Certificate)
            return answer

        return self.attempt(ask)

    def submissions(self) -> list[Answer]:
        """The newest submissions, each with its verdict or null, newest first."""

        def ask(node: Node) -> list[Answer]:
            listed = node.get("/v1/submissions").get("submissions")
            if not isinstance(listed, list):
                raise NodeFailed("/v1/submissions gave no list")
            return [_check_submission(entry) for entry in listed]

        return self.attempt(ask)

    def submission(self, sub: str) -> Answer:
        """The submission with this id or unique hex prefix, and its verdict or null."""
        return self.attempt(lambda node: _check_submission(node.get(f"/v1/submissions/{sub}")))

    def registrations(self, sender: str, recipe: str) -> Answer:
        """How many registrations a sender `made`, and its `registrations` of one recipe."""

        def ask(node: Node) -> Answer:
            answer = node.get(f"/v1/registrations?sender={sender}&recipe={recipe}")
            listed = answer.get("registrations")
            if not isinstance(listed, list) or not isinstance(answer.get("made"), int):
                raise NodeFailed("/v1/registrations gave something else than registrations")
            for view in listed:
                _check(view, Registration)
            return answer

        return self.attempt(ask)

    def registration(self, registration_id: str) -> Answer:
        """The registration with this id."""
        path = f"/v1/registrations/{registration_id}"
        return self.attempt(lambda node: _check(node.get(path).get("registration"), Registration))

    def proof(self, sub: str) -> Answer:
        return self.attempt(lambda node: node.get(f"/v1/submissions/{sub}/proof"))


class Node:
    """One node, asked directly.  Raises NodeFailed or Refused."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http = http
        self.url = url

    def get(self, path: str) -> Answer:
        """The JSON object at `path`."""
        answer = self._request("GET", path)
        if not isinstance(answer, dict):
            raise NodeFailed(f"{path} gave no JSON object")
        return answer

    def missing(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Which blobs this node does not have yet, and how many bytes of each it has."""
        body = json.dumps({"digests": [digest.hex() for digest in digests]}).encode()
        answer = self._request("POST", "/v1/blobs/missing", content=body, kind="application/json")
        try:
            begun = {bytes.fromhex(text): int(size) for text, size in answer["begun"].items()}
            return {each: begun.get(each, 0) for each in map(bytes.fromhex, answer["missing"])}
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise NodeFailed("/v1/blobs/missing gave something else than digests") from error

    def put_blob(
        self,
        digest: bytes,
        content: Path | bytes,
        on_bytes: Callable[[int], None] = lambda count: None,
        *,
        begun: int = 0,
    ) -> None:
        """Stream a file, or some bytes, to the node; `on_bytes` hears the size of each piece.

        The first `begun` bytes are left out; Refused (part-lost, bad-digest) if the node has not,
        or not rightly, what it said to have.
        """

        def pieces() -> Iterator[bytes]:
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                file.seek(begun)
                while piece := file.read(CHUNK_BYTES):
                    yield piece
                    on_bytes(len(piece))

        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        self._request(
            "PUT",
            f"/v1/blobs/{digest.hex()}" + (f"?from={begun}" if begun else ""),
            content=pieces(),
            kind="application/octet-stream",
            length=size - begun,
        )

    def send_transaction(self, data: bytes) -> Answer:
        """Hand over a signed transaction; the node answers once it has checked it."""
        answer = self._request(
            "POST",
            "/v1/transactions",
            content=data,
            kind="application/octet-stream",
            read_seconds=ADMISSION_SECONDS,
        )
        if not isinstance(answer, dict):
            raise NodeFailed("/v1/transactions gave no JSON object")
        return answer

    def _request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterator[bytes] | None = None,
        kind: str = "",
        length: int | None = None,
        read_seconds: float | None = None,
    ) -> Any:
        headers = {"accept": "application/json"}
        if kind:
            headers["content-type"] = kind
        if length is not None:
            headers["content-length"] = str(length)
        timeout: Any = httpx.USE_CLIENT_DEFAULT
        if read_seconds is not None:
            timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        try:
            with self._http.stream(
                method, self.url + path, content=content, headers=headers, timeout=timeout
            ) as response:
                body = _read_limited(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NodeFailed(str(error) or type(error).__name__) from error
        return _parse(response.status_code, body)


def _check(view: object, kind: type[Wire]) -> Answer:
    """The view of a wire object, unless it is none: then the node is not to be worked with."""
    try:
        from_view(kind, view)
    except InvalidInput as error:
        raise NodeFailed(f"it does not speak this protocol: {error}") from error
    assert isinstance(view, dict)
    return view


def _check_submission(answer: object) -> Answer:
    if not isinstance(answer, dict) or "verdict" not in answer:
        raise NodeFailed("it does not speak this protocol: a submission has a verdict or null")
    _check(answer.get("submission"), Submission)
    if answer["verdict"] is not None:
        _check(answer["verdict"], Verdict)
    return answer


def _read_limited(response: httpx.Response) -> bytes:
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise NodeFailed(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _parse(status: int, body: bytes) -> Any:
    try:
        answer = json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        if status >= 500:
            raise NodeFailed(f"HTTP {status}") from error
        raise NodeFailed(f"HTTP {status} without JSON") from error
    if status < 400:
        return answer
    problem = answer if isinstance(answer, dict) else {}
    detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    if status >= 500:
        raise NodeFailed(detail)
    slug = str(problem.get("type", "")).rpartition("/")[2] or "refused"
    raise Refused(detail, slug=slug, status=status)


def _is_member(view: Any) -> bool:
    """Whether an entry of /v1/members has what is asked of it."""
    if not isinstance(view, dict) or not isinstance(view.get("device_classes", 0), list | None):
        return False
    texts = (view.get("id"), view.get("name"), view.get("operator"))
    return all(isinstance(text, str) for text in texts) and isinstance(view.get("roles"), int)
