"""Runs a captured graph beside the model it was captured from, before anything is recorded.

Loss and gradients must agree bit for bit in the arithmetic of the run; where they do not, no
verifier would get what the training got.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.errors import RecordingError, RefusedOperator
from milepost_ml.gpus import keep_generators
from milepost_ml.graph import GraphRunner
from milepost_ml.nodes import Graph

Loss = Callable[[Any, Any], torch.Tensor]
"""Of a model's output and the target, which is the last tensor of a batch."""


class WholeStep(NamedTuple):
    """How frameworks compute a loss: from the model and all tensors of a batch.

    `compute` is a plain function.  It is called with copies of the model as well, and does nothing
    to anything else.
    """

    compute: Callable[[torch.nn.Module, Sequence[torch.Tensor]], torch.Tensor]


class StepModule(torch.nn.Module):
    """The forward-and-loss computation of one step."""

    def __init__(self, model: torch.nn.Module, loss: Loss | WholeStep) -> None:
        super().__init__()
        self.model = model
        self._loss = (loss,)  # in a tuple, so that a loss module is not registered as a part

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        (loss,) = self._loss
        if isinstance(loss, WholeStep):
            return loss.compute(self.model, batch)
        return loss(self.model(*batch[:-1]), batch[-1])


_Result = tuple[torch.Tensor, dict[str, torch.Tensor | None]]
"""A loss, and the gradients of the parameters."""


def _refuse(what: str, slug: str = "cannot-capture") -> RecordingError:
    return RecordingError(what, slug=slug)


class Rehearsal:
    """One step of a module and of its graph, on copies of the module's tensors."""

    def __init__(
        self,
        module: StepModule,
        graph: Graph,
        batch: Sequence[torch.Tensor],
        generator_seed: int,
        profile: Profile,
    ) -> None:
        self._module, self._graph, self._batch = module, graph, batch
        self._seed, self._profile = generator_seed, profile
        self._nodes_done = 0

    def compare(self, places: Sequence[str]) -> frozenset[str]:
        """The parameters with a gradient, if graph and module agree on all bits.

        `places` says for people where the graph's nodes come from.  Leaves torch's generators as
        they were.  Raises RecordingError: cannot-capture, unknown-operator, no-exact-kernel.
        """
        try:
            with keep_generators(self._profile.device):
                # The graph first: its nodes tell which layer an operator without a kernel is in.
                repeated, found = self._run_graph()
                loss, expected = self._run_module()
        except RefusedOperator as error:
            forward = self._nodes_done < len(places)
            place = places[self._nodes_done] if forward else "the backward pass"
            raise _refuse(
                f"{place} uses {error.operator}, which has no exact kernel ({error.reason})."
                " Profiles rounded and class compute it",
                "no-exact-kernel",
            ) from error
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            raise _refuse(
                "the model uses an operator that PyTorch does not repeat on this device:"
                f" {str(error).splitlines()[0][:300]}"
            ) from error
        for name, gradient in expected.items():
            _compare(name, gradient, found[name])
        if not _is_same(loss, repeated):
            raise _refuse("the captured graph does not give the loss that your model gives")
        return frozenset(name for name, gradient in expected.items() if gradient is not None)

    def _run_graph(self) -> _Result:
        """By the interpreter."""
        model = self._module.model
        parameters = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
            for name, tensor in model.named_parameters()
        }
        buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
        data = {f"data.{index}": tensor for index, tensor in enumerate(self._batch)}
        sources = {"parameter": parameters, "buffer": buffers, "data": data}
        runner = GraphRunner(self._graph, self._profile.device)
        self._differentiate(lambda: runner.run(sources, self._count))
        return self._loss, {name: tensor.grad for name, tensor in parameters.items()}

    def _count(self, _: object) -> None:
        self._nodes_done += 1

    def _run_module(self) -> _Result:
        """By eager PyTorch."""
        twin = copy.deepcopy(self._module)
        twin.model.zero_grad(set_to_none=True)
        self._differentiate(lambda: twin(*self._batch))
        return self._loss, {name: tensor.grad for name, tensor in twin.model.named_parameters()}

    def _differentiate(self, run: Callable[[], torch.Tensor]) -> None:
        self._profile.reseed(self._seed)
        with self._profile.active():
            with self._profile.casting():
                self._loss = run()
            _require_scalar(self._loss, self._profile.dtype)
            self._loss.backward()  # type: ignore[no-untyped-call]


def _require_scalar(loss: Any, dtype: torch.dtype) -> None:
    if not isinstance(loss, torch.Tensor) or loss.shape != () or loss.dtype != dtype:
        raise _refuse(f"loss(output, target) must give one {dtype} number; check loss= of the run")
    if not loss.requires_grad:
        raise _refuse("the loss depends on no parameter that can be trained")


def _compare(name: str, gradient: torch.Tensor | None, other: torch.Tensor | None) -> None:
    """Raises RecordingError if module and graph give a parameter other gradients."""
    if gradient is not None and gradient.is_sparse:
        raise _refuse(f"{name} has sparse gradients; use sparse=False", "sparse-gradients")
    if (gradient is None) != (other is None) or (
        gradient is not None and other is not None and not _is_same(gradient, other)
    ):
        raise _refuse(
            f"the captured graph does not give the gradient of {name} that your model gives."
            " Does forward use Python or numpy randomness, the time, or state that is neither"
            " parameter nor buffer? (LSTM and GRU do not repeat under autocast.)"
        )


def _is_same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equality of all bits; NaN equals NaN."""
    first, second = (tensor.detach().cpu().numpy() for tensor in (left, right))
    return first.tobytes() == second.tobytes()
