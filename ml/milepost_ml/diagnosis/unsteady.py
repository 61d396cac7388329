"""Does this machine get the same result twice, and if not, where does it begin to differ?"""

from __future__ import annotations

from typing import NamedTuple

from milepost_ml.diagnosis.passage import Difference, Passage, Point
from milepost_ml.diagnosis.trials import NOTHING, TrialStepper
from milepost_ml.nodes import Graph, iterate_refs
from milepost_ml.stepping import make_stepper
from milepost_ml.steps import StepFailed
from milepost_ml.tensor_digests import compute_digests

REPETITIONS = 3
"""How often a step is looked at: what differs only now and then may take more than one look."""


class Unsteady(NamedTuple):
    """What came out differently when it was done again from the same state."""

    step: int | None
    """None where only the whole stride showed it."""
    place: str
    """For people: the operator, the backward pass or the optimizer's step, and which tensors."""


def find_unsteady(passage: Passage, difference: Difference) -> Unsteady | None:
    """Do the differing stride again as it is declared; None if that gives the same again."""
    again = make_stepper(passage.recipe, passage.data)
    again.load(*difference.before)
    try:
        result = again.run_stride(len(difference.steps))
    except StepFailed:
        return Unsteady(None, "whether the step can be computed at all")
    if difference.result is None or result == difference.result:
        return None
    if not isinstance(passage.recipe.graph, Graph):
        return Unsteady(None, "TensorFlow's step")
    point = difference.before
    for step in difference.steps:
        found, point = _look_closely(passage, step, point)
        if found:
            return Unsteady(step, found)
    return Unsteady(None, "something that did not show when each operator was looked at")


def _look_closely(passage: Passage, step: int, point: Point) -> tuple[str, Point]:
    """Where one step differs from itself (empty if it does not), and the state after it."""
    traces, results = [], []
    for _ in range(REPETITIONS):
        stepper = TrialStepper(passage.recipe, passage.data, NOTHING, ())
        stepper.load(*point)
        traces.append(stepper.trace_forward())
        stepper.load(*point)
        stepper.run_step()
        results.append(
            (compute_digests(stepper.get_gradients()), compute_digests(stepper.get_state()))
        )
        after = Point(step + 1, {k: array.copy() for k, array in stepper.get_state().items()})
    for place, digests in enumerate(zip(*traces, strict=True)):
        if len(set(digests)) > 1:
            assert isinstance(passage.recipe.graph, Graph)
            return _describe_node(passage.recipe.graph, place), after
    for part, what in enumerate(("the backward pass", "the optimizer's step")):
        first, *others = [each[part] for each in results]
        odd = [name for name in first if any(each[name] != first[name] for each in others)]
        if odd:
            return f"{what}, in {odd[0]}", after
    return "", after


def _describe_node(graph: Graph, place: int) -> str:
    """A node by its operator and the parameters next to it."""
    for back in range(place, -1, -1):
        refs = [ref for ref in iterate_refs(graph.nodes[back]) if ref < len(graph.inputs)]
        names = [graph.inputs[ref].name for ref in refs if graph.inputs[ref].source != "data"]
        if names:
            near = f", {'with' if back == place else 'after'} {', '.join(names)}"
            break
    else:
        near = ""
    operator = graph.nodes[place].op
    return f"the operator {operator} (number {place} of the graph's {len(graph.nodes)}{near})"
