"""Gives model, optimizer and schedule of PyTorch the state with which a run starts or goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.optim.lr_scheduler import LRScheduler

from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.averages import EMA
from milepost_ml.declaration import Schedule
from milepost_ml.digests import OPTIMIZER_PREFIX
from milepost_ml.preflight import read_rates
from milepost_ml.rates import validate_recorded
from milepost_ml.run_folder import Progress
from milepost_ml.updates import AVERAGE, expand_rates

if TYPE_CHECKING:
    from milepost_ml.digests import Array


def get_arrays(model: torch.nn.Module) -> dict[str, Array]:
    """The tensors of a model; views where it is in memory."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in _get_tensors(model).items()}


def set_arrays(model: torch.nn.Module, values: Mapping[str, Array]) -> None:
    """Give some tensors of a model, in place, the values of the same names."""
    tensors = _get_tensors(model)
    with torch.no_grad():
        for name, array in values.items():
            tensors[name].copy_(torch.from_numpy(array))


def _get_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    progress: Progress,
    profile: Profile,
    ema: EMA | None,
) -> None:
    """Give a fresh optimizer, and averages, the state of a snapshot, in the profile's types."""
    parameters = dict(model.named_parameters())
    for name, array in sorted(progress.state.items()):
        if name.startswith(OPTIMIZER_PREFIX):
            owner, _, slot = name.removeprefix(OPTIMIZER_PREFIX).rpartition(".")
            tensor = profile.take(torch.from_numpy(array.copy()))
            if slot == AVERAGE and ema is not None:
                ema.averages[owner] = tensor
            else:
                optimizer.state[parameters[owner]][slot] = tensor


def advance_schedule(
    schedule: Schedule | None, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Bring a scheduler to the step at which a run goes on.

    Raises RecordingError (cannot-resume) if it gives other learning rates than were recorded.
    """
    if not isinstance(schedule, LRScheduler):
        return
    steps = range(progress.steps)
    recorded = zip(*(expand_rates(rates, steps) for rates in progress.rates), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it steps before its optimizer
        for step, rates in enumerate(recorded):
            validate_recorded(step, read_rates(optimizer), rates)
            schedule.step()
