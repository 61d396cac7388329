"""A running average of the weights, as part of a run's state.

    ema = milepost.EMA(model, decay=0.999)
    run = milepost.Run("lenet", model, optimizer, ..., ema=ema)
    ...
    with run.paused(), ema.applied():
        evaluate(model)
    averaged = ema.make_model()

The run updates the averages after every step of the optimizer, writes them into its snapshots and
has them trained again.  The model that a run submits is the trained one, not the averaged one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from milepost_ml.errors import RecordingError
from milepost_ml.updates import AVERAGE


class EMA:
    """The exponential moving average of a model's parameters; buffers are the model's own.

    A step makes `decay * average + (1 - decay) * weight` of an average, as torch.lerp computes it.
    """

    def __init__(self, model: torch.nn.Module, *, decay: float) -> None:
        """Raises RecordingError (bad-plan) unless 0 <= decay < 1."""
        if not 0 <= decay < 1:
            raise RecordingError(f"decay={decay}: an average decays by 0 to 1", slug="bad-plan")
        self.decay = float(decay)
        self._model = model
        self._parameters = dict(model.named_parameters())
        self.averages: dict[str, torch.Tensor] = {}
        """By the parameter's name; those without one are not trained and their own average."""
        self.start(name for name, item in self._parameters.items() if item.requires_grad)

    def is_of(self, model: torch.nn.Module) -> bool:
        """Whether it averages this model."""
        return model is self._model

    def start(self, names: Iterable[str]) -> None:
        """Begin to average the parameters of these names at what they are now."""
        self.averages = {name: self._parameters[name].detach().clone() for name in names}

    def update(self) -> None:
        """After a step of the optimizer."""
        update_averages(self.averages, self._parameters, self.decay)

    def release(self) -> None:
        """The run is over: averages are float32, as they are recorded."""
        self.averages = {name: each.to(torch.float32) for name, each in self.averages.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averages; inside a run only within `run.paused()`."""
        kept = {name: self._parameters[name].data for name in self.averages}
        for name, average in self.averages.items():
            self._parameters[name].data = average.to(kept[name].dtype)
        try:
            yield
        finally:
            for name, data in kept.items():
                self._parameters[name].data = data

    def make_model(self) -> torch.nn.Module:
        """A copy of the model that holds the averages."""
        with self.applied():
            return copy.deepcopy(self._model)


@torch.no_grad()
def update_averages(
    averages: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], decay: float
) -> None:
    """One step of running averages, in place."""
    for name, average in averages.items():
        average.lerp_(parameters[name], 1 - decay)


def name_slots(averages: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Averages by the names under which they are recorded, beside the optimizer's tensors."""
    return {f"{name}.{AVERAGE}": average for name, average in averages.items()}
