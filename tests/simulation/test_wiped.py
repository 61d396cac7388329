"""A node that lost its disk comes back, keeps quarantine, and signs again without contradiction."""

from __future__ import annotations

import pytest

from milepost_consensus import journal, keyguard, machine
from milepost_consensus.journal import Journal
from milepost_consensus.keyguard import ORIGIN, KeyGuard, Signing
from tests.simulation import simulation as simulation_module
from tests.simulation.options import Fault, Options
from tests.simulation.play import find_violation
from tests.simulation.simulation import Simulation

Patch = pytest.MonkeyPatch


def make_stalled(seed: int) -> Options:
    """No precommit comes through while a node goes down and is back at once, without its disk."""
    at_ms = 300 + seed * 7
    return Options(
        "wiped",
        seed,
        calm_ms=900,
        max_delay_ms=40,
        faults=(
            Fault("aligned", 200, 900, type=2),
            Fault("wipe", at_ms, at_ms + 1, node=seed % 4),
        ),
    )


def test_it_signs_again() -> None:
    simulation = Simulation(make_stalled(1))
    simulation.run()
    node = simulation.nodes[1]
    assert node.life == 1
    assert node.journal is not None
    assert not node.returning
    assert node.machine is not None
    assert node.machine.signing is Signing.ACTIVE


def test_it_is_not_wiped_while_somebody_is_at_genesis() -> None:
    links = tuple((a, b) for a in range(4) for b in range(4) if a != b)
    stuck = Options(
        "stuck", 1, calm_ms=600, faults=(Fault("cut", 0, 600, links=links), Fault("wipe", 50, 60)),
    )  # fmt: skip
    simulation = Simulation(stuck)
    simulation.run()
    assert simulation.nodes[0].life == 0


def test_s4_a_node_that_takes_itself_for_new(monkeypatch: Patch) -> None:
    """Without quarantine, and deaf to its own past, it proposes a second block in its turn."""

    def make_guard(
        kept: Journal | None, height: int, *, key_in_use: bool, restored_among: int
    ) -> KeyGuard:
        if kept is not None:
            return journal.make_guard(
                kept, height, key_in_use=key_in_use, restored_among=restored_among
            )
        return KeyGuard(ORIGIN, known_from=ORIGIN, key_in_use=key_in_use)

    def get_signing(self: KeyGuard, height: int) -> Signing:
        return Signing.ACTIVE if self.started else Signing.LISTENING

    monkeypatch.setattr(machine, "make_guard", make_guard)
    monkeypatch.setattr(KeyGuard, "get_signing", get_signing)
    monkeypatch.setattr(KeyGuard, "on_decided", lambda self, height, *, live: None)
    monkeypatch.setattr(KeyGuard, "on_misuse", lambda self: False)
    monkeypatch.setattr(simulation_module, "LISTEN_MS", 1)
    found = [find_violation(make_stalled(seed)) for seed in range(12)]
    assert any(
        each is not None and "S4: an honest validator signed twice" in each for each in found
    )


def test_s4_does_not_notice_without_cause(monkeypatch: Patch) -> None:
    monkeypatch.setattr(simulation_module, "LISTEN_MS", 1)
    assert [find_violation(make_stalled(seed)) for seed in range(12)] == [None] * 12


def test_l3_a_quarantine_without_end(monkeypatch: Patch) -> None:
    monkeypatch.setattr(keyguard, "LIVE_HEIGHTS", 1_000_000)
    assert "L3: node 1 does not sign" in (find_violation(make_stalled(1)) or "missed")
