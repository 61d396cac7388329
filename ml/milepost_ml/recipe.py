"""The recipe: everything about a run that is not data or state, as a declaration.

A recipe says what is computed (a graph of listed operators, or of listed Keras layers), from what
(shapes of parameters, buffers and data), what the weights start from, how they are updated
(`updates`) and in which order (seed, batch size).  It is data: reading one computes nothing.
`decode_recipe` refuses whatever `validate_recipe` does not allow, so holders of a decoded recipe
rely on its soundness.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from milepost_consensus.crypto import compute_digest
from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import (
    MAX_INTERVALS,
    MAX_RECORDS,
    MAX_STEPS_PER_DIGEST,
    MAX_STEPS_PER_INTERVAL,
)
from milepost_consensus.payloads import CLASS, KNOWN_PROFILES, validate_device_class
from milepost_consensus.step_digests import count_strides, get_stride
from milepost_consensus.tolerance import validate_tolerance
from milepost_ml.augmentation import Transformation, validate_augmentation
from milepost_ml.digests import ITEM_BYTES, MODEL_PREFIX, OPTIMIZER_PREFIX
from milepost_ml.errors import InvalidRecord
from milepost_ml.initial import Initial, Parent, validate_initial
from milepost_ml.keras_graph import DEVICE_PREFIX, KerasGraph, validate_keras_graph
from milepost_ml.keras_optimizers import KerasOptimizer
from milepost_ml.nodes import Graph, validate_graph
from milepost_ml.snapshots import MAX_HEADER_BYTES, TensorSpec, encode_header
from milepost_ml.updates import (
    AVERAGE,
    Clip,
    Group,
    Rates,
    expand_rates,
    get_slots,
    has_counter,
    validate_clip,
    validate_decay,
    validate_groups,
)

FORMAT: Final = "milepost/recipe/1"
MAX_RECIPE_BYTES: Final = 16 * 1024 * 1024
MAX_TENSORS: Final = 10_000
MAX_DATA: Final = 8
MAX_STATE_BYTES: Final = 2**36
MAX_BATCH: Final = 2**20
RATE_UNITS: Final = 10**9
"""Rate sums count learning rates in units of 10^-9."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")
_SEED: Final = re.compile(r"[0-9a-f]{64}")
_MAX_INT: Final = 2**63 - 1


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A float32 tensor of the model; `trained` if a step gives it a gradient."""

    name: str
    shape: tuple[int, ...]
    trained: bool


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run declares."""

    device_class: str
    seed: str
    """64 hexadecimal digits."""
    data: tuple[TensorSpec, ...]
    """The data tensors "data.0", ...; the first dimension of each counts the records."""
    batch_size: int
    steps: int
    steps_per_interval: int
    steps_per_digest: int
    """How many steps a step digest covers: the stride."""
    parameters: tuple[Parameter, ...]
    buffers: tuple[TensorSpec, ...]
    initial: tuple[Initial, ...]
    """What each tensor of the model starts from, in the order of `get_model_specs`."""
    groups: tuple[Group, ...]
    graph: Graph | KerasGraph
    profile: str
    tolerance_ppb: int = 0
    """For profile `tolerance`: how far an interval's end may lie off, in 10^-9 of its movement."""
    clip: Clip | None = None
    accumulate: int = 1
    """How many batches make one step; their losses are each divided by this number."""
    augment: tuple[Transformation, ...] = ()
    """What happens to the records of "data.0" before a batch is fed, in order."""
    ema_decay: float | None = None
    """Of a running average of the trained parameters, which then is a part of the state."""
    autocast: Literal["bfloat16"] | None = None
    """What PyTorch's autocast computes forward and loss in."""
    format: str = FORMAT

    @property
    def records(self) -> int:
        return self.data[0].shape[0]

    @property
    def intervals(self) -> int:
        return -(-self.steps // self.steps_per_interval)

    @property
    def records_per_step(self) -> int:
        return self.accumulate * self.batch_size

    @property
    def seed_bytes(self) -> bytes:
        return bytes.fromhex(self.seed)


def get_steps(recipe: Recipe, interval: int) -> range:
    """The step numbers of an interval; step t leads from state t to state t + 1."""
    first = interval * recipe.steps_per_interval
    return range(first, min(first + recipe.steps_per_interval, recipe.steps))


def get_strides(recipe: Recipe, interval: int) -> list[range]:
    """The steps of an interval, cut into what its step digests cover."""
    steps, size = get_steps(recipe, interval), recipe.steps_per_digest
    return [get_stride(steps, size, place) for place in range(count_strides(steps, size))]


def get_rates(recipe: Recipe, steps: range) -> tuple[float, ...]:
    """The learning rates of consecutive steps; of several groups their mean over all weights."""
    elements = count_elements(recipe)
    parts = [expand_rates(group.rates, steps) for group in recipe.groups]
    return tuple(compute_mean_rate(rates, elements) for rates in zip(*parts, strict=True))


def set_rates(recipe: Recipe, steps: int, rates: Sequence[Rates]) -> Recipe:
    """The recipe of so many steps with these learning rates, one run-length list a group."""
    groups = tuple(
        msgspec.structs.replace(group, rates=each)
        for group, each in zip(recipe.groups, rates, strict=True)
    )
    return msgspec.structs.replace(recipe, steps=steps, groups=groups)


def count_elements(recipe: Recipe) -> tuple[int, ...]:
    """How many numbers each group trains."""
    sizes = {item.name: math.prod(item.shape) for item in recipe.parameters}
    return tuple(sum(sizes[name] for name in group.parameters) for group in recipe.groups)


def compute_mean_rate(rates: Sequence[float], elements: Sequence[int]) -> float:
    """One step's learning rate over groups of so many trained numbers each.

    Of several groups it is the mean over all numbers, in whole units of 10^-9, rounded down.
    """
    if len(rates) == 1:
        return rates[0]
    total = sum(
        count * round(rate * RATE_UNITS) for rate, count in zip(rates, elements, strict=True)
    )
    return (total // sum(elements)) / RATE_UNITS


def compute_rate_sum(rates: Sequence[float]) -> int:
    """The sum of learning rates in units of 10^-9, each rounded by itself."""
    return sum(round(rate * RATE_UNITS) for rate in rates)


def get_model_specs(recipe: Recipe) -> tuple[TensorSpec, ...]:
    """The tensors of the model: parameters, then buffers."""
    parameters = (TensorSpec(item.name, "F32", item.shape) for item in recipe.parameters)
    return (*parameters, *recipe.buffers)


def get_optimizer_specs(recipe: Recipe, step: int) -> tuple[TensorSpec, ...]:
    """The tensors besides the model's after `step` steps, named "<parameter>.<slot>".

    A running average is one of the slots.  Before the first step there are none: the optimizer is
    fresh, and the averages are the parameters themselves.
    """
    if step == 0:
        return ()
    owners = {name: group.optimizer for group in recipe.groups for name in group.parameters}
    specs = []
    for item in recipe.parameters:
        if item.trained:
            optimizer = owners[item.name]
            specs += [
                TensorSpec(f"{item.name}.{slot}", "F32", item.shape)
                for slot in get_slots(optimizer)
            ]
            specs += [TensorSpec(f"{item.name}.step", "F32", ())] * has_counter(optimizer)
            if recipe.ema_decay is not None:
                specs.append(TensorSpec(f"{item.name}.{AVERAGE}", "F32", item.shape))
    return tuple(specs)


def get_snapshot_specs(recipe: Recipe, step: int) -> tuple[TensorSpec, ...]:
    """Exactly the tensors of a snapshot after `step` steps."""
    return (
        *(
            TensorSpec(MODEL_PREFIX + spec.name, spec.dtype, spec.shape)
            for spec in get_model_specs(recipe)
        ),
        *(
            TensorSpec(OPTIMIZER_PREFIX + spec.name, spec.dtype, spec.shape)
            for spec in get_optimizer_specs(recipe, step)
        ),
    )


def get_frozen_names(recipe: Recipe) -> frozenset[str]:
    """The tensors of a snapshot that no step changes: parameters that are not trained.

    Only the file of snapshot 0 holds them.
    """
    return frozenset(MODEL_PREFIX + item.name for item in recipe.parameters if not item.trained)


def encode_recipe(recipe: Recipe) -> bytes:
    """The canonical JSON of a recipe."""
    return msgspec.json.encode(recipe)


def compute_recipe_digest(data: bytes) -> bytes:
    """The digest of a recipe's canonical bytes."""
    return compute_digest("recipe", data)


def compute_unseeded_digest(recipe: Recipe) -> bytes:
    """The digest of everything but the seed: what a registration fixes before there is a seed."""
    return compute_digest(
        "unseeded-recipe", encode_recipe(msgspec.structs.replace(recipe, seed=""))
    )


def is_continued(recipe: Recipe) -> bool:
    """Whether the model starts as a parent's final one; `validate_recipe` allows no mixture."""
    return isinstance(recipe.initial[0], Parent)


def decode_recipe(data: bytes) -> Recipe:
    """Read a recipe; raises InvalidRecord: bad-recipe, or unknown-operator by name."""
    if len(data) > MAX_RECIPE_BYTES:
        raise _bad(f"it has {len(data)} bytes, the limit is {MAX_RECIPE_BYTES}")
    try:
        recipe = msgspec.json.decode(data, type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The name of an unknown field may be as long as the file.
        raise _bad(str(error)[:300]) from error
    validate_recipe(recipe)
    if encode_recipe(recipe) != data:
        raise _bad("the bytes are not its canonical encoding")
    return recipe


def _bad(what: str) -> InvalidRecord:
    return InvalidRecord(f"the recipe cannot be used: {what}", slug="bad-recipe")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _bad(what)


def validate_recipe(recipe: Recipe) -> None:
    """Raises InvalidRecord unless a verifier can follow the recipe within all limits."""
    _require(recipe.format == FORMAT, f"its format is not {FORMAT}")
    _require(recipe.profile in KNOWN_PROFILES, f"{recipe.profile[:16]!r} is no arithmetic profile")
    device = recipe.device_class
    _require(0 < len(device) <= 128 and device.isascii() and device.isprintable(), "device_class")
    try:
        validate_device_class(recipe.profile, device)
        validate_tolerance(
            recipe.profile,
            recipe.tolerance_ppb,
            steps_per_interval=recipe.steps_per_interval,
            steps_per_digest=recipe.steps_per_digest,
        )
    except InvalidInput as error:
        raise _bad(str(error)) from error
    _require(
        recipe.autocast is None
        or (recipe.profile == CLASS and recipe.autocast in recipe.device_class.split("/")),
        f"autocast needs profile {CLASS} and a device class of {recipe.autocast}",
    )
    _require(_SEED.fullmatch(recipe.seed) is not None, "the seed is not 64 hexadecimal digits")
    _validate_plan(recipe)
    trained = [item.name for item in recipe.parameters if item.trained]
    validate_groups(recipe.groups, trained, recipe.steps)
    validate_clip(recipe.clip)
    validate_decay(recipe.ema_decay)
    _validate_tensors(recipe)
    if isinstance(recipe.graph, KerasGraph):
        _validate_keras(recipe, recipe.graph)
        return
    _require(
        not (_is_trained_by_keras(recipe) or device.startswith(DEVICE_PREFIX)),
        "a graph of operators does not run in Keras",
    )
    known = {
        "parameter": {item.name for item in recipe.parameters},
        "buffer": {spec.name for spec in recipe.buffers},
        "data": {spec.name for spec in recipe.data},
    }
    validate_graph(recipe.graph, known)


def _is_trained_by_keras(recipe: Recipe) -> bool:
    return isinstance(recipe.groups[0].optimizer, KerasOptimizer)


def _validate_keras(recipe: Recipe, graph: KerasGraph) -> None:
    _require(
        recipe.profile == CLASS and recipe.device_class.startswith(DEVICE_PREFIX),
        f"Keras layers need profile {CLASS} and a device class of TensorFlow",
    )
    _require(_is_trained_by_keras(recipe), "Keras layers need Keras's optimizer")
    extras = (recipe.clip, recipe.ema_decay, recipe.accumulate, recipe.augment)
    _require(
        extras == (None, None, 1, ()) and recipe.autocast is None,
        "Keras layers are trained without accumulation, augmentation, autocast and running average,"
        " and clipped by their optimizer",
    )
    outline = validate_keras_graph(graph, recipe.data, batch_size=recipe.batch_size)
    derived = list(outline.iterate_weights())
    _require(
        recipe.parameters
        == tuple(
            Parameter(name, weight.shape, trained)
            for name, weight, trained in derived
            if not weight.moving
        )
        and recipe.buffers
        == tuple(
            TensorSpec(name, "F32", weight.shape) for name, weight, _ in derived if weight.moving
        ),
        "its tensors are not those of its layers",
    )
    trained = tuple(item.name for item in recipe.parameters if item.trained)
    _require(
        [group.parameters for group in recipe.groups] == [trained],
        "Keras has one parameter group, in the order of the model",
    )


def _validate_plan(recipe: Recipe) -> None:
    count = len(recipe.data)
    _require(1 <= count <= MAX_DATA, f"{count} data tensors, 1 to {MAX_DATA} are possible")
    for index, spec in enumerate(recipe.data):
        _validate_spec(spec)
        _require(spec.name == f"data.{index}", f"data tensor {index} is called {spec.name!r}")
        _require(
            len(spec.shape) >= 1 and spec.shape[0] == recipe.data[0].shape[0],
            "the data tensors do not have equally many records",
        )
    _require(1 <= recipe.records <= MAX_RECORDS, f"{recipe.records} records")
    high = min(MAX_BATCH, recipe.records)
    _require(1 <= recipe.batch_size <= high, f"batch size {recipe.batch_size}, at most {high}")
    _require(
        recipe.accumulate >= 1 and recipe.records_per_step <= MAX_BATCH,
        f"{recipe.accumulate} batches of {recipe.batch_size} accumulated, {MAX_BATCH} records are"
        " possible",
    )
    validate_augmentation(recipe.augment, recipe.data[0])
    _require(
        1 <= recipe.steps_per_interval <= MAX_STEPS_PER_INTERVAL
        and recipe.steps >= 1
        and recipe.intervals <= MAX_INTERVALS,
        f"{recipe.steps} steps in intervals of {recipe.steps_per_interval}, at most"
        f" {MAX_INTERVALS} intervals of {MAX_STEPS_PER_INTERVAL} are possible",
    )
    most = min(MAX_STEPS_PER_DIGEST, recipe.steps_per_interval)
    _require(
        1 <= recipe.steps_per_digest <= most,
        f"{recipe.steps_per_digest} steps in a digest, 1 to {most} are possible",
    )


def _validate_spec(spec: TensorSpec) -> None:
    _require(_NAME.fullmatch(spec.name) is not None, f"the tensor name {spec.name[:80]!r}")
    _require(spec.dtype in ITEM_BYTES, f"{spec.name} has the unknown dtype {spec.dtype[:16]!r}")
    _require(
        len(spec.shape) <= 16 and all(0 < length <= _MAX_INT for length in spec.shape),
        f"{spec.name} has an impossible shape",
    )
    _require(spec.size_bytes <= MAX_STATE_BYTES, f"{spec.name} has {spec.size_bytes} bytes")


def _validate_tensors(recipe: Recipe) -> None:
    specs = get_model_specs(recipe)
    _require(1 <= len(specs) <= MAX_TENSORS, f"{len(specs)} tensors, 1 to {MAX_TENSORS} allowed")
    for spec in specs:
        _validate_spec(spec)
    _require(len({spec.name for spec in specs}) == len(specs), "two tensors have the same name")
    _require(
        len(recipe.initial) == len(specs),
        f"{len(specs)} tensors have {len(recipe.initial)} initial declarations",
    )
    for spec, initial in zip(specs, recipe.initial, strict=True):
        validate_initial(initial, spec)
    _require(
        len({isinstance(initial, Parent) for initial in recipe.initial}) == 1,
        "a part of the model starts as a parent's, which takes the whole of it",
    )
    _require(any(item.trained for item in recipe.parameters), "no parameter is trained")
    state = get_snapshot_specs(recipe, recipe.steps)
    _require(
        len(encode_header(state)) <= MAX_HEADER_BYTES,
        f"the names of {len(state)} tensors do not fit into a header of {MAX_HEADER_BYTES} bytes",
    )
    total = sum(spec.size_bytes for spec in state)
    _require(total <= MAX_STATE_BYTES, f"a state of {total} bytes, the limit is {MAX_STATE_BYTES}")
