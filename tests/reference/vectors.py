"""The vector files of exact arithmetic: what a case is, and how it is written [E32]."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.reference import (
    composites,
    elementwise,
    functions,
    generator,
    gradients,
    losses,
    normalization,
    optimizers,
    pooling,
    products,
)

Array = npt.NDArray[Any]

CODES: Final = {"f32": "<f4", "i64": "<i8"}
"""Key of a tensor's bytes in JSON, and NumPy's spelling of its type."""


class Case(NamedTuple):
    """A function of the backend (or of PyTorch, for rules without one) and its arguments."""

    rule: str
    function: str
    name: str
    arguments: dict[str, Any]


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "sum": products.compute_sum,
    "mean": products.compute_mean,
    "matmul": products.matmul,
    "addmm": products.addmm,
    "convolution": products.convolution,
    "convolution_input": products.convolution_input,
    "convolution_weight": products.convolution_weight,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "sqrt": lambda x: np.sqrt(x),
    "abs": lambda x: np.abs(x),
    "neg": lambda x: -x,
    "sign": elementwise.sign,
    "round": lambda x: np.rint(x),
    "reciprocal": lambda x: np.float32(1) / x,
    "div_number": lambda x, number: x / np.float32(number),
    "clamp": elementwise.clamp,
    "pow": elementwise.power,
    "rsqrt": elementwise.rsqrt,
    "sub_scaled": elementwise.sub_scaled,
    "accumulate": lambda a, b, c, g: ((g * c) + (g * b)) + (g * a),
    "index_add": pooling.index_add,
    "gradient": gradients.gradient,
    "attention": losses.attention,
    "attention_backward": losses.attention_backward,
    "rand": lambda seed, skip, shape: _draw(seed, skip).rand(shape),
    "uniform": lambda seed, skip, shape, low, high: _draw(seed, skip).uniform(shape, low, high),
    "bernoulli": lambda seed, skip, shape, p: _draw(seed, skip).bernoulli(shape, p),
    "dropout": lambda seed, skip, x, p: _draw(seed, skip).dropout(x, p),
    "words": lambda label, shape: generator.make_integers(label, shape, 2**32),
    "values": generator.make_values,
    "float32": lambda integers: integers.astype(np.float32),
    **{
        name: getattr(module, name)
        for module, names in (
            (elementwise, ("add_scaled", "addcmul", "addcdiv", "lerp", "relu", "maximum")),
            (elementwise, ("minimum", "amax", "leaky_relu", "leaky_relu_backward")),
            (elementwise, ("threshold_backward", "hardtanh_backward")),
            (composites, ("var", "std", "norm", "mse_loss", "mse_loss_backward")),
            (composites, ("bce_with_logits", "bce_with_logits_backward")),
            (functions, ("exp", "log", "sigmoid", "sigmoid_backward", "tanh", "tanh_backward")),
            (functions, ("silu", "silu_backward", "erf", "gelu", "gelu_backward")),
            (losses, ("softmax", "softmax_backward", "log_softmax", "log_softmax_backward")),
            (losses, ("nll_loss", "nll_loss_backward")),
            (normalization, ("layer_norm", "layer_norm_backward")),
            (normalization, ("batch_norm", "batch_norm_backward")),
            (pooling, ("max_pool2d", "max_pool2d_backward", "avg_pool2d")),
            (pooling, ("avg_pool2d_backward", "adaptive_avg_pool2d")),
            (pooling, ("adaptive_avg_pool2d_backward",)),
            (optimizers, ("clip_norm", "clip_value", "sgd", "adam")),
        )
        for name in names
    },
}
"""The reference by the names of the vectors."""

CHANGED: Final = {
    "batch_norm": ("running_mean", "running_var"),
    "sgd": ("parameters", "momenta"),
    "adam": ("parameters", "averages", "squares", "maxima"),
    "clip_norm": ("gradients",),
    "clip_value": ("gradients",),
}
"""Arguments that a function changes in place; they follow its results among the outputs."""


def _draw(seed: int, skip: int) -> generator.Generator:
    """The generator of a step after `skip` operators that drew one number each."""
    draws = generator.Generator(seed)
    for _ in range(skip):
        draws.draw(1)
    return draws


def flatten(value: Any) -> Iterator[Any]:
    """The tensors in a result, in order."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flatten(item)
    elif value is not None:
        yield value


def compute_outputs(case: Case) -> list[Array]:
    """What the reference gives."""
    with np.errstate(all="ignore"):
        results = list(flatten(FUNCTIONS[case.function](**case.arguments)))
    for name in CHANGED.get(case.function, ()):
        results.extend(flatten(case.arguments[name]))
    return [np.asarray(result) for result in results]


def encode(value: Any, *, as_results: bool = True) -> Any:
    """Arguments or results in JSON; in results NaN is one value [E2]."""
    if isinstance(value, np.ndarray):
        key = "f32" if value.dtype == np.float32 else "i64"
        assert value.dtype == CODES[key]
        if key == "f32" and as_results:
            value = np.where(np.isnan(value), np.float32(np.nan), value)
        return {key: value.astype(CODES[key]).tobytes().hex(), "shape": list(value.shape)}
    if isinstance(value, dict):
        return {key: encode(item, as_results=as_results) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, as_results=as_results) for item in value]
    return value


def decode(value: Any) -> Any:
    """The opposite of `encode`; arrays can be written to."""
    if isinstance(value, dict):
        for key in value.keys() & CODES.keys():
            data = np.frombuffer(bytes.fromhex(value[key]), CODES[key])
            return data.reshape(value["shape"]).copy()
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def render_cases(cases: Sequence[Case]) -> str:
    """A file with a case on every line."""
    lines = []
    for case in cases:
        arguments = encode(case.arguments, as_results=False)  # before they change in place
        outputs = encode(compute_outputs(case))
        lines.append(
            json.dumps(case._replace(arguments=arguments)._asdict() | {"outputs": outputs})
        )
    return "[\n" + ",\n".join(lines) + "\n]\n"


def parse_cases(text: str) -> list[tuple[Case, list[Array]]]:
    """Cases of a file with their outputs."""
    cases = []
    for item in json.loads(text):
        outputs = decode(item.pop("outputs"))
        cases.append((Case(**(item | {"arguments": decode(item["arguments"])})), outputs))
    return cases
