"""Schedules of all generators, and that a seed is all that decides what happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from tests.simulation.behaviours import BEHAVIOURS
from tests.simulation.draws import HABITS
from tests.simulation.generators import GENERATORS, generate
from tests.simulation.monitor import Violation
from tests.simulation.options import Fault, Options, dump, load, load_plan
from tests.simulation.play import find_violation, play
from tests.simulation.scripts import SCRIPTS
from tests.simulation.simulation import Simulation

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.json"))


@pytest.mark.parametrize("generator", ["uniform", "aligned", "verification", "membership"])
def test_a_dozen_schedules(generator: str) -> None:
    for seed in range(12):
        play(generate(generator, seed))


def test_two_schedules_without_progress_until_calm() -> None:
    for seed in range(2):
        play(generate("liveness", seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generator", "count"),
    [
        ("uniform", 300),
        ("aligned", 300),
        ("liveness", 40),
        ("verification", 100),
        ("membership", 100),
    ],
)
def test_many_schedules(generator: str, count: int) -> None:
    for seed in range(1_000, 1_000 + count):
        found = find_violation(generate(generator, seed))
        assert found is None, f"{generator}, seed {seed}: {found}"


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_failed_once_holds_now(path: Path) -> None:
    play(load(path))


def test_there_are_regressions_to_replay() -> None:
    assert REGRESSIONS


@pytest.mark.parametrize("generator", list(GENERATORS))
def test_options_survive_a_file(generator: str) -> None:
    options = generate(generator, 3)
    assert load_plan(dump(options)) == options
    with pytest.raises(msgspec.DecodeError):
        load_plan(dump(options)[:-10])


def test_a_seed_replays_exactly() -> None:
    first, second, other = (play(generate("uniform", seed)) for seed in (7, 7, 8))
    assert first == second
    assert first.digest != other.digest


def test_the_kind_of_signature_changes_nothing_but_the_signatures() -> None:
    plain = generate("aligned", 4)
    real = play(replace(plain, real_signatures=True))
    assert real.heights > 0
    assert real.digest != play(plain).digest


@pytest.mark.slow
def test_hash_seeds_do_not_matter() -> None:
    """Nothing iterates a set of bytes: the same trace under three hash seeds."""
    code = (
        "from tests.simulation.generators import GENERATORS, generate\n"
        "from tests.simulation.play import play\n"
        "for name in GENERATORS:\n"
        "    print(name, [play(generate(name, seed)).digest for seed in (1, 2)])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for seed in ("0", "1", "42")
    }
    assert len(outputs) == 1
    (output,) = outputs
    assert output.count("[") == len(GENERATORS)


@pytest.mark.slow
def test_a_node_may_go_down_at_any_effect() -> None:
    """Before and after every persist, send and timer of a run without other faults."""
    options = Options("fuse", 1, calm_ms=400, max_delay_ms=1)
    number = 0
    while True:
        fault = Fault("crash", 0, 60, node=1, value=number)
        simulation = Simulation(replace(options, faults=(fault,)))
        simulation.run()
        if simulation.nodes[1].life == 0:
            break
        number += 1
    assert number > 40


@pytest.mark.slow
def test_a_slow_disk_may_lose_any_write() -> None:
    """The same with writes that take longer than the node lives: each survives or does not."""
    for number in range(1, 30):
        faults = (
            Fault("disk", 0, 900, node=1, value=15),
            Fault("crash", 20 * number, 20 * number + 60, node=1),
        )
        play(Options("disk", number, calm_ms=900, max_delay_ms=5, faults=faults))


def test_every_kind_of_fault_happens_somewhere() -> None:
    kinds, lies = set(), set()
    for generator in ("uniform", "aligned", "liveness"):
        for seed in range(120):
            for fault in generate(generator, seed).faults:
                kinds.add(fault.kind)
                lies.add(fault.what)
    assert kinds == {
        "aligned", "blackout", "crash", "cut", "disk", "lie", "pause", "precommit", "slow", "wipe",
    }  # fmt: skip
    assert lies >= {"vote", "polc", "malformed", "future", "huge", "spam"}


def test_every_habit_behaviour_and_change_happens_somewhere() -> None:
    names = ("verification", "membership")
    drawn = [generate(name, seed) for name in names for seed in range(120)]
    assert {kind for each in drawn for kind in each.verifiers} == set(BEHAVIOURS)
    assert {change.kind for each in drawn for change in each.changes} == {"join", "leave", "move"}
    assert {habit for each in drawn for habit in each.habits} == {*HABITS, "usurp"}
    assert any(each.late for each in drawn)
    assert any(each.careless for each in drawn)
    assert any(run.served and run.until_held for each in drawn for run in each.runs)


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault is called flood"):
        play(Options("bad", 1, faults=(Fault("flood", 0, 10),)))
    with pytest.raises(ValueError, match="no generator is called chance"):
        generate("chance", 1)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("real", [False, True], ids=["keyed-hash", "ed25519"])
def test_scripts(name: str, *, real: bool) -> None:
    play(Options("directed", 0, SCRIPTS[name].size, script=name, real_signatures=real))


def test_the_first_violation_names_time_and_law() -> None:
    stuck = Options("stuck", 1, liars=(0, 1), silent=True, calm_ms=100)
    with pytest.raises(Violation, match=r"at \d+ ms: L1: .* the heights are"):
        play(stuck)
