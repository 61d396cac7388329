"""Reads gradients and state of a training in progress, cheaply, and notices undeclared changes.

Values are copied from where they lie, and to the processor first from a GPU; PyTorch's version
counters tell whether something wrote to a weight or buffer between two steps.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.arithmetic.rounded import round_tensors
from milepost_ml.averages import EMA, name_slots
from milepost_ml.digests import MODEL_PREFIX
from milepost_ml.errors import RecordingError
from milepost_ml.gpus import CPU
from milepost_ml.graph import TORCH_DTYPES
from milepost_ml.optimizing import collect_optimizer_slots
from milepost_ml.recipe import Recipe, get_model_specs, get_optimizer_specs
from milepost_ml.strides import StepImages

if TYPE_CHECKING:
    from milepost_ml.digests import Array

ALIGNMENT: Final = 64
"""Bytes; what PyTorch's own memory is aligned to, and so a verifier's copy of a tensor."""


def get_address(name: str, tensor: torch.Tensor, size_bytes: int) -> int:
    """Where a tensor's values lie, in C order; raises RecordingError if they do not."""
    if tensor.nbytes != size_bytes or not tensor.is_contiguous():
        raise RecordingError(
            f"{name} got another shape, type or layout during training", slug="undeclared-change"
        )
    return tensor.data_ptr()


class _Held(NamedTuple):
    """A tensor that stays the same object from step to step."""

    name: str
    tensor: torch.Tensor
    size_bytes: int
    recorded: torch.dtype


