"""Which distribution a tensor of a Keras model starts from, by the initializer of its layer.

Keras's initializers draw from TensorFlow's generator; here the same distributions are declared, and
the values then come from the run's seed.  Bell-shaped initializers that cut off at two deviations,
and those that are more than a distribution, have no counterpart and are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from milepost_ml.errors import RecordingError
from milepost_ml.frameworks.keras_reading import Described
from milepost_ml.initial import Constant, Distribution, Normal, Uniform
from milepost_ml.keras_graph import Outline

_KEYS: Final = {"DepthwiseConv2D": {"kernel": "depthwise"}}
"""Where a class calls a tensor's initializer otherwise than the tensor."""
Config = Mapping[str, Any]
Shape = tuple[int, ...]


def choose_initial(
    described: Described, declared: Mapping[str, Distribution]
) -> dict[str, Distribution]:
    """What every tensor starts from: as declared by name, else by its layer's initializer.

    Raises RecordingError (no-initial-rule) for an initializer without a counterpart, and for a
    declared name that is no tensor.
    """
    weights = {name: weight for name, weight, _ in Outline(described.graph).iterate_weights()}
    unknown = sorted(set(declared) - set(weights))
    if unknown:
        raise RecordingError(
            f"initial= names {unknown[0]!r}, which is no tensor of the model. It has"
            f" {', '.join(list(weights)[:5])} ...",
            slug="no-initial-rule",
        )
    chosen: dict[str, Distribution] = {}
    for name, weight in weights.items():
        layer = described.layers[int(name.partition(".")[0])]
        rule = declared.get(name) or _follow(layer, weight.name, weight.shape)
        if rule is None:
            raise RecordingError(
                f"layer {layer.name!r} starts {name} {list(weight.shape)} in a way that cannot be"
                " derived from the seed. Give the layer another initializer (glorot_uniform,"
                f" he_uniform, random_normal), or say what it starts from: initial={{{name!r}:"
                " Normal(0.02)}}, or Uniform(...), Constant(...), all from milepost_ml.initial",
                slug="no-initial-rule",
            )
        chosen[name] = rule
    return chosen


def _follow(layer: Any, weight: str, shape: Shape) -> Distribution | None:
    """The distribution of Keras's own initializer; None without a counterpart."""
    short = weight.rpartition(".")[2]
    key = _KEYS.get(type(layer).__name__, {}).get(short, short)
    initializer = layer.get_config()[f"{key}_initializer"]
    if initializer.get("module") != "keras.initializers":  # a function has none
        return None
    rule = _RULES.get(initializer["class_name"])
    return rule(initializer["config"], shape) if rule is not None else None


def _spread(mode: str, scale: float) -> Callable[[Config, Shape], Distribution]:
    """Uniform with variance `scale` by the units that `mode` counts."""
    return lambda _, shape: Uniform(math.sqrt(3 * scale / _count_units(shape, mode)))


def _count_units(shape: Shape, mode: str) -> float:
    """Inputs, outputs or their mean, as Keras counts them for a tensor of any kind."""
    field = math.prod(shape[:-2])
    units_in, units_out = field * shape[-2 if len(shape) > 1 else -1], field * shape[-1]
    units = {"fan_in": units_in, "fan_out": units_out, "fan_avg": (units_in + units_out) / 2}
    return max(1.0, units[mode])


def _get_uniform(config: Config, _: Shape) -> Distribution | None:
    low, high = config["minval"], config["maxval"]
    return Uniform(high) if low == -high else None


def _get_normal(config: Config, _: Shape) -> Distribution | None:
    return Normal(config["stddev"]) if config["mean"] == 0 else None


def _get_scaled(config: Config, shape: Shape) -> Distribution | None:
    if config["distribution"] != "uniform":
        return None
    return _spread(config["mode"], config["scale"])(config, shape)


_RULES: Final[dict[str, Callable[[Config, Shape], Distribution | None]]] = {
    "Zeros": lambda config, shape: Constant(0.0),
    "Ones": lambda config, shape: Constant(1.0),
    "Constant": lambda config, shape: Constant(float(config["value"])),
    "GlorotUniform": _spread("fan_avg", 1),
    "HeUniform": _spread("fan_in", 2),
    "LecunUniform": _spread("fan_in", 1),
    "RandomNormal": _get_normal,
    "RandomUniform": _get_uniform,
    "VarianceScaling": _get_scaled,
}
