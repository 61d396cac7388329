"""The constants of a network: defaults are sound, every constant has limits."""

from __future__ import annotations

import pytest
from msgspec.structs import fields, replace

from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import Params, validate_params


def test_the_defaults_are_sound() -> None:
    validate_params(Params())


@pytest.mark.parametrize("name", [f.name for f in fields(Params) if isinstance(f.default, int)])
def test_every_number_has_an_upper_and_a_lower_limit(name: str) -> None:
    for value in (-1, 2**62):
        with pytest.raises(InvalidInput, match=name):
            validate_params(replace(Params(), **{name: value}))


@pytest.mark.parametrize(
    "name",
    ["sub_quorum_size", "hold_window", "attest_window", "witness_window", "panel_window"],
)
def test_windows_and_sub_quorums_cannot_be_empty(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        validate_params(replace(Params(), **{name: 0}))


@pytest.mark.parametrize("name", ["rule", "flag_rule", "seed_source"])
def test_unknown_rules_are_refused_with_the_choices(name: str) -> None:
    with pytest.raises(InvalidInput, match="must be one of") as caught:
        validate_params(replace(Params(), **{name: "coin"}))
    assert caught.value.slug == "bad-config"


def test_the_baseline_of_the_paper_is_a_valid_choice() -> None:
    validate_params(Params(rule="majority", flag_rule="upper", quorum_size=50))