class StateWatch:
    """The state of one model and its optimizer, as a recipe describes it.

    The tensors are in the types that the recipe's profile computes in.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        profile: Profile,
        ema: EMA | None = None,
    ) -> None:
        self._profile = profile
        self._optimizer, self._ema = optimizer, ema
        self._parameters = dict(model.named_parameters())
        self._tensors: dict[str, torch.Tensor] = {
            **self._parameters,
            **dict(model.named_buffers()),
        }
        for tensor in self._tensors.values():
            if tensor.data_ptr() % ALIGNMENT:
                tensor.data = tensor.data.clone()
        trained = {item.name for item in recipe.parameters if item.trained}
        ordered = sorted(self._parameters.items())
        self._trained = [(name, tensor) for name, tensor in ordered if name in trained]
        self._still = [(name, tensor) for name, tensor in ordered if name not in trained]
        if ema is not None:
            ema.start(item.name for item in recipe.parameters if item.trained)
        self._recorded = {spec.name: TORCH_DTYPES[spec.dtype] for spec in get_model_specs(recipe)}
        self._model = [
            _Held(name, tensor, tensor.nbytes, self._recorded[name])
            for name, tensor in sorted(self._tensors.items())
        ]
        self._slot_names = sorted(spec.name for spec in get_optimizer_specs(recipe, step=1))
        self._slots: list[_Held] = []
        self._optimizer_state = optimizer.state
        self._versions = self._get_versions()
        self._held: list[torch.Tensor] = []
        self._held_versions: list[int] = []
        """The gradients of the last step with their versions, unless they were copied."""
        self._reused = False
        """Whether the next step writes into the gradients of the last one."""
        self._rounds = any(each.tensor.dtype is not each.recorded for each in self._model)

    def get_start(self) -> dict[str, Array]:
        """Snapshot 0 as views: the model alone, because a fresh optimizer has no state.

        Raises RecordingError (not-finite).
        """
        for name, tensor in self._tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise RecordingError(
                    f"{MODEL_PREFIX}{name} holds NaN or infinity before training",
                    slug="not-finite",
                )
        return {
            MODEL_PREFIX + name: tensor.detach().to(CPU, self._recorded[name]).numpy()
            for name, tensor in self._tensors.items()
        }

    def follow_gradients(self, images: StepImages | None) -> None:
        """Before the optimizer's step: round the gradients to what is recorded.

        Copies them into `images`, if there are any, and otherwise only holds them, because a run
        may end with any step.  Raises RecordingError (undeclared-change).
        """
        for name, parameter in self._still:
            if parameter.grad is not None:
                raise RecordingError(
                    f"{name} has a gradient, which it had not when recording began. Freeze or"
                    " unfreeze parameters before making the run",
                    slug="undeclared-change",
                )
        raw = []
        dtype = self._profile.dtype
        for name, parameter in self._trained:
            gradient = parameter.grad
            if gradient is None or gradient.dtype is not dtype:
                raise RecordingError(
                    f"{name} has no {dtype} gradient at opt.step(), but had one when"
                    " recording began. Was loss.backward() called for this batch?",
                    slug="undeclared-change",
                )
            raw.append(gradient)
        self._profile.round_gradients(raw)
        if images is not None:
            self._held = []
            _copy_gradients(images, raw)
            return
        # A loop that zeroes its gradients, and does not drop them, writes into those held.
        self._reused = self._reused or any(map(operator.is_, raw, self._held))
        self._held = [gradient.clone() for gradient in raw] if self._reused else raw
        self._held_versions = [gradient._version for gradient in self._held]

    def copy_last(self, images: StepImages) -> None:
        """Copy what the last step left, which was not to end its stride but ends the run.

        Raises RecordingError (undeclared-change) if its gradients were written to since.
        """
        if [gradient._version for gradient in self._held] != self._held_versions:
            raise RecordingError(
                "the run ends after a step whose gradients were overwritten, and within the steps"
                " of one digest. End it before zero_grad, or record with stride=1",
                slug="undeclared-change",
            )
        _copy_gradients(images, self._held)
        self._copy_state(images)

    def follow_step(self, images: StepImages | None) -> None:
        """After the optimizer's step: average, then round everything to what is recorded.

        Copies the state into `images`, if there are any.  Raises RecordingError.
        """
        if self._optimizer.state is not self._optimizer_state:
            raise RecordingError(
                "the optimizer's state was replaced during the run (load_state_dict?); record the"
                " run from its start",
                slug="undeclared-change",
            )
        if self._ema is not None:
            self._ema.update()
        if not self._slots and self._slot_names:
            self._slots = self._find_slots()
        if images is not None:
            self._copy_state(images)
        elif self._rounds:
            _find_places(self._model)
            _find_places(self._slots)
        self._versions = self._get_versions()

    def _copy_state(self, images: StepImages) -> None:
        model, optimizer = _find_places(self._model), _find_places(self._slots)
        images.model.fill(model.addresses)
        images.optimizer.fill(optimizer.addresses)

    def validate_unchanged(self) -> None:
        """Raises RecordingError if weights or buffers changed since the last optimizer step."""
        versions = self._get_versions()
        if versions != self._versions:
            name = next(
                name
                for name, old, new in zip(self._tensors, self._versions, versions, strict=True)
                if old != new
            )
            raise RecordingError(
                f"{name} was changed between two steps by something other than the optimizer"
                " (weight clipping, an average, validation in training mode?). A verifier would"
                " not repeat that; only what loss= and the optimizer do can be recorded",
                slug="undeclared-change",
            )

    def _get_versions(self) -> list[int]:
        return [tensor._version for tensor in self._tensors.values()]

    def _find_slots(self) -> list[_Held]:
        """The optimizer's tensors and the averages in name order, once it has made them."""
        found = collect_optimizer_slots(self._optimizer, self._parameters)
        found |= name_slots(self._ema.averages) if self._ema is not None else {}
        if sorted(found) != self._slot_names:
            odd = ", ".join(sorted(set(found) ^ set(self._slot_names))[:3])
            raise RecordingError(
                f"the optimizer keeps other state than its settings imply: {odd}",
                slug="unsupported-optimizer",
            )
        return [
            _Held(name, tensor, tensor.nbytes, torch.float32)
            for name, tensor in sorted(found.items())
        ]


class _Places(NamedTuple):
    """Where recorded values lie, and what must live as long as they are read."""

    addresses: list[int]
    copies: list[torch.Tensor]


def _copy_gradients(images: StepImages, gradients: Sequence[torch.Tensor]) -> None:
    recorded = [gradient.to(CPU, torch.float32).contiguous() for gradient in gradients]
    images.gradient.fill([gradient.data_ptr() for gradient in recorded])


def _find_places(held: Sequence[_Held]) -> _Places:
    """Round what is computed in another type than it is recorded in; where the values lie.

    On the processor: what lies on a GPU is copied there.
    """
    addresses = [get_address(name, tensor, size) for name, tensor, size, _ in held]
    if all(tensor.dtype is recorded and tensor.is_cpu for _, tensor, _, recorded in held):
        return _Places(addresses, [])
    rounded = round_tensors([each.tensor for each in held], [each.recorded for each in held])
    copies = [tensor.detach().cpu() for tensor in rounded]
    return _Places([tensor.data_ptr() for tensor in copies], copies)
