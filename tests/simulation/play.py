"""Plays one schedule, whatever kind it is."""

from __future__ import annotations

from tests.simulation.monitor import Violation
from tests.simulation.options import Options
from tests.simulation.scripts import play_script
from tests.simulation.simulation import Simulation
from tests.simulation.world import Report


def play(options: Options) -> Report:
    """Play a schedule; raises Violation where a law is broken."""
    if options.script:
        return play_script(options)
    return Simulation(options).run()


def find_violation(options: Options) -> str | None:
    """What a schedule breaks, if anything."""
    try:
        play(options)
    except Violation as violation:
        return str(violation)
    return None
