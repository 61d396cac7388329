"""What training loops usually do besides what they declare, as deviations that can be tried.

Each function proposes deviations of one kind for a recipe.  Proposing computes nothing but what the
recipe says; `diagnosis` trains with each and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from milepost_consensus.payloads import CLASS, EXACT
from milepost_ml.diagnosis.trials import Deviation
from milepost_ml.digests import MODEL_PREFIX, OPTIMIZER_PREFIX
from milepost_ml.keyed import make_order
from milepost_ml.nodes import Graph, Node
from milepost_ml.recipe import Recipe
from milepost_ml.updates import AVERAGE, ClipNorm, ClipValue

if TYPE_CHECKING:
    from milepost_ml.digests import Array

USUAL_NORMS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
USUAL_VALUES: Final = (0.1, 0.5, 1.0, 5.0)
USUAL_SMOOTHING: Final = 0.1
MAX_BATCHES: Final = 64
"""Other batches, the nearest first, that are tried in place of the planned one; and the first."""

_REDUCTIONS: Final = {
    "binary_cross_entropy": 3,
    "binary_cross_entropy_with_logits": 4,
    "cross_entropy_loss": 3,
    "huber_loss": 2,
    "l1_loss": 2,
    "mse_loss": 2,
    "nll_loss": 3,
    "nll_loss_nd": 3,
    "smooth_l1_loss": 2,
    "soft_margin_loss": 2,
}
"""At which place a loss says how it is reduced: 1 by the mean, 2 by the sum."""
_MEAN, _SUM = 1, 2
_SMOOTHING: Final = 5
"""At which place cross_entropy_loss has its label smoothing."""
_TRAINING: Final = {"batch_norm": 5, "dropout": 2, "dropout_": 2, "feature_dropout": 2}
"""At which place operators say whether they train."""


class Scene(NamedTuple):
    """What a proposal may depend on."""

    recipe: Recipe
    steps: range
    """The stride that does not repeat."""
    turn: int
    """The first of them in which a deviation of the forward pass shows."""
    gradients: Mapping[str, Array]
    """As the declared training has them."""
    before: Mapping[str, Array]
    """The state before the stride, by the names of a snapshot."""
    start: Mapping[str, Array]
    """The snapshot before the interval."""
    processors: int
    """Of the machine that recorded, or of this one if it has more."""


class Proposal(NamedTuple):
    """A deviation with its name in `causes` and what that needs to be said."""

    cause: str
    deviation: Deviation
    details: Mapping[str, Any] = {}
    once: bool = False
    """Whether it is one of so many that it is tried in a single step only."""


Propose = Callable[[Scene], Iterator[Proposal]]


def propose_kept_gradients(scene: Scene) -> Iterator[Proposal]:
    """zero_grad() was not called.

    The gradient before an interval's first step is not at hand.
    """
    if len(scene.steps) > 1 or scene.steps.start % scene.recipe.steps_per_interval:
        yield Proposal("kept-gradients", Deviation(keeps_gradients=True))


def propose_clipping(scene: Scene) -> Iterator[Proposal]:
    """Gradients were not clipped as declared, or clipped without being declared."""
    recipe = scene.recipe
    if recipe.clip is not None:
        without = msgspec.structs.replace(recipe, clip=None)
        yield Proposal("not-clipped", Deviation(recipe=without))
    values = [gradient.astype(np.float64) for gradient in scene.gradients.values()]
    norm = float(np.sqrt(sum(float((each**2).sum()) for each in values)))
    largest = max((float(np.abs(each).max()) for each in values if each.size), default=0.0)
    # What a declared clip left says nothing about what was there before it.
    high = recipe.clip is not None
    for limit in USUAL_NORMS:
        clip = ClipNorm(limit)
        if (limit < norm or high) and clip != recipe.clip:
            clipped = msgspec.structs.replace(recipe, clip=clip)
            yield Proposal("clipped-norm", Deviation(recipe=clipped), {"limit": limit})
    for limit in USUAL_VALUES:
        bound = ClipValue(limit)
        if (limit < largest or high) and bound != recipe.clip:
            clipped = msgspec.structs.replace(recipe, clip=bound)
            yield Proposal("clipped-value", Deviation(recipe=clipped), {"limit": limit})


def propose_losses(scene: Scene) -> Iterator[Proposal]:
    """The loss is reduced in another way, smoothed, or not divided as accumulation needs."""
    if scene.recipe.accumulate > 1:
        details = {"accumulate": scene.recipe.accumulate}
        yield Proposal("undivided", Deviation(undivided=True), details)
    for graph, reduction in _edit(scene.recipe, _REDUCTIONS, _swap_reduction):
        cause = "summed" if reduction == _SUM else "averaged"
        yield Proposal(cause, _following(scene.recipe, graph))
    smoothing = {"cross_entropy_loss": _SMOOTHING}
    for graph, value in _edit(scene.recipe, smoothing, _swap_smoothing):
        cause = "smoothed" if value else "not-smoothed"
        yield Proposal(cause, _following(scene.recipe, graph), {"value": value})


def propose_modes(scene: Scene) -> Iterator[Proposal]:
    """The forward pass was that of model.eval()."""
    for graph, _ in _edit(scene.recipe, _TRAINING, lambda value: False if value else None):
        yield Proposal("eval-mode", _following(scene.recipe, graph))


def propose_passes(scene: Scene) -> Iterator[Proposal]:
    """The batch passed through the model more than once."""
    yield Proposal("forward-before", Deviation(forward_before=True))
    yield from propose_later_passes(scene)


def propose_later_passes(scene: Scene) -> Iterator[Proposal]:
    """Of these, what leaves the gradient alone."""
    yield Proposal("forward-after", Deviation(forward_after=True))


def propose_weights(scene: Scene) -> Iterator[Proposal]:
    """The weights are not those that the step before left."""
    names = [item.name for item in scene.recipe.parameters]
    averages = {
        name: scene.before[slot]
        for name in names
        if (slot := f"{OPTIMIZER_PREFIX}{name}.{AVERAGE}") in scene.before
    }
    if averages:
        yield Proposal("averaged-weights", Deviation(weights=averages))
    if scene.steps.start % scene.recipe.steps_per_interval:
        restored = {name: scene.start[MODEL_PREFIX + name] for name in names}
        step = scene.steps.start - scene.steps.start % scene.recipe.steps_per_interval
        yield Proposal("restored-weights", Deviation(weights=restored), {"step": step})


def propose_augmentation(scene: Scene) -> Iterator[Proposal]:
    """The declared augmentation was not done."""
    if scene.recipe.augment:
        without = msgspec.structs.replace(scene.recipe, augment=())
        yield Proposal("not-augmented", Deviation(recipe=without))


def propose_autocast(scene: Scene) -> Iterator[Proposal]:
    """Autocast was on without being declared, or off."""
    if scene.recipe.profile == CLASS:
        declared = scene.recipe.autocast is not None
        other = msgspec.structs.replace(scene.recipe, autocast=None if declared else "bfloat16")
        yield Proposal("no-autocast" if declared else "autocast", Deviation(recipe=other))


def propose_threads(scene: Scene) -> Iterator[Proposal]:
    """Another number of threads computed; no difference in profile `exact`."""
    if scene.recipe.profile != EXACT:
        for threads in sorted({1, 2, scene.processors}):
            yield Proposal("threads", Deviation(threads=threads), {"threads": threads})


def propose_batches(scene: Scene) -> Iterator[Proposal]:
    """The loop trained other records than it was given, or the same in another order."""
    recipe = scene.recipe
    order = make_order(recipe)
    numbers = [number for step in scene.steps for number in order.get_numbers(step)]
    planned = {number: order.get_indices(number).tolist() for number in numbers}
    batches = recipe.records // recipe.batch_size

    def feed(rows: Callable[[int], Sequence[int]]) -> Deviation:
        return Deviation(rows={number: rows(number) for number in numbers})

    def get_plain(number: int) -> Sequence[int]:
        first = number % batches * recipe.batch_size
        return range(first, first + recipe.batch_size)

    yield Proposal("unshuffled", feed(get_plain))
    yield Proposal("sorted-batch", feed(lambda number: sorted(planned[number])))
    yield Proposal("reversed-batch", feed(lambda number: planned[number][::-1]))
    now = order.get_numbers(scene.turn)
    nearest = range(max(0, now[0] - MAX_BATCHES // 2), now[0] + MAX_BATCHES // 2 + 1)
    for other in sorted({0, *nearest}, key=lambda each: abs(each - now[0]))[1:]:
        rows = {
            number: order.get_indices(place).tolist() for place, number in enumerate(now, other)
        }
        details = {"other": other, "number": now[0]}
        yield Proposal("other-batch", Deviation(rows=rows), details, once=True)


FOR_GRADIENTS: Final[Mapping[str, Propose]] = {
    "zero_grad() left out": propose_kept_gradients,
    "clipping": propose_clipping,
    "reduction and smoothing of the loss": propose_losses,
    "model.eval()": propose_modes,
    "a further forward pass": propose_passes,
    "averaged or restored weights": propose_weights,
    "augmentation left out": propose_augmentation,
    "autocast": propose_autocast,
    "other numbers of threads": propose_threads,
    "other batches": propose_batches,
}
"""What is tried where a gradient differs, by what it is called when nothing explains it."""

FOR_STATES: Final[Mapping[str, Propose]] = {
    "a further forward pass": propose_later_passes,
    "other numbers of threads": propose_threads,
}
"""What is tried where the gradient agrees and the state differs."""


def _following(recipe: Recipe, graph: Graph) -> Deviation:
    return Deviation(recipe=msgspec.structs.replace(recipe, graph=graph))


def _swap_reduction(value: Any) -> int | None:
    return {_MEAN: _SUM, _SUM: _MEAN}.get(value)


def _swap_smoothing(value: Any) -> float | None:
    return 0.0 if value else USUAL_SMOOTHING


def _edit(
    recipe: Recipe, places: Mapping[str, int], change: Callable[[Any], Any]
) -> Iterator[tuple[Graph, Any]]:
    """The graph with one argument of all these operators changed, and its new value.

    Nothing if that changes nothing; `change` gives None where an argument stays.
    """
    assert isinstance(recipe.graph, Graph)
    nodes, latest = [], None
    for node in recipe.graph.nodes:
        place = places.get(node.op)
        new = None if place is None else change(node.args[place])
        if place is None or new is None:
            nodes.append(node)
            continue
        latest = new
        nodes.append(Node(node.op, (*node.args[:place], new, *node.args[place + 1 :])))
    if latest is not None:
        yield msgspec.structs.replace(recipe.graph, nodes=tuple(nodes)), latest
