"""What really happened in the runs that simulated submitters submit.

The ledger never sees this: the records are synthetic, and whoever retraces a step honestly gets
what the submitter committed, except for one step of each poisoned interval.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from milepost_consensus.step_digests import compute_work_digest
from milepost_consensus.submissions import AGREES, Duty
from tests.simulation.options import Run
from tests.support.ledger import Record, make_hash, make_record

STEPS = 2
"""Steps of an interval."""


class Truth(NamedTuple):
    """A run's record, and which intervals contain a step that does not follow."""

    record: Record
    poisoned: tuple[int, ...]

    def get_poisoned_step(self, interval: int) -> int | None:
        """The step of the interval that does not follow."""
        return interval * STEPS + interval % STEPS if interval in self.poisoned else None

    def recompute(self, step: int) -> bytes:
        """The digest that an honest verifier gets for a step."""
        if self.get_poisoned_step(step // STEPS) == step:
            return make_hash("recomputed", self.record.submit.name, step)
        return self.get_leaf(step)

    def get_leaf(self, step: int) -> bytes:
        """The digest that the submitter committed."""
        return self.record.leaves[step // STEPS][step % STEPS]

    def compute_work(self, step: int, verifier: bytes) -> bytes:
        """The digest of its work that a verifier makes who has the gradient of a step."""
        gradient = self.record.rows[step // STEPS][step % STEPS].gradient
        return compute_work_digest(verifier, gradient)

    def is_made_up(self, duty: Duty) -> bool:
        """Whether a verifier agreed without having retrained."""
        return duty.answer == AGREES and duty.work_digest != self.compute_work(
            duty.work_step, duty.verifier
        )


@lru_cache(maxsize=4_096)
def get_truth(name: str) -> Truth:
    """The run of this name: names say how many intervals there are and which ones are what.

    A name is `label-intervals-poisoned-flagged`, the last two with a letter for each interval.
    """
    _, intervals, poisoned, flagged = name.rsplit("-", 3)
    count = int(intervals)
    scores = [0 if _letter(k) in flagged else 1_000_000 for k in range(count)]
    record = make_record(
        name,
        intervals=count,
        steps_per_interval=STEPS,
        change_scores=scores,
        profile="exact",  # so that wrong words are struck
    )
    return Truth(record, tuple(k for k in range(count) if _letter(k) in poisoned))


def make_name(run: Run, seed: int) -> str:
    """The name that says all about a run."""
    poisoned = "".join(map(_letter, run.poisoned))
    flagged = "".join(map(_letter, run.flagged))
    return f"{run.name}.{seed}-{run.intervals}-{poisoned}-{flagged}"


def _letter(interval: int) -> str:
    return chr(ord("a") + interval)
