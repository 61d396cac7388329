"""Onions that run out and proposers that grind: S8 holds, and whatever breaks it shows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from milepost_consensus import draft, governance, standings
from milepost_consensus.blocks import Block
from milepost_consensus.draft import Draft
from milepost_consensus.payloads import OnionRefresh
from milepost_consensus.rules import build_block
from milepost_consensus.standings import Standing, turn_over
from milepost_consensus.state import LedgerState
from milepost_consensus.submissions import Submission
from tests.simulation import grinding
from tests.simulation.beacon_laws import BeaconLaws
from tests.simulation.generators import generate
from tests.simulation.monitor import Violation
from tests.simulation.options import Options, Run, load
from tests.simulation.play import find_violation
from tests.simulation.simulation import Simulation
from tests.support.validators import Validators

Patch = pytest.MonkeyPatch
FOUR = Validators(4)
OTHER = b"\1" * 32
SHORT = Options(
    "short", 1, onions=(2, 3, 2, 1), verifiers=("honest",) * 4, runs=(Run("made", 300),),
    calm_ms=600, heights=12,
)  # fmt: skip
GRINDING = replace(SHORT, onions=(), liars=(0,), habits=("grind",), heights=30)


def test_short_onions_turn_over_and_the_next_ones_are_peeled() -> None:
    simulation = Simulation(SHORT)
    simulation.run()
    assert simulation.laws.beacon.turnovers > 4
    state = simulation.honest[0].state
    assert all(state.standings[member.id].generation > 0 for member in state.validators)


def test_one_that_promises_no_other_onion_goes_on_without() -> None:
    simulation = Simulation(replace(SHORT, careless=(0,), heights=20))
    simulation.run()
    state = simulation.honest[0].state
    careless = state.standings[simulation.validators.signers[0].public]
    assert (careless.onion_left, careless.generation) == (0, 0)
    blocks = [block.header for block, _, _ in simulation.honest[0].chain]
    assert any(not each.reveal and each.proposer == careless.id for each in blocks)


def test_without_any_onion_there_is_no_seed_and_an_end_all_the_same() -> None:
    simulation = Simulation(replace(SHORT, careless=(0, 1, 2, 3), runs=(Run("late", 1_500),)))
    simulation.run()
    (verdict,) = simulation.honest[0].state.verdicts.values()
    assert verdict.outcome == "UNDECIDED"
    assert "beacon" in verdict.reason


def test_a_grinding_proposer_withholds_now_and_then_and_chooses_nothing_else() -> None:
    simulation = Simulation(GRINDING)
    simulation.run()
    blocks = [block.header for block, _, _ in simulation.honest[0].chain]
    liar = simulation.validators.signers[0].public
    assert any(each.proposer == liar and each.reveal for each in blocks)
    withheld = [each for each in blocks if each.round and not each.reveal]
    assert withheld


# The laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"reveal": OTHER}, "reveals what nobody promised"),
        ({"reveal": b""}, "reveals nothing or more"),
        ({"round": 1}, "reveals nothing or more"),
        ({"mix": OTHER}, "is somebody's choice"),
    ],
)
def test_s8_a_block_that_chooses(changes: dict[str, Any], what: str) -> None:
    block, after = FOUR.make_block()
    BeaconLaws(FOUR.state).on_block(FOUR.state, block, after)
    changed = Block(replace(block.header, **changes), ())
    with pytest.raises(Violation, match=f"S8: .*{what}"):
        BeaconLaws(FOUR.state).on_block(FOUR.state, changed, after)


def test_s8_a_seed_before_enough_have_revealed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(draft, "is_mixed", lambda since, all_, limit: _IS_MIXED(since, all_, 0))
    assert "S8: the seed of a submission" in (find_violation(SHORT) or "missed")


def test_s8_a_seed_that_the_choice_of_transactions_moves(monkeypatch: Patch) -> None:
    def give_seed(self: Draft, submission: Submission, mix: bytes) -> Submission:
        return _GIVE_SEED(self, submission, mix + bytes([len(self._submissions)]))

    monkeypatch.setattr(Draft, "_give_seed", give_seed)
    assert "S8: the seed of a submission" in (find_violation(SHORT) or "missed")


def test_s8_a_mix_that_the_time_of_a_block_moves(monkeypatch: Patch) -> None:
    def build(*arguments: Any, **fields: Any) -> tuple[Block, LedgerState]:
        block, after = build_block(*arguments, **fields)
        mix = hashlib.sha256(b"%d" % block.header.time_ms).digest()
        return Block(replace(block.header, mix=mix), block.txs), after

    monkeypatch.setattr(grinding, "build_block", build)
    assert "S8: the proposer of block" in (find_violation(GRINDING) or "missed")


def test_s8_an_onion_that_never_turns_over(monkeypatch: Patch) -> None:
    def stay(standing: Standing) -> Standing:
        return standing

    for module in (standings, governance):
        monkeypatch.setattr(module, "turn_over", stay)
    assert " S8: " in (find_violation(SHORT) or "missed")


def test_an_old_promise_said_again(monkeypatch: Patch) -> None:
    """What the simulator found: the head of a used onion, which everybody knows, once more."""

    def apply(refresh: OnionRefresh, standing: Standing, *, height: int) -> Standing:
        if standing.next_left:
            return _APPLY_REFRESH(refresh, standing, height=height)
        promised = {"next_onion": refresh.onion, "next_left": refresh.onion_left}
        return turn_over(replace(standing, **promised, next_promised=height))

    again = load(Path(__file__).parent / "regressions" / "onion-promised-again.json")
    assert find_violation(again) is None
    monkeypatch.setattr(draft, "apply_refresh", apply)
    assert "S3: a transaction is in the chain twice" in (find_violation(again) or "missed")


@pytest.mark.slow
def test_grinders_and_short_onions_are_common() -> None:
    drawn = [generate("verification", seed) for seed in range(200)]
    assert sum("grind" in each.habits for each in drawn) > 5
    assert sum(bool(each.onions) for each in drawn) > 40


_IS_MIXED = standings.is_mixed
_GIVE_SEED = Draft._give_seed
_APPLY_REFRESH = governance.apply_refresh
