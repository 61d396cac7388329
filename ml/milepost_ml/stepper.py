"""Trains a recipe step by step from a snapshot, exactly as the recorder saw it done.

Used by whoever retraces.  Nothing of a record is run: the graph is interpreted, the optimizer is
PyTorch's own with the declared settings, and every tensor was checked against the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.arithmetic.profiles import Profile, make_profile
from milepost_ml.arithmetic.rounded import round_tensors
from milepost_ml.digests import (
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    compute_batch_digest,
    compute_content_digest,
    compute_record_digests,
)
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import DATA
from milepost_ml.graph import TORCH_DTYPES, GraphRunner
from milepost_ml.images import unify_nans
from milepost_ml.keyed import Order, compute_generator_seed
from milepost_ml.recipe import SGD, Adam, Optimizer, Recipe, get_model_specs, get_rates
from milepost_ml.snapshots import map_tensors

if TYPE_CHECKING:
    from milepost_ml.digests import Array

_FAILURES: Final = (
    *(RuntimeError, IndexError, TypeError, ValueError, NotImplementedError),
    ArithmeticError,  # of an optimizer whose step counter was forged
)
"""What PyTorch raises when a step cannot be computed: a bad index, shapes that do not fit."""


class StepFailed(Exception):
    """A step cannot be computed from this state and batch, on any machine.

    `batch` are the batch digests of the whole stride.
    """

    def __init__(self, message: str, batch: bytes) -> None:
        super().__init__(message)
        self.batch = batch


class StepResult(NamedTuple):
    """What a step digest is made of: digests, and each loss as 4 bytes (float32, little-endian)."""

    batch: bytes
    """The batch digest of every step, one after the other; so with `loss`."""
    gradient: bytes
    """The content digest of the last step's; a record holds a digest of it."""
    loss: bytes
    post: bytes


def copy_tensor(array: Array) -> torch.Tensor:
    """A tensor with the array's values in memory of PyTorch's own.

    Kernels may compute differently on memory that is aligned differently, so arrays are not shared.
    """
    tensor = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype)
    tensor.numpy()[...] = array
    return tensor


