"""Registration and parents in words, and what they leave open."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from milepost.errors import Refused
from milepost.lineage import (
    describe_gaps,
    describe_origin,
    fetch_origin,
    is_registered_throughout,
    view_origin,
)
from milepost_consensus.views import to_view
from tests.consensus.test_origin import SUBMITTER, make_line, make_proof

NAMES = {SUBMITTER.hex(): "acme"}


def make_view(generation: int) -> dict[str, Any]:
    bundle, _ = make_proof(generation)
    return view_origin(bundle.origin, bundle.verdict)


def test_a_registered_child_names_its_registration_and_its_line() -> None:
    ledger, line = make_line()
    verdicts = ledger.state.verdicts
    view = make_view(2)
    registration = next(
        item for item in ledger.state.registrations.values() if item.submission == line[2]
    )
    assert describe_origin(view, NAMES) == [
        f"registration 2 of this submitter, at height {registration.height}"
        f" ({registration.id.hex()[:8]})",
        f"parent sub_{line[1].hex()[:8]} of acme: VALID, assurance FULL+REGISTERED, block"
        f" {verdicts[line[1]].height}",
        f"grandparent sub_{line[0].hex()[:8]} of acme: VALID, assurance FULL, block"
        f" {verdicts[line[0]].height}",
    ]
    assert not is_registered_throughout(view)


def test_registrations_made_since_are_counted() -> None:
    view = make_view(1)
    view["registration"]["made"] = 40
    assert describe_origin(view, {})[0].endswith("; 40 were made before the run was submitted")
    assert "had made 40 registrations" in describe_gaps(view)[0]


def test_what_stays_open() -> None:
    first, second, third = (describe_gaps(make_view(generation)) for generation in range(3))
    assert len(first) == 1
    assert "Whether initial weights and the order of the data were chosen" in first[0]
    # One registration is no choice; its unregistered parent is one.
    assert len(second) == 1
    assert "not all of them are VALID with assurance FULL+REGISTERED" in second[0]
    assert "had made 2 registrations" in third[0]
    assert "not all of them" in third[1]


def test_an_unregistered_child_chose_no_weights_but_its_order() -> None:
    view = make_view(2) | {"registration": None}
    assert "Whether the order of the data were chosen" not in describe_gaps(view)[0]
    assert "the order of the data was chosen" in describe_gaps(view)[0]


class Node:
    """The ledger of the line, as a client asks for it."""

    def __init__(self, *, forgets: bytes = b"") -> None:
        self.state = make_line()[0].state
        self.forgets = forgets.hex()

    def registration(self, name: str) -> dict[str, Any]:
        return dict(to_view(self.state.registrations[bytes.fromhex(name)]))

    def submission(self, name: str) -> dict[str, Any]:
        if name == self.forgets:
            raise Refused("gone", slug="unknown-submission", status=404)
        found = self.state.submissions[bytes.fromhex(name)]
        return {
            "submission": to_view(found),
            "verdict": to_view(self.state.verdicts[found.id]),
        }


@pytest.mark.parametrize("generation", range(3))
def test_a_node_and_a_proof_give_the_same_view(generation: int) -> None:
    node = Node()
    answer = node.submission(make_line()[1][generation].hex())
    assert fetch_origin(node, answer) == make_view(generation)  # type: ignore[arg-type]


def test_a_line_that_a_node_does_not_know_to_its_end_is_open() -> None:
    line = make_line()[1]
    node = Node(forgets=line[0])
    view = fetch_origin(node, node.submission(line[2].hex()))  # type: ignore[arg-type]
    assert len(view["lineage"]) == 1
    assert view["more"]
    assert not is_registered_throughout(view)
    assert describe_origin(view, {})[-1].startswith("and older ones")


def test_a_parent_that_was_compared_within_a_tolerance_is_less_assured() -> None:
    bundle, _ = make_proof(2)
    parent = bundle.origin.ancestors[0]
    bounded = replace(parent, verdict=replace(parent.verdict, tolerance_ppb=100_000))
    origin = replace(bundle.origin, ancestors=(bounded,))
    last = replace(parent, verdict=replace(parent.verdict, parent=b""))
    exact = view_origin(replace(bundle.origin, ancestors=(last,)), bundle.verdict)
    view = view_origin(origin, bundle.verdict)
    assert "assurance FULL+REGISTERED T(1e-4)" in describe_origin(view, NAMES)[1]
    view["more"] = False
    assert is_registered_throughout(exact)
    assert not is_registered_throughout(view)
