"""Trains the four models for the vectors of training [E31, E32]."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.reference.generator import make_integers, make_values
from tests.reference.models import run_lenet, run_mlp, run_resnet, run_transformer
from tests.reference.optimizers import adam, sgd

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Shapes = Mapping[str, tuple[int, ...]]

STEPS: Final = 100
CLASSES: Final = 10
VOCABULARY: Final = 32
LENGTH: Final = 16


def _make_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _make_linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


class Model(NamedTuple):
    """What is trained, on what and how."""

    shapes: Shapes
    """Parameters in their order."""
    data: tuple[int, ...]
    """Shape of all records' inputs."""
    batch_size: int
    optimizer: Mapping[str, Any]
    run: Callable[[Arrays, Arrays], tuple[Array, Arrays]]
    norms: tuple[str, ...] = ()
    """Layers with running values."""


MODELS: Final[Mapping[str, Model]] = {
    "mlp": Model(
        shapes={
            **_make_linear("fc1", 256, 784),
            **_make_linear("fc2", 128, 256),
            **_make_linear("fc3", CLASSES, 128),
        },
        data=(64, 784),
        batch_size=16,
        optimizer={"kind": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0005},
        run=run_mlp,
    ),
    "lenet": Model(
        shapes={
            "conv1.weight": (6, 1, 5, 5),
            "conv1.bias": (6,),
            "conv2.weight": (16, 6, 5, 5),
            "conv2.bias": (16,),
            **_make_linear("fc1", 120, 400),
            **_make_linear("fc2", 84, 120),
            **_make_linear("fc3", CLASSES, 84),
        },
        data=(64, 1, 28, 28),
        batch_size=16,
        optimizer={"kind": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0005},
        run=run_lenet,
    ),
    "resnet": Model(
        shapes={
            "conv.weight": (8, 1, 3, 3),
            **_make_norm("norm", 8),
            "one.conv1.weight": (8, 8, 3, 3),
            **_make_norm("one.norm1", 8),
            "one.conv2.weight": (8, 8, 3, 3),
            **_make_norm("one.norm2", 8),
            "two.conv1.weight": (16, 8, 3, 3),
            **_make_norm("two.norm1", 16),
            "two.conv2.weight": (16, 16, 3, 3),
            **_make_norm("two.norm2", 16),
            "two.conv3.weight": (16, 8, 1, 1),
            **_make_norm("two.norm3", 16),
            **_make_linear("fc", CLASSES, 16),
        },
        data=(64, 1, 14, 14),
        batch_size=16,
        optimizer={
            "kind": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "nesterov": True,
        },
        run=run_resnet,
        norms=("norm", "one.norm1", "one.norm2", "two.norm1", "two.norm2", "two.norm3"),
    ),
    "transformer": Model(
        shapes={
            "tokens.weight": (VOCABULARY, 32),
            "positions": (LENGTH, 32),
            **_make_norm("norm1", 32),
            **_make_linear("qkv", 96, 32),
            **_make_linear("out", 32, 32),
            **_make_norm("norm2", 32),
            **_make_linear("fc1", 128, 32),
            **_make_linear("fc2", 32, 128),
            **_make_linear("head", VOCABULARY, 32),
        },
        data=(32, LENGTH),
        batch_size=8,
        optimizer={
            "kind": "adamw",
            "lr": 0.003,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.01,
        },
        run=run_transformer,
    ),
}


def _get_fan(name: str, shapes: Shapes) -> int:
    """Inputs of the layer that a weight or bias belongs to."""
    return prod(shapes[name.rpartition(".")[0] + ".weight"][1:])


