"""The Keras layers that a recipe may use: their settings, and what follows from them.

Each class here declares the built-in layer of the same name; its fields are that layer's own
keyword arguments, narrowed to what has one meaning on every machine.  From settings and input
shapes follow the output's shape, the layer's tensors and how many numbers a step makes, so a
recipe is judged, and its size known, before any framework is loaded.  Shapes leave out the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from milepost_ml.errors import InvalidRecord

Shape = tuple[int, ...]
Shapes = Sequence[Shape]
Pair = tuple[int, int]
Padding = Literal["valid", "same"]
Function = Literal[
    "linear", "relu", "sigmoid", "tanh", "softmax", "gelu", "silu", "elu", "selu", "softplus"
]

MAX_SIDE: Final = 2**24
"""Of any length that a recipe names, so that products stay readable integers."""
MAX_RANK: Final = 8
MAX_INPUTS: Final = 64


class Weight(NamedTuple):
    """A float32 tensor of a layer, under its name within it; `moving` if gradients pass it by."""

    name: str
    shape: Shape
    moving: bool = False


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A built-in layer and its settings."""

    def validate(self) -> None:
        """Raises InvalidRecord for settings out of range."""

    def compute_output(self, inputs: Shapes) -> Shape:
        """The output's shape; raises InvalidRecord for inputs that do not fit."""
        (shape,) = self._take(inputs, 1)
        return shape

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        """The layer's tensors in order, for inputs that fit."""
        return ()

    def count_values(self, inputs: Shapes) -> int:
        """How many numbers one record makes in this layer, for inputs that fit."""
        return math.prod(self.compute_output(inputs))

    def _take(self, inputs: Shapes, count: int, rank: int | None = None) -> Shapes:
        self._require(len(inputs) == count, f"takes {count} inputs, has {len(inputs)}")
        for shape in inputs:
            self._require(bool(shape), "takes at least one dimension beside the batch")
            self._require(
                rank is None or len(shape) == rank,
                f"takes {rank} dimensions beside the batch, not {list(shape)}",
            )
        return inputs

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise InvalidRecord(
                f"the recipe cannot be used: its layer {type(self).__name__} {what}",
                slug="bad-recipe",
            )

    def _require_sides(self, **sides: int | Sequence[int]) -> None:
        for name, value in sides.items():
            for each in (value,) if isinstance(value, int) else value:
                self._require(1 <= each <= MAX_SIDE, f"cannot have {name}={value}")

    def _require_share(self, name: str, value: float) -> None:
        self._require(0 <= value < 1, f"cannot have {name}={value}")

    def _require_number(self, name: str, value: float) -> None:
        self._require(math.isfinite(value) and abs(value) <= 1e6, f"cannot have {name}={value}")


class Dense(Layer, frozen=True, tag="dense"):
    units: int
    activation: Function
    use_bias: bool

    def validate(self) -> None:
        self._require_sides(units=self.units)

    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1)
        return (*shape[:-1], self.units)

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        kernel = Weight("kernel", (inputs[0][-1], self.units))
        return (kernel, Weight("bias", (self.units,))) if self.use_bias else (kernel,)


