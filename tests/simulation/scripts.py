"""Directed schedules: one for each guard of Algorithm 1 that chance hardly ever reaches.

Every script leads four validators to the one place where a guard decides, expects what the law on
top of machine.py says, and then lets everything arrive: all must agree and go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from milepost_consensus.errors import InvalidInput
from tests.simulation import lock_scripts, round_scripts
from tests.simulation.monitor import Violation
from tests.simulation.options import Options
from tests.simulation.signing import use_signatures
from tests.simulation.stage import Stage
from tests.simulation.world import Report


class Script(NamedTuple):
    """What a script is played by, on a stage with these liars."""

    play: Callable[[Stage], None]
    liars: str = ""
    clocks_ms: tuple[int, ...] = ()
    size: int = 4


def play_script(options: Options) -> Report:
    """Play the script that the options name; raises Violation."""
    script = SCRIPTS[options.script]
    with use_signatures(real=options.real_signatures):
        stage = Stage(options, liars=script.liars, clocks_ms=script.clocks_ms)
        try:
            script.play(stage)
            stage.laws.check_end(list(stage.nodes.values()))
        except (AssertionError, InvalidInput) as error:
            raise Violation(f"script {options.script}: {error!r}") from error
        except Violation as error:
            raise Violation(f"script {options.script}: {error}") from error
    heights = max(node.height for node in stage.nodes.values())
    return Report(stage.events, 0, heights, 0, stage.trace.hexdigest())


SCRIPTS: dict[str, Script] = {
    "hidden-lock": Script(lock_scripts.play_hidden_lock, liars="C"),
    "stale-polc": Script(lock_scripts.play_stale_polc, liars="C"),
    "newer-polc": Script(lock_scripts.play_newer_polc),
    "lock-moves": Script(lock_scripts.play_lock_moves),
    "nil-does-not-unlock": Script(lock_scripts.play_nil_does_not_unlock),
    "late-polc": Script(lock_scripts.play_late_polc),
    "valid-value-kept": Script(lock_scripts.play_valid_value_kept),
    "split-proposal": Script(round_scripts.play_split_proposal, liars="A"),
    "invalid-block": Script(round_scripts.play_invalid_block, liars="A"),
    "block-ahead-of-the-clock": Script(
        round_scripts.play_block_ahead_of_the_clock, clocks_ms=(60_000, 0, 0, 0)
    ),
    "left-behind": Script(round_scripts.play_left_behind),
    "last-words": Script(round_scripts.play_last_words, liars="D"),
    "decision-of-a-past-round": Script(round_scripts.play_decision_of_a_past_round),
    "lock-survives": Script(lock_scripts.play_lock_survives),
    "crash-before-sending": Script(round_scripts.play_crash_before_sending),
    "crash-after-proposing": Script(round_scripts.play_crash_after_proposing),
}