def make_tensors(name: str) -> Arrays:
    """[E32] parameters and buffers before the first step."""
    model, tensors = MODELS[name], {}
    for key, shape in model.shapes.items():
        layer, _, role = key.rpartition(".")
        if "norm" in layer.rpartition(".")[2]:
            tensors[key] = np.full(shape, 1 if role == "weight" else 0, np.float32)
        elif key in ("tokens.weight", "positions"):
            tensors[key] = make_values(f"{name}/{key}", shape, -2)
        else:
            exponent = -(_get_fan(key, model.shapes).bit_length() // 2)
            tensors[key] = make_values(f"{name}/{key}", shape, exponent)
    for layer in model.norms:
        width = model.shapes[f"{layer}.weight"]
        tensors[f"{layer}.running_mean"] = np.zeros(width, np.float32)
        tensors[f"{layer}.running_var"] = np.ones(width, np.float32)
        tensors[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def _make_records(name: str) -> Arrays:
    """[E32] all inputs and targets of a model."""
    data = MODELS[name].data
    if name != "transformer":
        targets = make_integers(f"{name}/target", data[:1], CLASSES)
        return {"x": make_values(f"{name}/x", data), "target": targets}
    first = make_integers(f"{name}/first", (data[0], 1), VOCABULARY)
    stride = 1 + make_integers(f"{name}/stride", (data[0], 1), 3)
    sequence = (first + stride * np.arange(LENGTH + 1)) % VOCABULARY
    return {"x": sequence[:, :-1], "target": sequence[:, 1:]}


def make_batches(name: str) -> Iterator[Arrays]:
    """[E32] the batches of all steps, in turn."""
    model, records = MODELS[name], _make_records(name)
    for step in range(STEPS):
        rows = (step * model.batch_size + np.arange(model.batch_size)) % model.data[0]
        yield {key: np.ascontiguousarray(values[rows]) for key, values in records.items()}


def compute_digest(tensors: Mapping[str, Array]) -> str:
    """[E32] SHA-256 over name, zero byte and bytes of the tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype == np.float32:
            array = np.where(np.isnan(array), np.float32(np.nan), array).astype("<f4")
        digest.update(name.encode() + b"\0" + array.tobytes())
    return digest.hexdigest()


class Training:
    """A model in training."""

    def __init__(self, name: str) -> None:
        self._model = MODELS[name]
        self.tensors = make_tensors(name)
        slots = ["momentum_buffer"]
        if self._model.optimizer["kind"] != "sgd":
            slots = ["exp_avg", "exp_avg_sq", "step"]
        self._slots = {
            slot: [
                np.zeros(() if slot == "step" else shape, np.float32)
                for shape in self._model.shapes.values()
            ]
            for slot in slots
        }
        self._first = True
        self.gradients: Arrays = {}

    def get_state(self) -> Arrays:
        """Everything the next step depends on, by the names of digests."""
        state = {f"model.{name}": array for name, array in self.tensors.items()}
        for slot, arrays in self._slots.items():
            for name, array in zip(self._model.shapes, arrays, strict=True):
                state[f"optimizer.{name}.{slot}"] = array
        return state

    def run_step(self, batch: Arrays) -> bytes:
        """The loss as four bytes, little-endian."""
        loss, self.gradients = self._model.run(self.tensors, batch)
        settings = dict(self._model.optimizer)
        parameters = [self.tensors[name] for name in self._model.shapes]
        gradients = [self.gradients[name] for name in self._model.shapes]
        if settings.pop("kind") == "sgd":
            settings = {"dampening": 0.0, "nesterov": False, **settings, "first": self._first}
            sgd(parameters, gradients, self._slots["momentum_buffer"], **settings)
        else:
            moments, squares, steps = self._slots.values()
            for step in steps:
                step += 1
            adam(*(parameters, gradients, moments, squares, [], steps), decoupled=True, **settings)
        self._first = False
        return loss.astype("<f4").tobytes()


def make_start(name: str) -> Arrays:
    """The model's tensors before the first step, by the names of digests."""
    return {f"model.{key}": array for key, array in make_tensors(name).items()}


def train(name: str, steps: int = STEPS) -> dict[str, Any]:
    """[E32] the vector of a model: losses, and digests of every tenth step."""
    training, losses, digests = Training(name), [], []
    with np.errstate(all="ignore"):
        for step, batch in zip(range(1, steps + 1), make_batches(name), strict=False):
            losses.append(training.run_step(batch).hex())
            if step % 10 == 0:
                digests.append(
                    {
                        "step": step,
                        "gradients": compute_digest(training.gradients),
                        "state": compute_digest(training.get_state()),
                    }
                )
    return {
        "optimizer": dict(MODELS[name].optimizer),
        "start": compute_digest(make_start(name)),
        "losses": losses,
        "digests": digests,
    }


def render() -> str:
    """The text of tests/vectors/exact/training.json."""
    return json.dumps({name: train(name) for name in MODELS}, indent=1) + "\n"