class _Windowed(Layer, frozen=True):
    """A layer that moves a window over images of shape (height, width, channels)."""

    def _slide(self, shape: Shape, window: Pair, strides: Pair, padding: Padding) -> Pair:
        sides = []
        for length, size, stride in zip(shape[:2], window, strides, strict=True):
            room = length if padding == "same" else length - size + 1
            self._require(room >= 1, f"has a window of {size} on a side of {length}")
            sides.append(-(-room // stride))
        return sides[0], sides[1]


class Conv2D(_Windowed, frozen=True, tag="conv2d"):
    filters: int
    kernel_size: Pair
    strides: Pair
    padding: Padding
    dilation_rate: Pair
    activation: Function
    use_bias: bool

    def validate(self) -> None:
        self._require_sides(
            filters=self.filters,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation_rate=self.dilation_rate,
        )
        self._require(
            max(self.strides) == 1 or max(self.dilation_rate) == 1,
            "cannot have both strides and dilation_rate",
        )

    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1, rank=3)
        spread = [
            (size - 1) * rate + 1
            for size, rate in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]
        window = (spread[0], spread[1])
        return (*self._slide(shape, window, self.strides, self.padding), self.filters)

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        kernel = Weight("kernel", (*self.kernel_size, inputs[0][-1], self.filters))
        return (kernel, Weight("bias", (self.filters,))) if self.use_bias else (kernel,)


class DepthwiseConv2D(_Windowed, frozen=True, tag="depthwise-conv2d"):
    kernel_size: Pair
    strides: Pair
    padding: Padding
    depth_multiplier: int
    activation: Function
    use_bias: bool

    def validate(self) -> None:
        self._require_sides(
            kernel_size=self.kernel_size,
            strides=self.strides,
            depth_multiplier=self.depth_multiplier,
        )
        self._require(self.strides[0] == self.strides[1], f"cannot have strides={self.strides}")

    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1, rank=3)
        sides = self._slide(shape, self.kernel_size, self.strides, self.padding)
        return (*sides, shape[-1] * self.depth_multiplier)

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        channels = inputs[0][-1]
        kernel = Weight("kernel", (*self.kernel_size, channels, self.depth_multiplier))
        bias = Weight("bias", (channels * self.depth_multiplier,))
        return (kernel, bias) if self.use_bias else (kernel,)


class _Pooling2D(_Windowed, frozen=True):
    pool_size: Pair
    strides: Pair
    padding: Padding

    def validate(self) -> None:
        self._require_sides(pool_size=self.pool_size, strides=self.strides)

    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1, rank=3)
        return (*self._slide(shape, self.pool_size, self.strides, self.padding), shape[-1])


class MaxPooling2D(_Pooling2D, frozen=True, tag="max-pooling2d"):
    pass


class AveragePooling2D(_Pooling2D, frozen=True, tag="average-pooling2d"):
    pass


class GlobalAveragePooling2D(Layer, frozen=True, tag="global-average-pooling2d"):
    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1, rank=3)
        return (shape[-1],)


class GlobalAveragePooling1D(Layer, frozen=True, tag="global-average-pooling1d"):
    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1, rank=2)
        return (shape[-1],)


class Flatten(Layer, frozen=True, tag="flatten"):
    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1)
        return (math.prod(shape),)


class Reshape(Layer, frozen=True, tag="reshape"):
    target_shape: Shape

    def validate(self) -> None:
        self._require(1 <= len(self.target_shape) <= MAX_RANK, "has too many dimensions")
        self._require_sides(target_shape=self.target_shape)

    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1)
        self._require(
            math.prod(shape) == math.prod(self.target_shape),
            f"cannot make {list(self.target_shape)} of {list(shape)}",
        )
        return self.target_shape


class Rescaling(Layer, frozen=True, tag="rescaling"):
    scale: float
    offset: float

    def validate(self) -> None:
        self._require_number("scale", self.scale)
        self._require_number("offset", self.offset)


class Dropout(Layer, frozen=True, tag="dropout"):
    rate: float

    def validate(self) -> None:
        self._require_share("rate", self.rate)


class BatchNormalization(Layer, frozen=True, tag="batch-normalization"):
    """Over the last dimension."""

    momentum: float
    epsilon: float
    center: bool
    scale: bool

    def validate(self) -> None:
        self._require(0 <= self.momentum <= 1, f"cannot have momentum={self.momentum}")
        self._require(0 < self.epsilon <= 1, f"cannot have epsilon={self.epsilon}")

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        shape = (inputs[0][-1],)
        scaled = (Weight("gamma", shape),) if self.scale else ()
        centred = (Weight("beta", shape),) if self.center else ()
        moving = (Weight("moving_mean", shape, True), Weight("moving_variance", shape, True))
        return scaled + centred + moving


class LayerNormalization(Layer, frozen=True, tag="layer-normalization"):
    """Over the last dimension."""

    epsilon: float
    center: bool
    scale: bool

    def validate(self) -> None:
        self._require(0 < self.epsilon <= 1, f"cannot have epsilon={self.epsilon}")

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        shape = (inputs[0][-1],)
        scaled = (Weight("gamma", shape),) if self.scale else ()
        return (*scaled, Weight("beta", shape)) if self.center else scaled


