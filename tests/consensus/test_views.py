"""Views: JSON data and wire objects convert into each other and nothing else gets through."""

from __future__ import annotations

import json

import pytest

from milepost_consensus.encoding import MAX_UINT
from milepost_consensus.errors import InvalidEncoding
from milepost_consensus.members import Genesis
from milepost_consensus.payloads import Submit
from milepost_consensus.submissions import Submission
from milepost_consensus.views import from_view, to_view
from milepost_consensus.votes import Vote
from tests.support.ledger import Ledger, make_genesis, make_record

VOTE = Vote(3, 0, 1, b"\xab" * 32, b"\xcd" * 32, b"\xef" * 64)


def test_objects_survive_the_way_through_json() -> None:
    ledger = Ledger(make_genesis())
    submission = ledger.start(make_record())
    for value in (VOTE, ledger.state.genesis, ledger.get(submission), make_record().submit):
        assert from_view(type(value), json.loads(json.dumps(to_view(value)))) == value


def test_bytes_are_lowercase_hex_and_structs_have_named_fields() -> None:
    view = to_view(VOTE)
    assert view["block_id"] == "ab" * 32
    assert list(view) == ["height", "round", "type", "block_id", "sender", "signature"]
    assert to_view(make_genesis())["params"]["rule"] == "witness"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", "3"),
        ("height", 3.0),
        ("height", True),
        ("height", None),
        ("height", -1),
        ("height", MAX_UINT + 1),
        ("height", 2**70),
        ("block_id", 5),
        ("block_id", "zz" * 32),
        ("block_id", "AB" * 32),
        ("block_id", "ab " * 32),
        ("block_id", "abc"),
    ],
)
def test_values_of_another_kind_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidEncoding, match=f"Vote.{field}"):
        from_view(Vote, {**to_view(VOTE), field: value})


def test_missing_unknown_and_misplaced_fields_are_refused() -> None:
    view = to_view(VOTE)
    shorter = {name: value for name, value in view.items() if name != "height"}
    variants: list[object] = [shorter, {**view, "extra": 1}, [], None, "text"]
    for bad in variants:
        with pytest.raises(InvalidEncoding):
            from_view(Vote, bad)


def test_text_that_no_wire_object_holds_is_refused() -> None:
    view = to_view(make_record().submit)
    for text in ("Köln", "\ud800"):
        with pytest.raises(InvalidEncoding, match="ASCII"):
            from_view(Submit, {**view, "name": text})


def test_errors_name_the_place_inside_nested_objects() -> None:
    view = to_view(make_genesis())
    view["members"][2]["id"] = "q"
    with pytest.raises(InvalidEncoding, match=r"Genesis\.members\[2\]\.id"):
        from_view(Genesis, view)
    ledger = Ledger(make_genesis())
    submission = ledger.get(ledger.start(make_record()))
    with pytest.raises(InvalidEncoding, match="duties: a list"):
        from_view(Submission, {**to_view(submission), "duties": {}})
