"""Who of a network could retrain a run, and when somebody should be told that these are few."""

from __future__ import annotations

from typing import Any

import pytest

from milepost.api import Client
from milepost.errors import MachineCannot
from milepost.serving import Servers, find_servers, require_servers
from milepost_consensus.views import to_view
from tests.support.fake_nodes import Reply, Request, running
from tests.support.ledger import make_genesis, make_record, make_signer

EXACT = make_record(profile="exact").submit
CLASS = make_record(profile="class").submit
SENDER = make_signer("submitter").public
GENESIS = make_genesis(4)


def find(sender: bytes = SENDER, *, of: object = CLASS, **stated: list[str]) -> Servers:
    """Ask a node of a network in which these verifiers stated this."""

    def answer(request: Request) -> Reply:
        if request.path == "/v1/genesis":
            return Reply(200, to_view(GENESIS))
        members = [
            {**to_view(each), "device_classes": stated.get(each.name.replace("-", "_"))}
            for each in GENESIS.members
        ]
        return Reply(200, {"members": members})

    with running(answer) as (node,), Client([node.url]) as client:
        return find_servers(client, of, sender=sender)  # type: ignore[arg-type]


def test_who_stated_the_class_can_and_who_stated_nothing_only_what_everybody_can() -> None:
    assert find(node_1=["test"], node_2=["exact/1"]) == Servers(("node-1",), 4, 5)
    assert find(of=EXACT, node_1=["test"]).able == ("node-0", "node-2", "node-3")


def test_the_submitters_own_operator_does_not_count() -> None:
    own = make_signer("node-1").public
    assert find(own, node_1=["test"], node_2=["test"]) == Servers(("node-2",), 3, 5)


@pytest.mark.parametrize(
    ("able", "total", "size", "few"),
    [(5, 7, 5, False), (4, 7, 5, True), (4, 4, 5, False), (3, 4, 5, True), (1, 1, 5, False)],
)
def test_few_are_fewer_than_a_sub_quorum_that_the_network_could_fill(
    able: int, total: int, size: int, few: bool
) -> None:
    names = tuple(f"n{i}" for i in range(able))
    servers = Servers(names, total, size)
    assert servers.are_few == few
    require_servers(servers, CLASS, few=True)
    if few:
        with pytest.raises(MachineCannot, match=f"{able} of {total} verifiers serve test"):
            require_servers(servers, CLASS)
    else:
        require_servers(servers, CLASS)


def test_nobody_at_all_is_never_enough() -> None:
    with pytest.raises(MachineCannot) as caught:
        require_servers(Servers((), 4, 5), CLASS, few=True)
    assert caught.value.slug == "not-served"


@pytest.mark.parametrize("odd", [{}, {"id": "00", "roles": "x"}, 3])
def test_an_answer_without_members_is_no_answer(odd: Any) -> None:
    from milepost.errors import Unreachable

    with (
        running(lambda request: Reply(200, {"members": [odd]})) as (node,),
        Client([node.url]) as client,
        pytest.raises(Unreachable),
    ):
        client.members()
