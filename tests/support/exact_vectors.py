"""Runs the vectors of exact arithmetic on a backend and in PyTorch under `ExactMode`.

`python -m tests.support.exact_vectors` prints what does not come out as in the files, as JSON: for
processes whose processor is made to look older than it is.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from milepost_ml.arithmetic.backends import Backend, Convolution, Pooling
from milepost_ml.arithmetic.exact import ExactMode
from milepost_ml.errors import RefusedOperator
from tests.reference.gradients import ALPHA, HIGH, LOW, NUMBER
from tests.reference.training import MODELS
from tests.reference.vectors import CHANGED, Case, encode, flatten, parse_cases
from tests.support.exact_training import train

FOLDER: Final = Path(__file__).parent.parent / "vectors" / "exact"
THREADS: Final = (1, 2)
LAYOUTS: Final = ("contiguous", "spread")

REDUCTIONS: Final = ("none", "mean", "sum")

_NO_TENSORS: Final = ("words", "values")
"""Functions of the vectors that only make their inputs."""


@functools.cache
def load_cases() -> list[tuple[Case, list[Any]]]:
    """All cases of operators.json that compute with tensors."""
    cases = parse_cases((FOLDER / "operators.json").read_text())
    return [(case, outputs) for case, outputs in cases if case.function not in _NO_TENSORS]


def load_trainings() -> dict[str, Any]:
    """All of training.json."""
    trainings: dict[str, Any] = json.loads((FOLDER / "training.json").read_text())
    return trainings


def _differentiate(results: Tensor, gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(results, inputs, gradient)


def _accumulate(a: Tensor, b: Tensor, c: Tensor, g: Tensor) -> Tensor:
    x = torch.ones_like(a, requires_grad=True)
    return _differentiate((x * a + x * b) + x * c, g, x)[0]


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)


def _attend_backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Any:
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    return _differentiate(_attend(q, k, v, **how), gradient, q, k, v)


OPERATORS: Final[dict[str, Callable[..., Tensor]]] = {
    "add a row": lambda a, row: a + row,
    "add alpha": lambda a, b: torch.add(a, b, alpha=ALPHA),
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mul a column": lambda a, column: a * column,
    "mul number": lambda x: x * NUMBER,
    "div": lambda a, b: a / b,
    "div number": lambda x: x / NUMBER,
    "neg": lambda x: -x,
    "abs": lambda x: x.abs(),
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "sqrt": lambda x: x.sqrt(),
    "rsqrt": lambda x: x.rsqrt(),
    "reciprocal": lambda x: x.reciprocal(),
    "pow 2": lambda x: x**2,
    "pow 3": lambda x: x**3,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "clamp": lambda x: x.clamp(LOW, HIGH),
    "amax": lambda x: x.amax(1),
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "var": lambda x: x.var(1),
    "matmul": torch.matmul,
    "linear": functional.linear,
    "two rows": lambda x: x[0] + x[1],
    "embedding": lambda table, index: functional.embedding(index, table),
}
"""What the vectors of gradients differentiate."""


def _compute_gradient(of: str, gradient: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    floats = [x.detach().requires_grad_() for x in inputs if x.dtype == torch.float32]
    others = inputs[len(floats) :]
    return _differentiate(OPERATORS[of](*floats, *others), gradient, *floats)


def _make_losses() -> dict[str, Callable[..., Any]]:
    """Losses of two tensors, and their gradients."""
    functions: dict[str, Callable[..., Any]] = {}
    for name, loss in (
        ("mse_loss", functional.mse_loss),
        ("bce_with_logits", functional.binary_cross_entropy_with_logits),
    ):

        def forward(x: Tensor, target: Tensor, reduction: int, loss: Any = loss) -> Tensor:
            result: Tensor = loss(x, target, reduction=REDUCTIONS[reduction])
            return result

        def backward(gradient: Tensor, x: Tensor, forward: Any = forward, **how: Any) -> Any:
            x = x.detach().requires_grad_()
            return _differentiate(forward(x, **how), gradient, x)

        functions[name], functions[f"{name}_backward"] = forward, backward
    return functions


def _clip(clip: Callable[..., Any]) -> Callable[..., tuple[()]]:
    """PyTorch's clipping of gradients, which are tensors' own."""

    def function(gradients: list[Tensor], bound: float) -> tuple[()]:
        held = [torch.nn.Parameter(torch.empty_like(each)) for each in gradients]
        for parameter, gradient in zip(held, gradients, strict=True):
            parameter.grad = gradient
        clip(held, bound)
        return ()

    return function


def _skip(mode: ExactMode, seed: int, skip: int) -> None:
    mode.reseed(seed)
    for _ in range(skip):
        torch.rand(1)


def _make_torch_functions(mode: ExactMode) -> dict[str, Callable[..., Any]]:
    """What computes the vectors for which a backend has no function."""

    def drawing(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def function(seed: int, skip: int, **arguments: Any) -> Tensor:
            _skip(mode, seed, skip)
            return draw(**arguments)

        return function

    return {
        "mean": lambda x, dims: x.mean(dims),
        "addmm": lambda bias, a, b, beta, alpha: torch.addmm(bias, a, b, beta=beta, alpha=alpha),
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "sqrt": lambda x: x.sqrt(),
        "abs": lambda x: x.abs(),
        "neg": lambda x: -x,
        "reciprocal": lambda x: x.reciprocal(),
        "sign": lambda x: x.sign(),
        "round": lambda x: x.round(),
        "rsqrt": lambda x: x.rsqrt(),
        "div_number": lambda x, number: x / number,
        "clamp": lambda x, low, high: x.clamp(low, high),
        "pow": lambda x, exponent: x**exponent,
        "sub_scaled": lambda a, b, alpha: torch.sub(a, b, alpha=alpha),
        "float32": lambda integers: integers.to(torch.float32),
        "accumulate": _accumulate,
        "gradient": _compute_gradient,
        "var": lambda x, dims, correction: x.var(dims, correction=correction),
        "std": lambda x, dims, correction: x.std(dims, correction=correction),
        "norm": lambda x, order, dims: torch.linalg.vector_norm(x, float(order), dims),
        **_make_losses(),
        "clip_norm": _clip(torch.nn.utils.clip_grad_norm_),
        "clip_value": _clip(torch.nn.utils.clip_grad_value_),
        "attention": _attend,
        "attention_backward": _attend_backward,
        "rand": drawing(lambda shape: torch.rand(shape)),
        "uniform": drawing(lambda shape, low, high: torch.empty(shape).uniform_(low, high)),
        "bernoulli": drawing(lambda shape, p: torch.empty(shape).bernoulli_(p)),
        "dropout": drawing(lambda x, p: functional.dropout(x, p)),
    }


def _spread(tensor: Tensor) -> Tensor:
    """The same numbers with gaps between them, the first dimension innermost."""
    if not tensor.ndim:
        return tensor
    memory = torch.empty((*reversed(tensor.shape), 2), dtype=tensor.dtype, device=tensor.device)
    spread = memory[..., 0].permute(*reversed(range(tensor.ndim)))
    spread.copy_(tensor)
    return spread


def _convert(value: Any, device: str, layout: str) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(value.copy()).to(device)
        return _spread(tensor) if layout == "spread" else tensor
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return tuple(value)
        return [_convert(item, device, layout) for item in value]
    if isinstance(value, dict):
        kind: Any = Convolution if "groups" in value else Pooling
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})
    return value


def make_arguments(case: Case, device: str, layout: str) -> dict[str, Any]:
    """Fresh tensors; what changes in place, and whole lists, lie as PyTorch allocates them."""
    plain = CHANGED.get(case.function, ())
    if case.function in ("sgd", "adam"):
        plain = tuple(case.arguments)
    return {
        name: _convert(value, device, "contiguous" if name in plain else layout)
        for name, value in case.arguments.items()
    }


def run_case(case: Case, backend: Backend, *, device: str = "cpu", layout: str) -> list[Any]:
    """Results in the form of `encode`, then what changed in place."""
    arguments = make_arguments(case, device, layout)
    function = getattr(backend, case.function, None)
    if function is None:
        with ExactMode() as mode:
            result = _make_torch_functions(mode)[case.function](**arguments)
    else:
        result = function(**arguments)
    results = list(flatten(result))
    for name in CHANGED.get(case.function, ()):
        results.extend(flatten(arguments[name]))
    encoded: list[Any] = encode([tensor.detach().cpu().numpy() for tensor in results])
    return encoded


def find_mismatches(backend: Backend, function: str, *, device: str = "cpu") -> Iterator[str]:
    """Names of a function's cases that do not come out as in the file."""
    for case, outputs in load_cases():
        if case.function == function:
            wanted = encode(outputs)
            for layout in LAYOUTS:
                name = f"{case.rule} {function}: {case.name} ({layout})"
                try:
                    got = run_case(case, backend, device=device, layout=layout)
                except RefusedOperator as error:
                    yield f"{name}: {error}"
                else:
                    if got != wanted:
                        yield name


def find_training_mismatch(name: str, *, device: str = "cpu") -> str | None:
    """The first number of a model's training that is not as in the file."""
    vector, got = load_trainings()[name], train(name, ExactMode(), device=device)
    for step, (loss, wanted) in enumerate(zip(got["losses"], vector["losses"], strict=True)):
        if loss != wanted:
            return f"{name}: the loss of step {step + 1} is {loss}, not {wanted}"
    return None if got["digests"] == vector["digests"] else f"{name}: same losses, other digests"


def check_everything(backend: Backend) -> list[str]:
    """All that does not come out as in the files, on one thread and on two."""
    found: list[str] = []
    functions = sorted({case.function for case, _ in load_cases()})
    for threads in THREADS:
        torch.set_num_threads(threads)
        for function in functions:
            found.extend(f"{threads}: {text}" for text in find_mismatches(backend, function))
        for name in MODELS:
            text = find_training_mismatch(name)
            found.extend([] if text is None else [f"{threads}: {text}"])
    return found


if __name__ == "__main__":
    from milepost_ml.arithmetic.cpu.backend import CPU

    json.dump(check_everything(CPU), sys.stdout)
