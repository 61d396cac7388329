"""Training as a loop may have done it that left what it declared.

A deviation says what such a loop does otherwise.  Whoever looks for the cause of a difference
trains the steps in question once more with one deviation and compares what comes out with what was
recorded: equal bits leave no room for another explanation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from blake3 import blake3

from milepost_ml.arithmetic.known_answer import choose_device
from milepost_ml.graph import GraphRunner
from milepost_ml.keyed import compute_generator_seed
from milepost_ml.nodes import Graph
from milepost_ml.recipe import Recipe
from milepost_ml.stepper import Stepper

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class Deviation(NamedTuple):
    """What a loop does otherwise; what is left out is as the recipe says."""

    recipe: Recipe | None = None
    """Followed in place of the declared one, as to graph, clipping, augmentation and autocast."""
    keeps_gradients: bool = False
    """The gradients of the step before are not cleared."""
    undivided: bool = False
    """Accumulated losses are not divided by their number."""
    forward_before: bool = False
    """The batch passes through the model once more before it is trained."""
    forward_after: bool = False
    """Likewise after backward, before the optimizer's step."""
    rows: Mapping[int, Sequence[int]] | None = None
    """The records that are fed in place of the planned ones, by the batch's number."""
    weights: Mapping[str, Array] | None = None
    """Parameters that are in place of those that the step before left."""
    threads: int | None = None


NOTHING: Final = Deviation()


class TrialStepper(Stepper):
    """A stepper that deviates in some steps."""

    def __init__(
        self, recipe: Recipe, data: Path, deviation: Deviation, steps: Collection[int]
    ) -> None:
        """As `Stepper`; `steps` are those in which it deviates."""
        super().__init__(recipe, data, choose_device(recipe.device_class))
        self._declared, self._deviation, self._steps = recipe, deviation, steps
        self._runners = {False: self._runner, True: self._runner}
        if deviation.recipe is not None and deviation.recipe.graph != recipe.graph:
            assert isinstance(deviation.recipe.graph, Graph)
            self._runners[True] = GraphRunner(deviation.recipe.graph)

    @property
    def _now(self) -> Deviation:
        return self._deviation if self.step in self._steps else NOTHING

    def _advance(self) -> tuple[bytes, bytes, dict[str, Array]]:
        now = self._now
        self._recipe = now.recipe or self._declared
        self._runner = self._runners[now.recipe is not None]
        self._profile.autocast = self._recipe.autocast is not None
        if now.weights is not None:
            with torch.no_grad():
                for name, array in now.weights.items():
                    self._parameters[name].copy_(self._take(array))
        with using_threads(now.threads):
            return super()._advance()

    def _clear_gradients(self) -> None:
        if not self._now.keeps_gradients:
            super()._clear_gradients()

    def get_batch(self, number: int) -> dict[str, Array]:
        rows = self._now.rows
        return super().get_batch(number) if rows is None else self._batches.take_rows(rows[number])

    def _differentiate(self, number: int) -> float:
        now = self._now
        if now.forward_before or now.undivided:
            return self._differentiate_otherwise(number, now)
        loss = super()._differentiate(number)
        if now.forward_after:
            with torch.no_grad():
                self._compute_loss(self._prepare(number))
        return loss

    def _differentiate_otherwise(self, number: int, now: Deviation) -> float:
        data = self._prepare(number)
        self._profile.reseed(compute_generator_seed(self._recipe.seed_bytes, number))
        if now.forward_before:
            with torch.no_grad():
                self._compute_loss(data)
        loss = self._compute_loss(data)
        accumulate = 1 if now.undivided else self._recipe.accumulate
        (loss / accumulate if accumulate > 1 else loss).backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def trace_forward(self) -> list[bytes]:
        """A digest of what each node of the graph gives in the next step's first batch.

        Changes the state as a forward pass does.
        """
        number = self._batches.get_numbers(self.step)[0]
        data = self._prepare(number)
        self._profile.reseed(compute_generator_seed(self._recipe.seed_bytes, number))
        digests: list[bytes] = []
        with self._profile.active(), torch.no_grad():
            self._compute_loss(data, lambda value: digests.append(_compute_digest(value)))
        return digests


def _compute_digest(value: Any) -> bytes:
    """The digest of a node's result, which may be several tensors."""
    hasher = blake3()
    for tensor in value if isinstance(value, list | tuple) else (value,):
        plain = tensor.detach().contiguous()
        if plain.dtype is torch.bfloat16:  # numpy has none
            plain = plain.float()
        hasher.update(plain.cpu().numpy().tobytes())
    return hasher.digest()


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """PyTorch on so many threads, if that is said."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