def make_optimizer(
    declared: Optimizer, parameters: list[torch.nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    """PyTorch's optimizer with the declared settings."""
    if isinstance(declared, SGD):
        return torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=declared.momentum,
            dampening=declared.dampening,
            weight_decay=declared.weight_decay,
            nesterov=declared.nesterov,
            foreach=False,
        )
    make = torch.optim.Adam if isinstance(declared, Adam) else torch.optim.AdamW
    return make(
        parameters,
        lr=rate,
        betas=(declared.beta1, declared.beta2),
        eps=declared.eps,
        weight_decay=declared.weight_decay,
        amsgrad=declared.amsgrad,
        foreach=False,
    )


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

    def __init__(self, recipe: Recipe, data: Path) -> None:
        """Raises InvalidRecord for a data file that does not fit the recipe."""
        self._profile = make_profile(recipe.profile)
        self._profile.configure()
        self._recipe = recipe
        self._data = map_tensors(data, recipe.data, name=DATA)
        self._order = Order(
            seed=recipe.seed_bytes, records=recipe.records, batch_size=recipe.batch_size
        )
        self._runner = GraphRunner(recipe.graph)
        self._unfit = _find_unfit(self._runner, recipe, self._profile)
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._buffers: dict[str, torch.Tensor] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._model: dict[str, torch.Tensor] = {}
        """The model as it is recorded; after a step, once it was rounded."""
        self._slots: dict[str, torch.Tensor] = {}
        """Likewise the optimizer's tensors."""
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
        trained = [self._parameters[item.name] for item in recipe.parameters if item.trained]
        # The rate is set again before every step; the last state of a run has none.
        self._optimizer = make_optimizer(recipe.optimizer, trained, rate=0.0)
        self._profile.set_options(self._optimizer)
        for name in sorted(tensors):
            if name.startswith(OPTIMIZER_PREFIX):
                owner, _, slot = name.removeprefix(OPTIMIZER_PREFIX).rpartition(".")
                state = self._optimizer.state[self._parameters[owner]]
                state[slot] = self._take(tensors[name])
        self._round()

    def _take(self, array: Array) -> torch.Tensor:
        """A recorded tensor as it is computed with."""
        tensor = copy_tensor(array)
        return tensor.to(self._profile.get_dtype(tensor.dtype))

    def _round(self) -> None:
        """Round the state to what is recorded."""
        assert self._optimizer is not None
        model = {**self._parameters, **self._buffers}
        recorded = [TORCH_DTYPES[spec.dtype] for spec in get_model_specs(self._recipe)]
        self._model = dict(zip(model, round_tensors(list(model.values()), recorded), strict=True))
        slots = collect_optimizer_slots(self._optimizer, self._parameters)
        rounded = round_tensors(list(slots.values()), [torch.float32] * len(slots))
        self._slots = dict(zip(slots, rounded, strict=True))

    def get_batch(self, step: int) -> dict[str, Array]:
        """The rows of every data tensor that a step sees."""
        indices = self._order.get_indices(step)
        rows = {name: np.ascontiguousarray(array[indices]) for name, array in self._data.items()}
        for name, array in rows.items():
            if array.dtype == np.bool_ and array.view(np.uint8).max() > 1:
                raise InvalidRecord(
                    f"{name} holds truth values other than 0 and 1", slug="snapshot-broken"
                )
        return rows

    def get_batch_digest(self, step: int) -> bytes:
        """The digest of a step's batch, from the data themselves."""
        return compute_batch_digest(compute_record_digests(self.get_batch(step)))

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
        except StepFailed as failure:
            digests = (self.get_batch_digest(step) for step in stride)
            raise StepFailed(str(failure), b"".join(digests)) from failure
        gradient = compute_content_digest(gradients)
        return StepResult(b"".join(batches), gradient, b"".join(losses), self.get_digest())

    def _advance(self) -> tuple[bytes, bytes, dict[str, Array]]:
        """Batch digest, loss and gradients of one more step."""
        assert self._optimizer is not None
        rows = self.get_batch(self.step)
        batch = compute_batch_digest(compute_record_digests(rows))
        (rate,) = get_rates(self._recipe, range(self.step, self.step + 1))
        self._optimizer.param_groups[0]["lr"] = rate
        data = {name: self._take(array) for name, array in rows.items()}
        self._profile.reseed(compute_generator_seed(self._recipe.seed_bytes, self.step))
        try:
            with self._profile.active():
                loss = self._differentiate(data)
                gradients = self._get_gradients()
                self._optimizer.step()
        except _FAILURES as error:
            if "allocate memory" in str(error):  # this machine is too small; others are not
                raise MemoryError(str(error)) from error
            raise StepFailed(str(error), batch) from error
        self._round()
        self.step += 1
        number = self._export(loss.detach().to(torch.float32)).astype("<f4").tobytes()
        return batch, number, gradients

    def _differentiate(self, data: Mapping[str, torch.Tensor]) -> torch.Tensor:
        assert self._optimizer is not None
        loss = self._runner.run(
            {"parameter": self._parameters, "buffer": self._buffers, "data": data}
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

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
        array = tensor.detach().numpy()
        return unify_nans(array) if self._profile.one_nan else array

    def get_model(self) -> dict[str, Array]:
        """The model's tensors under their own names; views that the next step changes."""
        return {name: self._export(tensor) for name, tensor in self._model.items()}

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


def collect_optimizer_slots(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """An optimizer's tensors as "<parameter>.<slot>"; slots it has not filled yet are left out."""
    return {
        f"{name}.{slot}": value
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for slot, value in optimizer.state[parameter].items()
        if isinstance(value, torch.Tensor)
    }
