"""The two kinds of malice, exactly as the paper words them."""

from __future__ import annotations

import pytest

from milepost_node.behaviours import BEHAVIOURS, compute_false_digest

LEAF, OTHER = b"\x01" * 32, b"\x02" * 32


@pytest.mark.parametrize(
    ("name", "of_valid", "of_invalid"),
    [("", True, False), ("ordered", True, True), ("chaotic", False, True)],
)
def test_claims(name: str, of_valid: bool, of_invalid: bool) -> None:
    behaviour = BEHAVIOURS[name]
    assert behaviour.claims_agreement(True) is of_valid
    assert behaviour.claims_agreement(False) is of_invalid


@pytest.mark.parametrize(
    ("name", "of_true_step", "of_false_step"),
    [
        ("", LEAF, OTHER),
        ("ordered", LEAF, LEAF),
        ("chaotic", compute_false_digest(LEAF), LEAF),
    ],
)
def test_panel_answers(name: str, of_true_step: bytes, of_false_step: bytes) -> None:
    behaviour = BEHAVIOURS[name]
    assert behaviour.get_panel_answer(committed=LEAF, recomputed=LEAF) == of_true_step
    assert behaviour.get_panel_answer(committed=LEAF, recomputed=OTHER) == of_false_step


def test_liars_agree_with_each_other_and_with_nobody_else() -> None:
    assert compute_false_digest(LEAF) == compute_false_digest(LEAF)
    assert compute_false_digest(LEAF) not in (LEAF, compute_false_digest(OTHER))
