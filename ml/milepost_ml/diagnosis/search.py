"""Why an interval of a run does not repeat: the first step and tensors that differ, and the cause.

Causes are tested, not guessed: the stride that differs is trained once more as a loop would have
done it that left what it declared, and what comes out is compared with what was recorded.  What is
equal is confirmed; where nothing is, the parts that differ still say where to look.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from milepost_ml.diagnosis import comparisons
from milepost_ml.diagnosis.causes import CONFIRMED, SEEN, USUAL
from milepost_ml.diagnosis.changed_data import find_changed_data
from milepost_ml.diagnosis.comparisons import Differing, Found, find_differing
from milepost_ml.diagnosis.deviations import FOR_GRADIENTS, FOR_STATES, Propose, Scene
from milepost_ml.diagnosis.findings import Cause, Diagnosis, list_names
from milepost_ml.diagnosis.passage import (
    FAILED,
    Difference,
    Passage,
    compare,
    find_difference,
    find_turn,
    is_within,
    open_passage,
)
from milepost_ml.diagnosis.trials import Deviation, TrialStepper
from milepost_ml.diagnosis.unsteady import find_unsteady
from milepost_ml.digests import MODEL_PREFIX
from milepost_ml.files import RUN
from milepost_ml.nodes import Graph
from milepost_ml.steps import StepFailed

_COSTLY: Final = ("other numbers of threads", "other batches")
"""Tried after what needs no training."""

Say = Callable[[str], None]


def diagnose(folder: Path, interval: int, say: Say = lambda text: None) -> Diagnosis:
    """Look for the first difference of an interval and its cause; `say` hears what is being tried.

    Raises InvalidRecord for files that cannot be read.
    """
    passage = open_passage(folder, interval)
    difference = find_difference(passage)
    if difference is None:
        return Diagnosis(interval, repeats=True)
    say(f"differs at {_name_steps(difference.steps)}; looking for the cause")
    differing = find_differing(passage, difference)
    explained = _Explanation(passage, difference, differing, say)
    cause = explained.find()
    turn = find_turn(passage, difference)
    if turn is None and len(difference.steps) == 1:
        turn = difference.steps[0]
    return Diagnosis(
        interval=interval,
        repeats=False,
        step=turn if explained.step is None else explained.step,
        stride=(difference.steps[0], difference.steps[-1]),
        parts=difference.parts,
        tensors=differing.names,
        tensors_of=differing.of,
        compared=differing.compared,
        cause=cause,
        tried=tuple(explained.tried),
    )


def _name_steps(steps: range) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"


class _Explanation:
    """The search for the cause of one difference."""

    def __init__(
        self, passage: Passage, difference: Difference, differing: Differing, say: Say
    ) -> None:
        self._passage, self._difference, self._differing = passage, difference, differing
        self._say = say
        self.step: int | None = None
        """The step in which the cause is at work, where that was found."""
        self.tried: list[str] = []

    def find(self) -> Cause:
        """The first cause that is confirmed, or the usual one."""
        difference = self._difference
        if difference.part == FAILED:
            text = f"{USUAL['failed']} ({difference.failure})"
            return Cause("failed", confirmed=True, text=text)
        for look in self._get_looks():
            found = look()
            if found is not None:
                details = {"tensors": list_names(self._get_tensors()), **found.details}
                text = CONFIRMED[found.cause].format_map(details)
                return Cause(
                    found.cause, confirmed=True, text=text, evidence=self._get_evidence(found.cause)
                )
        return self._guess()

    def _get_looks(self) -> Iterator[Callable[[], Found | None]]:
        """What to look for, the cheapest and the most telling first."""
        parts = self._difference.parts
        if not self._passage.has_tolerance:
            yield self._find_unsteady
        if "batch" in parts:
            yield self._find_changed_data
            return
        kind = FOR_GRADIENTS if "gradient" in parts else FOR_STATES
        if self._passage.has_tolerance:
            kind = {**FOR_GRADIENTS, **FOR_STATES}
        if not isinstance(self._passage.recipe.graph, Graph):
            kind = {}
        for name, propose in kind.items():
            if name not in _COSTLY:
                yield lambda n=name, p=propose: self._try(n, p)  # type: ignore[misc]
        if not self._passage.has_tolerance:
            yield self._compare_directly
        for name in _COSTLY:
            if name in kind:
                yield lambda n=name: self._try(n, kind[n])  # type: ignore[misc]

    def _find_unsteady(self) -> Found | None:
        self._say("doing it twice from the same state")
        found = find_unsteady(self._passage, self._difference)
        if found is None:
            self.tried.append("the same once more on this machine")
            return None
        self.step = found.step
        return Found("unsteady", {"place": found.place})

    def _find_changed_data(self) -> Found | None:
        self._say("comparing the data with all batches")
        passage, steps = self._passage, self._difference.steps
        step = _find_changed_step(passage, self._difference)
        self.step = steps[0] if step is None else step
        found = find_changed_data(passage.folder, passage.recipe, self.step)
        if found.other_step is not None:
            return Found("data-order", {"other": found.other_step})
        return Found("data-records", {"records": _describe_records(found.changed, found.suspect)})

    def _compare_directly(self) -> Found | None:
        found = comparisons.explain(self._passage, self._difference, self._differing)
        if found is None:
            self.tried.append("what was there before, and usual factors")
        return found

    # Training once more --------------------------------------------------------------------------

    def _try(self, name: str, propose: Propose) -> Found | None:
        """Try all deviations of a kind, in the steps in which they may have happened."""
        scene = Scene(
            recipe=self._passage.recipe,
            steps=self._difference.steps,
            turn=self._get_turn(),
            gradients=self._difference.gradients,
            before=self._difference.before.state,
            start=self._passage.start,
            processors=_count_processors(self._passage.folder),
        )
        said = False
        for proposal in propose(scene):
            if not said:
                self._say(f"trying {name}")
                said = True
            for steps in self._get_step_sets(once=proposal.once):
                if self._explains(proposal.deviation, steps):
                    self.step = steps[0]
                    return Found(proposal.cause, proposal.details)
        if said:
            self.tried.append(name)
        return None

    def _get_step_sets(self, *, once: bool) -> list[range]:
        """In which steps a deviation may have been at work, to show first where it does.

        With `once`, only the step in which a deviation of the forward pass shows.
        """
        steps, turn = self._difference.steps, find_turn(self._passage, self._difference)
        if len(steps) == 1:
            return [steps]
        if once:
            return [range(self._get_turn(), self._get_turn() + 1)]
        sets: list[range] = []
        # What changes the update of a step shows in the loss of the next.
        around = [steps[-1]] if turn is None else [turn, turn - 1]
        for step in around:
            if step in steps:
                sets += [range(step, steps.stop), range(step, step + 1)]
        sets.append(steps)
        if turn is None:
            sets += [range(step, step + 1) for step in steps]
        return list(dict.fromkeys(sets))

    def _get_turn(self) -> int:
        turn = find_turn(self._passage, self._difference)
        return self._difference.steps[-1] if turn is None else turn

    def _explains(self, deviation: Deviation, steps: range) -> bool:
        """Whether training with a deviation gives what was recorded."""
        passage, difference = self._passage, self._difference
        try:
            stepper = TrialStepper(passage.recipe, passage.data, deviation, steps)
            stepper.load(*difference.earlier)
            if difference.earlier.step < difference.steps.start:
                stepper.run_stride(difference.steps.start - difference.earlier.step)
            result = stepper.run_stride(len(difference.steps))
        except StepFailed:
            return False
        if passage.has_tolerance:
            return is_within(passage, stepper)
        parts = compare(result, passage.rows[difference.place])
        return difference.part not in parts

    def _get_evidence(self, cause: str) -> str:
        if cause in SEEN:
            return ""
        if self._passage.has_tolerance:
            return "trained so, the interval ends within the bound"
        return f"computed so, the {self._difference.part} is the recorded one, bit for bit"

    # Where nothing was confirmed -----------------------------------------------------------------

    def _get_tensors(self) -> Sequence[str]:
        return [name.removeprefix(MODEL_PREFIX) for name in self._differing.names]

    def _guess(self) -> Cause:
        name = self._get_usual()
        text = USUAL[name].format_map({"tensors": list_names(self._get_tensors())})
        return Cause(name, confirmed=False, text=text)

    def _get_usual(self) -> str:
        parts = self._difference.parts
        if "gradient" in parts or self._passage.has_tolerance:
            turn = find_turn(self._passage, self._difference)
            return "backward" if turn is None else "forward"
        if "loss" in parts:
            return "loss"
        if self._differing.of != "state":
            return "state-unknown"
        return comparisons.get_kind(self._passage.recipe, self._differing.names)


def _find_changed_step(passage: Passage, difference: Difference) -> int | None:
    """The first step of the difference that was fed another batch."""
    assert difference.result is not None
    rows = passage.rows if passage.has_tolerance else [passage.rows[difference.place]]
    said = [batch for row in rows for batch in row.batches]
    size = len(said[0])
    got = [
        difference.result.batch[at : at + size]
        for at in range(0, len(difference.result.batch), size)
    ]
    for step, mine, theirs in zip(difference.steps, got, said, strict=False):
        if mine != theirs:
            return step
    return None


def _describe_records(changed: Sequence[int], suspect: Sequence[int]) -> str:
    parts = []
    if changed:
        are = (
            "record {} is not what was fed"
            if len(changed) == 1
            else "records {} are not what was fed"
        )
        parts.append(are.format(list_names([str(record) for record in changed])))
    if suspect:
        names = list_names([str(record) for record in suspect])
        parts.append(f"of the {len(suspect)} records {names}, counted from 0, some are not")
    return "; ".join(parts)


def _count_processors(folder: Path) -> int:
    """Of the machine that recorded, as run.json says, or of this one if it has more."""
    mine = os.cpu_count() or 1
    try:
        about: Mapping[str, Any] = json.loads((folder / RUN).read_bytes())
        return max(mine, min(int(about["environment"]["processors"]), 4 * mine))
    except (OSError, ValueError, KeyError, TypeError):
        return mine
