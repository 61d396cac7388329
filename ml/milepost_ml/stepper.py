"""Trains a recipe of listed operators step by step, exactly as the recorder saw it done.

Used by whoever retraces.  Nothing of a record is run: the graph is interpreted, the optimizer is
PyTorch's own with the declared settings, and every tensor was checked against the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.arithmetic.profiles import Profile, make_profile
from milepost_ml.arithmetic.rounded import round_tensors
from milepost_ml.augmentation import augment_batch
from milepost_ml.averages import name_slots, update_averages
from milepost_ml.batches import Batches
from milepost_ml.digests import (
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    compute_content_digest,
)
from milepost_ml.errors import InvalidRecord
from milepost_ml.gpus import CPU
from milepost_ml.graph import TORCH_DTYPES, GraphRunner
from milepost_ml.images import unify_nans
from milepost_ml.keyed import compute_generator_seed
from milepost_ml.nodes import Graph
from milepost_ml.optimizing import average, clip_gradients, collect_optimizer_slots, make_optimizer
from milepost_ml.recipe import Recipe, get_model_specs
from milepost_ml.steps import StepFailed, StepResult
from milepost_ml.updates import AVERAGE, expand_rates

if TYPE_CHECKING:
    from milepost_ml.digests import Array

_FAILURES: Final = (
    *(RuntimeError, IndexError, TypeError, ValueError, NotImplementedError),
    ArithmeticError,  # of an optimizer whose step counter was forged
)
"""What PyTorch raises when a step cannot be computed: a bad index, shapes that do not fit."""


def copy_tensor(array: Array) -> torch.Tensor:
    """A tensor with the array's values in memory of PyTorch's own.

    Kernels may compute differently on memory that is aligned differently, so arrays are not shared.
    """
    tensor = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype)
    tensor.numpy()[...] = array
    return tensor


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too short, the processor's or a GPU's."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _find_unfit(runner: GraphRunner, recipe: Recipe, profile: Profile) -> str | None:
    """Why no step of the recipe can be computed, if so."""
    model = {item.name: (item.dtype, item.shape) for item in get_model_specs(recipe)}
    batch = {item.name: (item.dtype, (recipe.batch_size, *item.shape[1:])) for item in recipe.data}
    try:
        runner.validate({"parameter": model, "buffer": model, "data": batch}, profile)
    except InvalidRecord as error:
        return str(error)
    return None


class Stepper:
    """A training in progress.  `step` counts the steps done; call `load` before anything else.

    Sets torch up for the recipe's arithmetic profile, as the recorder does.
    """

    def __init__(self, recipe: Recipe, data: Path, device: torch.device = CPU) -> None:
        """Raises InvalidRecord for a data file that does not fit the recipe."""
        assert isinstance(recipe.graph, Graph)
        autocast = recipe.autocast is not None
        self._profile = make_profile(recipe.profile, autocast=autocast, device=device)
        self._profile.configure()
        self._recipe = recipe
        self._batches = Batches(recipe, data)
        self._runner = GraphRunner(recipe.graph, device)
        self._unfit = _find_unfit(self._runner, recipe, self._profile)
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._buffers: dict[str, torch.Tensor] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._model: dict[str, torch.Tensor] = {}
        """The model as it is recorded, once it was rounded and copied to the processor."""
        self._slots: dict[str, torch.Tensor] = {}
        """Likewise the optimizer's tensors and the averages."""
        self._gradients: dict[str, Array] = {}
        self._averages: dict[str, torch.Tensor] = {}
        self.step = 0

    def load(self, step: int, tensors: Mapping[str, Array]) -> None:
        """Continue from the state after `step` steps, given as a snapshot's checked tensors."""
        recipe = self._recipe
        self.step = step
        self._parameters = {
            item.name: torch.nn.Parameter(
                self._take(tensors[MODEL_PREFIX + item.name]), requires_grad=item.trained
            )
            for item in recipe.parameters
        }
        self._buffers = {
            spec.name: self._take(tensors[MODEL_PREFIX + spec.name]) for spec in recipe.buffers
        }
        self._optimizer = make_optimizer(recipe.groups, self._parameters)
        self._profile.set_options(self._optimizer)
        averaged = recipe.parameters if recipe.ema_decay is not None else ()
        self._averages = {
            item.name: self._parameters[item.name].detach().clone()
            for item in averaged
            if item.trained
        }
        for name in sorted(tensors):
            if name.startswith(OPTIMIZER_PREFIX):
                owner, _, slot = name.removeprefix(OPTIMIZER_PREFIX).rpartition(".")
                if slot == AVERAGE:
                    self._averages[owner] = self._take(tensors[name])
                else:
                    state = self._optimizer.state[self._parameters[owner]]
                    state[slot] = self._take(tensors[name])
        self._keep(*self._round())

    def _take(self, array: Array) -> torch.Tensor:
        """A recorded tensor as it is computed with."""
        return self._profile.take(copy_tensor(array))

    def _round(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Model and optimizer's tensors, rounded to what is recorded."""
        assert self._optimizer is not None
        model = {**self._parameters, **self._buffers}
        recorded = [TORCH_DTYPES[spec.dtype] for spec in get_model_specs(self._recipe)]
        rounded = round_tensors(list(model.values()), recorded)
        slots = collect_optimizer_slots(self._optimizer, self._parameters)
        slots |= name_slots(self._averages) if self.step else {}
        others = round_tensors(list(slots.values()), [torch.float32] * len(slots))
        return dict(zip(model, rounded, strict=True)), dict(zip(slots, others, strict=True))

    @torch.no_grad()
    def _keep(self, model: dict[str, torch.Tensor], slots: dict[str, torch.Tensor]) -> None:
        """From here on this is the state, on the processor; tensors that are there stay views."""
        self._model = {name: tensor.cpu() for name, tensor in model.items()}
        self._slots = {name: tensor.cpu() for name, tensor in slots.items()}

    def get_batch(self, number: int) -> dict[str, Array]:
        """The rows of every data tensor in batch `number`, as they are in the data."""
        return self._batches.get_rows(number)

    def get_batch_digest(self, step: int) -> bytes:
        """The digest of the records of a step, from the data themselves."""
        return self._batches.compute_digest(step)

    def run_step(self) -> StepResult:
        """Do the next step.  Raises StepFailed where PyTorch cannot."""
        return self.run_stride(1)

    def run_stride(self, count: int) -> StepResult:
        """Do the next steps, and hash what comes out at their end.

        Raises StepFailed where PyTorch cannot.
        """
        stride = range(self.step, self.step + count)
        batches, losses = [], []
        try:
            if self._unfit is not None:
                raise StepFailed(self._unfit, b"")
            for _ in stride:
                batch, loss, gradients = self._advance()
                batches.append(batch)
                losses.append(loss)
                state = self._round()
        except StepFailed as failure:
            digests = (self.get_batch_digest(step) for step in stride)
            raise StepFailed(str(failure), b"".join(digests)) from failure
        self._gradients = gradients
        self._keep(*state)
        gradient = compute_content_digest(gradients)
        return StepResult(b"".join(batches), gradient, b"".join(losses), self.get_digest())

    def _advance(self) -> tuple[bytes, bytes, dict[str, Array]]:
        """Batch digest, loss and gradients of one more step."""
        assert self._optimizer is not None
        batch = self.get_batch_digest(self.step)
        for group, declared in zip(self._optimizer.param_groups, self._recipe.groups, strict=True):
            (group["lr"],) = expand_rates(declared.rates, range(self.step, self.step + 1))
        try:
            with self._profile.active():
                self._clear_gradients()
                losses = [self._differentiate(n) for n in self._batches.get_numbers(self.step)]
                clip_gradients(self._recipe, self._parameters)
                gradients = self._get_gradients()
                self._optimizer.step()
                if self._recipe.ema_decay is not None:
                    update_averages(self._averages, self._parameters, self._recipe.ema_decay)
        except _FAILURES as error:
            if is_out_of_memory(error):  # this machine is too small; others are not
                raise MemoryError(str(error)) from error
            raise StepFailed(str(error), batch) from error
        self.step += 1
        loss = self._export(torch.tensor(average(losses), dtype=torch.float64).to(torch.float32))
        return batch, loss.astype("<f4").tobytes(), gradients

    def _clear_gradients(self) -> None:
        """Forget those of the step before."""
        assert self._optimizer is not None
        self._optimizer.zero_grad()

    def _differentiate(self, number: int) -> float:
        """Add the gradient of one batch to what is there; returns its loss."""
        data = self._prepare(number)
        self._profile.reseed(compute_generator_seed(self._recipe.seed_bytes, number))
        loss = self._compute_loss(data)
        share = loss / self._recipe.accumulate if self._recipe.accumulate > 1 else loss
        share.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _prepare(self, number: int) -> dict[str, torch.Tensor]:
        """Batch `number` as the model gets it."""
        recipe, rows = self._recipe, self.get_batch(number)
        if recipe.augment:
            rows["data.0"] = augment_batch(
                rows["data.0"], recipe.augment, seed=recipe.seed_bytes, number=number
            )
        return {name: self._take(array) for name, array in rows.items()}

    def _compute_loss(
        self, data: Mapping[str, torch.Tensor], watch: Callable[[Any], None] | None = None
    ) -> torch.Tensor:
        """The loss of a prepared batch; `watch` as in `GraphRunner.run`."""
        with self._profile.casting():
            return self._runner.run(
                {"parameter": self._parameters, "buffer": self._buffers, "data": data}, watch
            )

    def _get_gradients(self) -> dict[str, Array]:
        gradients = {}
        for item in self._recipe.parameters:
            gradient = self._parameters[item.name].grad
            if item.trained:
                if gradient is None:
                    raise RuntimeError(f"{item.name} gets no gradient")
                gradients[item.name] = gradient
        self._profile.round_gradients(gradients.values())
        return {name: self._export(each.to(torch.float32)) for name, each in gradients.items()}

    def _export(self, tensor: torch.Tensor) -> Array:
        """What is hashed and written of a tensor; a view where that is the same."""
        array = tensor.detach().cpu().numpy()
        return unify_nans(array) if self._profile.one_nan else array

    def get_model(self) -> dict[str, Array]:
        """The model's tensors under their own names; views that the next step changes."""
        return {name: self._export(tensor) for name, tensor in self._model.items()}

    def get_gradients(self) -> dict[str, Array]:
        """Those of the last step, by parameter; views."""
        return self._gradients

    def get_parameters(self) -> dict[str, Array]:
        """The parameters alone; views."""
        return {name: self._export(self._model[name]) for name in self._parameters}

    def get_optimizer_state(self) -> dict[str, Array]:
        """The optimizer's tensors as "<parameter>.<slot>"; views."""
        return {name: self._export(tensor) for name, tensor in self._slots.items()}

    def get_state(self) -> dict[str, Array]:
        """The complete state as a snapshot's tensors; views."""
        model, optimizer = self.get_model(), self.get_optimizer_state()
        return {MODEL_PREFIX + name: array for name, array in model.items()} | {
            OPTIMIZER_PREFIX + name: array for name, array in optimizer.items()
        }

    def get_digest(self) -> bytes:
        """The state digest after the steps done so far."""
        return compute_state_digest(
            self.step,
            compute_content_digest(self.get_model()),
            compute_content_digest(self.get_optimizer_state()),
        )
