"""Failover: which answers make the client go on with the next node, and which are answers."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from milepost import api
from milepost.errors import Refused, Unreachable
from tests.support.fake_nodes import FakeNode, Reply, Request, always, running

NOTHING: dict[str, object] = {"missing": [], "begun": {}}
GOOD = {"node": "good", "height": 7}


@contextmanager
def asking(
    *answers: Callable[[Request], Reply], before: Sequence[str] = (), read_seconds: float = 5.0
) -> Iterator[tuple[api.Client, list[FakeNode], list[str]]]:
    """A client of fake nodes, after the URLs in `before`, and what it was told of failures."""
    heard: list[str] = []
    with running(*answers) as nodes:
        client = api.Client(
            [*before, *(node.url for node in nodes)],
            read_seconds=read_seconds,
            on_failure=lambda url, reason: heard.append(url),
        )
        with client:
            yield client, nodes, heard


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL at which nothing listens, for as long as the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize(
    "bad",
    [
        always(500, {"detail": "broken"}),
        always(503, {"type": "/problems/busy", "detail": "busy"}),
        always(502, b"<html>bad gateway</html>"),
        always(200, b"not json"),
        always(200, [1, 2]),
        always(404, b"nginx"),
        always(close=True),
        always(200, b"[" * 100_000),
    ],
    ids=["500", "503", "502-html", "no-json", "no-object", "404-no-json", "closed", "deep"],
)
def test_a_node_without_a_usable_answer_is_left_for_the_next(
    bad: Callable[[Request], Reply],
) -> None:
    with asking(bad, always(200, GOOD)) as (client, (first, second), heard):
        assert client.status() == GOOD
        assert (heard, client.current) == ([first.url], second.url)
        before = len(first.requests)
        assert client.status() == GOOD
        assert len(first.requests) == before, "the client stays with the node that answered"


def test_a_refused_connection_is_left_for_the_next(nobody: str) -> None:
    with asking(always(200, GOOD), before=[nobody]) as (client, _, heard):
        assert client.status() == GOOD
        assert heard == [nobody]


def test_a_silent_node_is_left_after_the_read_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with asking(always(200, GOOD), before=[url], read_seconds=0.2) as (client, _, heard):
            assert client.status() == GOOD
            assert heard == [url]


def test_when_all_fail_each_reason_is_told(nobody: str) -> None:
    broken = always(500, {"detail": "disk full"})
    with asking(broken, before=[nobody]) as (client, (node,), _):
        with pytest.raises(Unreachable) as caught:
            client.status()
        assert nobody in str(caught.value)
        assert f"{node.url}: disk full" in str(caught.value)


def test_a_refusal_is_an_answer_with_its_slug() -> None:
    problem = {"type": "/problems/duplicate", "title": "Twice", "detail": "already in block 9"}
    with asking(always(409, problem), always(200, GOOD)) as (client, (_, second), _):
        with pytest.raises(Refused) as caught:
            client.submission("sub_123456")
        assert not second.requests
        assert (caught.value.slug, caught.value.status) == ("duplicate", 409)
        assert str(caught.value) == "already in block 9"


def test_a_refusal_without_a_problem_still_has_a_slug() -> None:
    with asking(always(403, {})) as (client, _, _):
        with pytest.raises(Refused) as caught:
            client.status()
        assert (caught.value.slug, str(caught.value)) == ("refused", "HTTP 403")


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 1000)
    long = always(200, {"node": "x" * 2000})
    with asking(long, always(200, GOOD)) as (client, (first, _), heard):
        assert client.status() == GOOD
        assert heard == [first.url]


def test_work_on_one_node_starts_again_on_the_next() -> None:
    calls: list[str] = []

    def answer(request: Request) -> Reply:
        return (
            Reply(200, {"missing": [], "begun": {}}) if request.method == "POST" else Reply(500, {})
        )

    def work(node: api.Node) -> int:
        calls.append(node.url)
        assert node.missing([bytes(32)]) == {}
        return int(node.get("/v1/status")["height"])

    with asking(answer, always(200, {**GOOD, **NOTHING})) as (
        client,
        (first, second),
        _,
    ):
        assert client.attempt(work) == 7
        assert calls == [first.url, second.url]


def test_blobs_are_streamed_with_their_length(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    path = tmp_path / "blob"
    path.write_bytes(content)
    digest = hashlib.sha256(content).digest()
    sent: list[int] = []
    with asking(always(200, {})) as (client, (fake,), _):
        node = client.node(fake.url)
        node.put_blob(digest, path, sent.append)
        node.put_blob(digest, content)
        node.put_blob(digest, b"")
    assert [r.method for r in fake.requests] == ["PUT"] * 3
    assert fake.requests[0].path == f"/v1/blobs/{digest.hex()}"
    assert [r.body for r in fake.requests] == [content, content, b""]
    assert sum(sent) == len(content)
    assert len(sent) == 3


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"missing": [], "begun": 7},
        {"missing": [], "begun": {"zz": 1}},
        {"missing": [], "begun": {"00": None}},
        *({"missing": missing, "begun": {}} for missing in (7, ["zz"], [None])),
    ],
)
def test_nonsense_about_missing_blobs_is_a_failure_of_the_node(answer: object) -> None:
    with asking(always(200, answer)) as (client, (fake,), _), pytest.raises(api.NodeFailed):
        client.node(fake.url).missing([bytes(32)])


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with asking(always(200, GOOD)) as (client, _, _):
        assert client.status() == GOOD
