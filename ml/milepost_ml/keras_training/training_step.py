"""One step of a Keras model, traced the same way by whoever records and whoever retrains it.

Keras's own training function holds more than the step (metrics, running means), and what surrounds
a step may change how it is computed.  So both sides trace this function and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from milepost_consensus.crypto import compute_digest
from milepost_ml.keras_graph import KerasGraph, Outline
from milepost_ml.keras_optimizers import KerasOptimizer
from milepost_ml.keras_training.building import (
    get_seed_states,
    get_variables,
    make_loss,
    run_layers,
)
from milepost_ml.keras_training.device import load_keras

if TYPE_CHECKING:
    from milepost_ml.digests import Array

_SLOTS: Final = {
    "momentum": ("momentums", "_momentums"),
    "velocity": ("_velocities",),
    "velocity_hat": ("_velocity_hats",),
}
"""Where Keras's optimizers keep their tensors."""


class StepOutput(NamedTuple):
    """Tensors of TensorFlow: what one step computed, all from before its update."""

    loss: Any
    gradients: list[Any]
    """Of the trained parameters, in their order."""
    output: Any
    rate: Any
    """The learning rate that the optimizer used."""


class TrainingStep:
    """The step of a graph over built layers and an optimizer, whose variables it changes."""

    def __init__(
        self, graph: KerasGraph, declared: KerasOptimizer, layers: Sequence[Any], optimizer: Any
    ) -> None:
        tf = load_keras().tf
        self._graph, self._layers, self._optimizer = graph, layers, optimizer
        self.variables = get_variables(graph, layers)
        """Of the model, by name."""
        weights = {name: trained for name, _, trained in Outline(graph).iterate_weights()}
        self.trained = [name for name, trained in weights.items() if trained]
        self._updated = [self.variables[name] for name in self.trained]
        if not optimizer.built:
            optimizer.build(self._updated)
        self.slots = {
            f"{name}.{slot}": _find_slot(optimizer, slot, self.variables[name])
            for name in self.trained
            for slot in declared.get_slots()
        }
        """The optimizer's variables, by name."""
        self._loss = make_loss(graph.loss)
        self._seeds = get_seed_states(layers)
        self._run = tf.function(self._compute, autograph=False)
        self._read = tf.function(self._collect, autograph=False)

    def run(self, inputs: Sequence[Array], target: Array) -> StepOutput:
        """Do a step; the gradients are as autodiff gives them, before any clipping."""
        return StepOutput(*self._run([_as_tensor(each) for each in inputs], _as_tensor(target)))

    def read_state(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Views of the model's and of the optimizer's variables, valid until the next step."""
        names = (*self.variables, *self.slots)
        arrays = dict(zip(names, map(np.asarray, self._read()), strict=True))
        model = {name: arrays[name] for name in self.variables}
        return model, {name: arrays[name] for name in self.slots}

    def reseed(self, seed: bytes, step: int) -> None:
        """Key the random numbers of the next step, a generator at a time."""
        for place, state in enumerate(self._seeds):
            state.assign(compute_generator_state(seed, step, place))

    def _compute(self, inputs: Sequence[Any], target: Any) -> tuple[Any, ...]:
        tf = load_keras().tf
        cast = [
            tf.cast(value, item.dtype)
            for value, item in zip(inputs, self._graph.inputs, strict=True)
        ]
        with tf.GradientTape() as tape:
            output = run_layers(self._graph, self._layers, cast)
            loss = self._loss(target, output)
        found = tape.gradient(loss, [variable.value for variable in self._updated])
        for name, gradient in zip(self.trained, found, strict=True):
            if gradient is None:
                raise ValueError(f"{name} gets no gradient")
        gradients = [tf.convert_to_tensor(gradient) for gradient in found]
        rate = tf.convert_to_tensor(self._optimizer.learning_rate)
        self._optimizer.apply(gradients, self._updated)
        return loss, gradients, output, rate

    def _collect(self) -> list[Any]:
        held = (*self.variables.values(), *self.slots.values())
        return [variable.value.read_value() for variable in held]


def _as_tensor(array: Array) -> Any:
    return load_keras().tf.constant(array)


def _find_slot(optimizer: Any, slot: str, variable: Any) -> Any:
    places = next(held for name in _SLOTS[slot] if (held := getattr(optimizer, name, None)))
    return places[optimizer._get_variable_index(variable)]


def compute_generator_state(seed: bytes, step: int, place: int) -> Array:
    """What seed generator number `place` holds before a step: two numbers below 2^32, int64."""
    digest = compute_digest("keras", seed + step.to_bytes(8, "big") + place.to_bytes(4, "big"))
    return np.frombuffer(digest[:8], dtype=">u4").astype(np.int64)


def assign_values(variables: Mapping[str, Any], values: Mapping[str, Array]) -> None:
    """Give variables the values of the same names; zeros where there is none."""
    for name, variable in variables.items():
        found = values.get(name)
        variable.assign(np.zeros(variable.shape, np.float32) if found is None else found)
