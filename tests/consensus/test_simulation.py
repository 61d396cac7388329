"""Hundreds of schedules with faults, and the laws that hold in all of them.

A failure names plan and seed; `Simulation(PLANS[plan], seed).run()` replays it exactly.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest

from milepost_consensus.crypto import verify_signature
from milepost_consensus.events import PersistDecision
from milepost_consensus.votes import PRECOMMIT, PREVOTE
from tests.support.monitor import Monitor, Violation
from tests.support.simulator import Plan, Simulation
from tests.support.validators import Validators

PLANS = {
    plan.name: plan
    for plan in (
        Plan("uniform", cut_ms=400, crash_ms=300),
        Plan("twin", cut_ms=400, crash_ms=400, twin=True),
        Plan(
            "aligned",
            drop_permille=0,
            aligned_permille=250,
            precommit_crash_permille=150,
            twin=True,
        ),
        Plan("liar", liar_ms=20, cut_ms=500, twin=True),
        Plan("blackout", cut_ms=400, blackout_ms=500, liar_ms=60),
        Plan(
            "silent",
            silent=True,
            drop_permille=300,
            aligned_permille=250,
            blackout_ms=900,
            precommit_crash_permille=50,
        ),
        Plan("left out", silent=True, left_out=True, calm_ms=3_000, blackout_ms=800),
        Plan("wiped", cut_ms=300, wipe_ms=300, crash_ms=800),
        Plan("seven", count=7, calm_ms=1_000, cut_ms=400, crash_ms=200, twin=True, liar_ms=60),
    )
}


@pytest.fixture(autouse=True)
def _remember_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node checks the same signatures; remembering good ones saves a third of the time."""
    remembered = lru_cache(maxsize=None)(verify_signature)
    monkeypatch.setattr("milepost_consensus.votes.verify_signature", remembered)


@pytest.mark.parametrize("name", PLANS)
def test_some_schedules(name: str) -> None:
    for seed in range(2):
        Simulation(PLANS[name], seed).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("uniform", 60),
        ("twin", 50),
        ("aligned", 50),
        ("liar", 40),
        ("blackout", 40),
        ("silent", 80),
        ("left out", 40),
        ("wiped", 40),
        ("seven", 10),
    ],
)
def test_many_schedules(name: str, count: int) -> None:
    for seed in range(1_000, 1_000 + count):
        Simulation(PLANS[name], seed).run()


def test_a_seed_replays_exactly() -> None:
    first, second, other = (Simulation(PLANS["twin"], seed) for seed in (7, 7, 8))
    for simulation in (first, second, other):
        simulation.run()
    assert first.trace.hexdigest() == second.trace.hexdigest() != other.trace.hexdigest()


def test_a_node_may_go_down_at_any_effect() -> None:
    """Before and after every persist, send and timer of a run without other faults."""
    plan = Plan("fuse", calm_ms=60, max_delay_ms=1, drop_permille=0, duplicate_permille=0)
    fuse = 0
    while True:
        simulation = Simulation(dataclasses.replace(plan, fuse=fuse), 1)
        simulation.run()
        if simulation.nodes[1].life == 0:
            break
        fuse += 1
    assert fuse > 20


# The monitor itself must be able to fail. ---------------------------------------------------------


@pytest.mark.slow
def test_more_than_f_liars_are_found_out() -> None:
    """Two twins of four: agreement breaks in some schedule, and the failure names the seed."""

    class TwoTwins(Simulation):
        def __init__(self, plan: Plan, seed: int) -> None:
            super().__init__(plan, seed)
            self.nodes[0].honest = self.nodes[1].honest = False
            self.nodes[4].identity = 0
            second = Simulation(plan, seed).nodes[4]
            second.name, second.identity = 5, 1
            self.nodes.append(second)
            self.skews.append(0)
            self.monitor = Monitor(
                self.validators, [signer.public for signer in self.validators.signers[2:]]
            )

    def play_many() -> None:
        for seed in range(100):
            TwoTwins(Plan("two twins", cut_ms=200, twin=True), seed).run()

    with pytest.raises(Violation, match=r"plan two twins, seed \d+, at \d+ ms: two blocks"):
        play_many()


def test_the_monitor_sees_each_broken_law() -> None:
    four = Validators(4)
    (block, after), (other, _) = four.make_block(), four.make_block(later_ms=1)
    block_id, other_id = four.get_id(block), four.get_id(other)

    def watch() -> Monitor:
        monitor = Monitor(four, [signer.public for signer in four.signers])
        monitor._persisted = AnySignature()
        return monitor

    monitor = watch()
    monitor.on_broadcast(0, four.make_vote(0, PREVOTE, block_id))
    monitor.on_broadcast(0, four.make_vote(0, PREVOTE, block_id))
    with pytest.raises(Violation, match="signed twice"):
        monitor.on_broadcast(0, four.make_vote(0, PREVOTE, other_id))

    monitor = watch()
    monitor.on_broadcast(0, four.make_vote(0, PRECOMMIT, block_id))
    for vote in four.make_votes((1, 2, 3), PREVOTE, other_id, round_=1):
        monitor.on_broadcast(1, vote)
    monitor.on_broadcast(0, four.make_vote(0, PREVOTE, other_id, round_=2))
    with pytest.raises(Violation, match="lock"):
        monitor.on_broadcast(0, four.make_vote(0, PREVOTE, b"\1" * 32, round_=3))

    with pytest.raises(Violation, match="no journal"):
        Monitor(four, [four.signers[0].public]).on_broadcast(
            0, four.make_vote(0, PREVOTE, other_id)
        )

    monitor = watch()
    certificates = [four.make_certificate(b, (0, 1, 2)) for b in (block, other)]
    monitor.on_decision(PersistDecision(block, certificates[0], after))
    with pytest.raises(Violation, match="two blocks"):
        monitor.on_decision(PersistDecision(other, certificates[1], after))


class AnySignature(set[bytes]):
    """As if every message had been journalled."""

    def __contains__(self, signature: object) -> bool:
        return True
