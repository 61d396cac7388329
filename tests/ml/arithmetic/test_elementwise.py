"""Arithmetic, choices and the largest of several numbers against the rules in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu import elementwise
from tests.reference import elementwise as reference
from tests.support.float_bits import SPECIAL, Floats, assert_bits, make_numbers, make_strided
from tests.support.threads import with_threads

UNARY = {"relu": (), "leaky_relu": (0.3,), "sqrt": (), "rsqrt": ()}
BINARY = {
    "add_scaled": (0.1,),
    "lerp": (0.3,),
    "maximum": (),
    "minimum": (),
    "threshold_backward": (0.25,),
    "leaky_relu_backward": (0.01,),
    "hardtanh_backward": (-0.5, 1.5),
}
TERNARY = {"addcmul": (-0.7,), "addcdiv": (0.1,)}
SIZES = (0, 1, 15, 16, 17, 33, 40_000)


def check(name: str, tensors: list[Tensor], numbers: tuple[float, ...]) -> None:
    arrays = [x.numpy() for x in tensors]
    with np.errstate(all="ignore"):
        if name == "sqrt":
            expected = np.sqrt(*arrays)
        else:
            expected = getattr(reference, name)(*arrays, *numbers)
    found = getattr(elementwise, name)(*tensors, *numbers)
    assert found.is_contiguous()
    assert_bits(found, expected)


def make_many(tensors: int, maker: Callable[..., Tensor], *shape: int) -> list[Tensor]:
    return [maker(seed, *shape, special=True) for seed in range(tensors)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*UNARY, *BINARY, *TERNARY])
def test_elementwise_exact_vector(name: str, size: int, threads: int) -> None:
    tensors = make_many(1 if name in UNARY else 2 if name in BINARY else 3, make_numbers, size)
    with with_threads(threads):
        check(name, tensors, {**UNARY, **BINARY, **TERNARY}[name])


@pytest.mark.parametrize("name", [*UNARY, *BINARY, *TERNARY])
def test_elementwise_of_strided_tensors_exact_vector(name: str) -> None:
    tensors = make_many(1 if name in UNARY else 2 if name in BINARY else 3, make_strided, 5, 3, 17)
    check(name, tensors, {**UNARY, **BINARY, **TERNARY}[name])


@pytest.mark.parametrize("name", ["maximum", "minimum", "add_scaled", "lerp"])
def test_elementwise_of_all_special_pairs_exact_vector(name: str) -> None:
    values = torch.tensor([*SPECIAL, 1.0, -1.0])
    check(name, [values.view(-1, 1), values], BINARY[name])
    check(name, [values, torch.tensor(-0.0)], BINARY[name])


def test_three_tensors_that_broadcast_exact_vector() -> None:
    tensors = [make_numbers(1, 4, 1, 3), make_numbers(2, 5, 1), make_numbers(3, 3)]
    check("addcmul", tensors, (0.5,))
    check("addcdiv", tensors, (1.0,))


def test_square_roots_of_every_size_exact_vector() -> None:
    words = np.random.default_rng(1).integers(0, 0x7F800000, 50_000, np.uint64)
    x = words.astype(np.uint32).view(np.float32)
    assert_bits(elementwise.sqrt(torch.from_numpy(x)), np.sqrt(x))


def test_bounds_belong_to_the_outside() -> None:
    x = torch.tensor([-0.5, -0.25, 1.5, float("nan")])
    gradient = torch.ones(4)
    assert elementwise.hardtanh_backward(gradient, x, -0.5, 1.5).tolist() == [0, 1, 0, 0]
    assert elementwise.threshold_backward(gradient, x, -0.25).tolist() == [0, 0, 1, 1]


def compute_amax(x: Tensor, dims: tuple[int, ...]) -> Floats:
    result: Any = reference.amax(x.numpy(), dims)
    return np.asarray(result, np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        *(((n,), (0,)) for n in (1, 2, 15, 16, 17, 31, 33, 100)),
        *(((50, n), (1,)) for n in (1, 10, 16, 17, 400)),
        *(((n, 20), (0,)) for n in (1, 16, 19)),
        *(((7, 3, 5), dims) for dims in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))),
        ((0, 4), (1,)),
    ],
)
def test_amax_exact_vector(
    shape: tuple[int, ...], dims: tuple[int, ...], special: bool, threads: int
) -> None:
    x = make_numbers(1, *shape, special=special) - 30
    with with_threads(threads):
        assert_bits(elementwise.amax(x, dims), compute_amax(x, dims))


@pytest.mark.parametrize("size", [1, 5, 16, 21])
@pytest.mark.parametrize("lowest", [-0.0, -np.inf, -3.0])
def test_the_largest_of_equal_numbers_exact_vector(size: int, lowest: float) -> None:
    x = torch.full((size, 2), lowest)
    expected = np.full(2, lowest, np.float32) + np.float32(0)
    assert_bits(elementwise.amax(x, (0,)), expected)
    assert_bits(elementwise.amax(x.T, (1,)), expected)


def test_amax_finds_every_place_exact_vector() -> None:
    for size in (5, 16, 37):
        x = torch.full((size, size), -2.0) + torch.eye(size)
        assert_bits(elementwise.amax(x, (1,)), np.full(size, -1, np.float32))
        x = torch.full((size, size), 2.0).fill_diagonal_(float("nan"))
        assert_bits(elementwise.amax(x, (1,)), np.full(size, np.nan, np.float32))


def test_amax_of_nothing_is_refused() -> None:
    with pytest.raises(IndexError):
        elementwise.amax(torch.empty(3, 0), (1,))
