"""Exponentials, logarithms and activations against the rules in NumPy, and their errors."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from numba import cfunc, types
from numpy.typing import NDArray
from torch import Tensor

from milepost_ml.arithmetic.cpu import elementwise, functions, softmax, sums
from milepost_ml.arithmetic.cpu.launch import Kernel
from tests.reference import functions as reference
from tests.support.float_bits import Floats, assert_bits, make_numbers, make_strided
from tests.support.threads import with_threads

SIZES = (0, 1, 15, 16, 17, 33, 9001)

OF_X = ("exp", "log", "sigmoid", "tanh", "silu", "erf")
OF_GRADIENT = ("sigmoid_backward", "tanh_backward", "silu_backward")

EDGES = np.array(
    [
        *(88.72283, 88.72284, 89.0, -103.97207, -103.97209, -104.0, 700.0, -700.0, 1e4, -1e4),
        *(2.0**-12, np.nextafter(np.float32(2**-12), np.float32(0)), 5.75, -5.75, 5.8, 4.0, 8.2),
        *(2.0**-149, 2.0**-126, 1.0, 0.70710677, 0.70710683, 1.4142135, 1.4142137, 0.34657359),
        *(0.0, -0.0, math.inf, -math.inf, math.nan, 3.4e38, -3.4e38, 1.1754942e-38, -1e-40),
    ],
    np.float32,
)
"""Where a formula changes over, and where results leave the range of float32."""


def make_bit_patterns(seed: int, count: int) -> Floats:
    """Any float32 whatever, each bit pattern as likely as the next."""
    words = np.random.default_rng(seed).integers(0, 2**32, count, np.uint64)
    return words.astype(np.uint32).view(np.float32)


def make_inputs() -> Tensor:
    chance = np.random.default_rng(1)
    parts = [EDGES, make_bit_patterns(2, 20_000), chance.standard_normal(20_000) * 3]
    parts.append(np.geomspace(1e-6, 100, 5000))
    return torch.from_numpy(np.concatenate([np.asarray(part, np.float32) for part in parts]))


def compute(name: str, *inputs: Floats | str) -> Floats:
    with np.errstate(all="ignore"):
        result: Floats = getattr(reference, name)(*inputs)
    return result


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", OF_X)
def test_functions_exact_vector(name: str, threads: int) -> None:
    x = make_inputs()
    with with_threads(threads):
        found = getattr(functions, name)(x)
    assert_bits(found, compute(name, x.numpy()))


@pytest.mark.parametrize("name", OF_GRADIENT)
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_exact_vector(name: str, threads: int) -> None:
    x = make_inputs()
    gradient = make_numbers(3, len(x), special=True)
    with with_threads(threads):
        found = getattr(functions, name)(gradient, x)
    assert_bits(found, compute(name, gradient.numpy(), x.numpy()))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("threads", [1, 2])
def test_gelu_exact_vector(approximate: str, threads: int) -> None:
    x = make_inputs()
    gradient = make_numbers(3, len(x), special=True)
    with with_threads(threads):
        found = functions.gelu(x, approximate)
        slope = functions.gelu_backward(gradient, x, approximate)
    assert_bits(found, compute("gelu", x.numpy(), approximate))
    assert_bits(slope, compute("gelu_backward", gradient.numpy(), x.numpy(), approximate))


@pytest.mark.parametrize("size", SIZES)
def test_functions_of_any_length_exact_vector(size: int) -> None:
    x, gradient = make_numbers(1, size, special=True), make_numbers(2, size, special=True)
    with with_threads(2):
        assert_bits(functions.exp(x), compute("exp", x.numpy()))
        expected = compute("silu_backward", gradient.numpy(), x.numpy())
        assert_bits(functions.silu_backward(gradient, x), expected)


def test_functions_of_strided_tensors_exact_vector() -> None:
    x, gradient = make_strided(1, 3, 17, 5), make_strided(2, 3, 17, 5)
    found = functions.tanh(x)
    assert found.is_contiguous()
    assert_bits(found, compute("tanh", x.numpy()))
    expected = compute("gelu_backward", gradient.numpy(), x.numpy(), "none")
    assert_bits(functions.gelu_backward(gradient, x, "none"), expected)
    single = torch.tensor(0.5)
    assert_bits(functions.exp(single), compute("exp", single.numpy()))


def test_exp_leaves_the_range_where_it_should() -> None:
    x = torch.tensor([88.72283, 88.72284, -103.97207, -103.97209, 0.0])
    assert functions.exp(x)[0] < math.inf
    assert functions.exp(x)[1:].tolist() == [math.inf, 2.0**-149, 0.0, 1.0]


def test_erf_and_gelu_end_where_they_should() -> None:
    x = torch.tensor([5.75, -9.0, math.inf, -math.inf, 30.0, -30.0])
    assert functions.erf(x).tolist() == [1, -1, 1, -1, 1, -1]
    assert functions.gelu(x[4:], "none").tolist() == [30.0, 0.0]


def measure_ulps(found: Floats, exact: NDArray[np.float64]) -> float:
    """The largest distance in units of the last place of the float32 at the exact value."""
    assert (np.isnan(found) == np.isnan(exact)).all()
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    usual = np.isfinite(rounded) & np.isfinite(found)
    assert (found[~usual & ~np.isnan(found)] == rounded[~usual & ~np.isnan(found)]).all()
    _, exponents = np.frexp(exact[usual])
    units = np.ldexp(1.0, np.maximum(exponents - 24, -149))
    return float((np.abs(found[usual] - exact[usual]) / units).max())


def vectorize(function: Callable[[float], float]) -> Callable[..., NDArray[np.float64]]:
    return np.vectorize(function, otypes=[np.float64])


EXACTLY: dict[str, Callable[..., NDArray[np.float64]]] = {
    "exp": np.exp,
    "log": np.log,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": vectorize(math.erf),
}

# Over all float32 numbers, as section 5 of the specification states.
BOUNDS = {"exp": 0.5008, "log": 0.5001, "sigmoid": 0.5008, "tanh": 0.5070, "erf": 0.5002}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_functions_err_no_more_than_the_specification_says(name: str) -> None:
    chance = np.random.default_rng(4)
    parts = (make_bit_patterns(5, 400_000), chance.standard_normal(400_000) * 4, EDGES)
    x = np.concatenate([np.asarray(part, np.float32) for part in parts])
    found = getattr(functions, name)(torch.from_numpy(x)).numpy()
    with np.errstate(all="ignore"):
        exact = EXACTLY[name](x.astype(np.float64))
    assert measure_ulps(found, exact) <= BOUNDS[name]


@pytest.mark.slow
def test_gelu_errs_no_more_than_the_specification_says() -> None:
    x = np.linspace(-14, 14, 400_001).astype(np.float32)
    wide = x.astype(np.float64)
    exact = 0.5 * wide * vectorize(math.erfc)(-wide * math.sqrt(0.5))
    found = functions.gelu(torch.from_numpy(x), "none").numpy()
    half = 0.5 * np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(found - exact) <= half * 1.0001 + 6e-12 * np.abs(wide)).all()


@pytest.mark.slow
@pytest.mark.parametrize("module", [elementwise, functions, softmax, sums])
def test_kernels_neither_fuse_nor_call_a_library(module: ModuleType) -> None:
    kernels = {name: value for name, value in vars(module).items() if isinstance(value, Kernel)}
    assert kernels
    for name, kernel in kernels.items():
        signature = types.void(types.CPointer(types.int64))
        compiled = cfunc(signature, nopython=True, error_model="numpy")(inspect.unwrap(kernel))
        text = compiled._library.get_asm_str()
        assert "mul" in text or "add" in text
        assert not re.search(r"\bv?fn?m(add|sub|la|ls)\w*", text), name
        assert not re.search(r"\bcallq?\s+(exp|log|tanh|erf|pow|fma)", text), name