class Activation(Layer, frozen=True, tag="activation"):
    activation: Function


class ReLU(Layer, frozen=True, tag="relu"):
    max_value: float | None
    negative_slope: float
    threshold: float

    def validate(self) -> None:
        for name in ("negative_slope", "threshold"):
            value: float = getattr(self, name)
            self._require(0 <= value <= 1e6, f"cannot have {name}={value}")
        if self.max_value is not None:
            self._require(0 <= self.max_value <= 1e6, f"cannot have max_value={self.max_value}")


class _Merging(Layer, frozen=True):
    def _require_several(self, inputs: Shapes) -> None:
        count = len(inputs)
        self._require(2 <= count <= MAX_INPUTS, f"takes 2 to {MAX_INPUTS} inputs, has {count}")


class Add(_Merging, frozen=True, tag="add"):
    def compute_output(self, inputs: Shapes) -> Shape:
        self._require_several(inputs)
        self._require(len(set(inputs)) == 1, "takes inputs of one shape")
        return inputs[0]


class Concatenate(_Merging, frozen=True, tag="concatenate"):
    """Along the last dimension."""

    def compute_output(self, inputs: Shapes) -> Shape:
        self._require_several(inputs)
        leading = {shape[:-1] for shape in inputs}
        self._require(all(inputs) and len(leading) == 1, "takes inputs that differ in the last")
        return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))


class Embedding(Layer, frozen=True, tag="embedding"):
    input_dim: int
    output_dim: int

    def validate(self) -> None:
        self._require_sides(input_dim=self.input_dim, output_dim=self.output_dim)

    def compute_output(self, inputs: Shapes) -> Shape:
        (shape,) = self._take(inputs, 1)
        return (*shape, self.output_dim)

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        return (Weight("embeddings", (self.input_dim, self.output_dim)),)


class MultiHeadAttention(Layer, frozen=True, tag="multi-head-attention"):
    """Inputs: query, value and, where another than the value, key; each (places, features)."""

    num_heads: int
    key_dim: int
    value_dim: int
    dropout: float
    use_bias: bool

    def validate(self) -> None:
        self._require_sides(
            num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim
        )
        self._require_share("dropout", self.dropout)

    def compute_output(self, inputs: Shapes) -> Shape:
        self._take(inputs, 3 if len(inputs) == 3 else 2, rank=2)
        self._require(
            len({shape[0] for shape in inputs[1:]}) == 1, "has a key and a value of unequal length"
        )
        return inputs[0]

    def get_weights(self, inputs: Shapes) -> tuple[Weight, ...]:
        query, value, key = inputs[0][1], inputs[1][1], inputs[-1][1]
        heads, weights = self.num_heads, []
        for name, features, size in (
            ("query", query, self.key_dim),
            ("key", key, self.key_dim),
            ("value", value, self.value_dim),
        ):
            weights.append(Weight(f"{name}.kernel", (features, heads, size)))
            weights += [Weight(f"{name}.bias", (heads, size))] if self.use_bias else []
        weights.append(Weight("attention_output.kernel", (heads, self.value_dim, query)))
        weights += [Weight("attention_output.bias", (query,))] if self.use_bias else []
        return tuple(weights)

    def count_values(self, inputs: Shapes) -> int:
        places, others = inputs[0][0], inputs[1][0]
        projected = places * self.key_dim + others * (self.key_dim + self.value_dim)
        attended = 3 * places * others + places * self.value_dim
        return self.num_heads * (projected + attended) + math.prod(inputs[0])


AnyLayer = (
    Activation | Add | AveragePooling2D | BatchNormalization | Concatenate | Conv2D | Dense
    | DepthwiseConv2D | Dropout | Embedding | Flatten | GlobalAveragePooling1D
    | GlobalAveragePooling2D | LayerNormalization | MaxPooling2D | MultiHeadAttention | ReLU
    | Rescaling | Reshape
)  # fmt: skip
LAYERS: Final[tuple[type[Layer], ...]] = AnyLayer.__args__
"""Every layer that a recipe may use."""
