"""The recipe of a Keras run before its first step, and the learning rates that it will have."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milepost_consensus.payloads import CLASS
from milepost_ml.digests import get_dtype_name
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.frameworks.keras_initial import choose_initial
from milepost_ml.frameworks.keras_reading import Described
from milepost_ml.initial import Distribution, Initial
from milepost_ml.keras_graph import Outline
from milepost_ml.keras_training.device import load_keras
from milepost_ml.keras_training.device_class import compute_device_class
from milepost_ml.rates import validate_foreseen, validate_recorded
from milepost_ml.recipe import Parameter, Recipe, set_rates, validate_recipe
from milepost_ml.run_folder import Progress
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import Group, expand_rates

if TYPE_CHECKING:
    from milepost_ml.digests import Array


def declare(
    described: Described,
    arrays: Sequence[Array],
    *,
    seed: bytes,
    batch_size: int,
    every: int,
    initial: Mapping[str, Distribution] | Initial,
) -> Recipe:
    """The recipe of a model, but for steps and rates.

    `initial` is one declaration for all tensors, or distributions by name, where what is left out
    starts by its layer's initializer.  Raises RecordingError.
    """
    graph, optimizer, _ = described
    try:
        tensors = list(Outline(graph).iterate_weights())
        if isinstance(initial, Mapping):
            chosen: Mapping[str, Initial] = choose_initial(described, initial)
        else:
            chosen = {name: initial for name, _, _ in tensors}
        trained = tuple(name for name, _, trained in tensors if trained)
        parameters = tuple(
            Parameter(name, weight.shape, trained)
            for name, weight, trained in tensors
            if not weight.moving
        )
        buffers = tuple(
            TensorSpec(name, "F32", weight.shape) for name, weight, _ in tensors if weight.moving
        )
        names = [item.name for item in parameters] + [spec.name for spec in buffers]
        recipe = Recipe(
            device_class=compute_device_class(),
            seed=seed.hex(),
            data=tuple(
                TensorSpec(f"data.{place}", get_dtype_name(array.dtype), array.shape)
                for place, array in enumerate(arrays)
            ),
            batch_size=batch_size,
            steps=0,
            steps_per_interval=every,
            steps_per_digest=1,
            parameters=parameters,
            buffers=buffers,
            initial=tuple(chosen[name] for name in names),
            groups=(Group(trained, optimizer, ()),),
            graph=graph,
            profile=CLASS,
        )
        validate_recipe(set_rates(recipe, 1, [((1, 0.0),)]))
    except InvalidRecord as error:
        raise RecordingError(str(error), slug=error.slug) from error
    return recipe


def describe_environment(device_class: str) -> dict[str, str | int]:
    """What run.json says for people about where a run was made."""
    tf, keras = load_keras()
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processors": os.cpu_count() or 0,
        "threads": 1,
        "device_class": device_class,
    }


def foresee_rates(
    optimizer: Any, schedule: Sequence[float] | None, steps: int
) -> list[tuple[float, ...]]:
    """The learning rate of every step before the first is done.

    As given, else by the optimizer's own schedule, else its present rate.  Raises RecordingError
    (bad-plan).
    """
    rates: list[tuple[float, ...]]
    if schedule is not None:
        rates = [(float(np.float32(rate)),) for rate in schedule]
    elif _has_schedule(optimizer):
        rates = _follow(optimizer, steps)
    else:
        rates = [(float(optimizer.learning_rate),)] * steps
    validate_foreseen(rates, steps=steps, groups=1)
    return rates


def read_recorded_rates(optimizer: Any, progress: Progress) -> tuple[float, ...]:
    """The learning rates of the steps done so far.

    Raises RecordingError (cannot-resume) if the optimizer has another schedule than it had.
    """
    if not progress.steps:
        return ()
    (runs,) = progress.rates
    recorded = expand_rates(runs, range(progress.steps))
    if _has_schedule(optimizer):
        for step, scheduled in enumerate(_follow(optimizer, progress.steps)):
            validate_recorded(step, scheduled, (recorded[step],))
    return recorded


def set_rate(optimizer: Any, rate: float) -> None:
    """Give an optimizer a learning rate, unless its own follows the count of steps."""
    if isinstance(optimizer._learning_rate, load_keras().keras.Variable):
        optimizer.learning_rate = rate


def _has_schedule(optimizer: Any) -> bool:
    """Whether the rate is a function of the steps done, and not a variable."""
    schedules = load_keras().keras.optimizers.schedules
    return isinstance(optimizer._learning_rate, schedules.LearningRateSchedule)


def _follow(optimizer: Any, steps: int) -> list[tuple[float, ...]]:
    """What an optimizer's schedule gives the first steps, computed as a step computes it."""
    tf = load_keras().tf
    compute = tf.function(optimizer._learning_rate, autograph=False)
    kind = optimizer.iterations.dtype
    return [(float(compute(tf.constant(step, kind))),) for step in range(steps)]
