"""The Keras optimizers that a recipe may use: their settings, and the tensors that they keep."""

from __future__ import annotations

from typing import Final

import msgspec

from milepost_ml.errors import InvalidRecord

MAX_SETTING: Final = 1e6


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


class _Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all of Keras's optimizers take; None leaves a thing out.

    Each tells with `get_slots` which tensors it keeps for every parameter.
    """

    weight_decay: float | None
    clipnorm: float | None
    global_clipnorm: float | None
    clipvalue: float | None

    def validate(self) -> None:
        """Raises InvalidRecord for settings that no optimizer of Keras takes."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float):
                _require(0 <= value <= MAX_SETTING, f"{name} = {value}")
        clips = (self.clipnorm, self.global_clipnorm, self.clipvalue)
        _require(sum(clip is not None for clip in clips) <= 1, "gradients are clipped twice")
        _require(all(clip is None or clip > 0 for clip in clips), "gradients are clipped to 0")


class KerasSGD(_Optimizer, frozen=True, tag="keras-sgd"):
    """keras.optimizers.SGD."""

    momentum: float
    nesterov: bool

    def get_slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def validate(self) -> None:
        super().validate()
        _require(self.momentum <= 1, f"momentum = {self.momentum}")


class _Moments(_Optimizer, frozen=True):
    beta_1: float
    beta_2: float
    epsilon: float
    amsgrad: bool

    def get_slots(self) -> tuple[str, ...]:
        return ("momentum", "velocity", *(["velocity_hat"] if self.amsgrad else []))

    def validate(self) -> None:
        super().validate()
        _require(max(self.beta_1, self.beta_2) < 1, "a beta is not below 1")


class KerasAdam(_Moments, frozen=True, tag="keras-adam"):
    """keras.optimizers.Adam."""


class KerasAdamW(_Moments, frozen=True, tag="keras-adamw"):
    """keras.optimizers.AdamW."""


KerasOptimizer = KerasSGD | KerasAdam | KerasAdamW
