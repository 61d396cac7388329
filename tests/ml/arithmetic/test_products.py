"""Products of matrices against sums in plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu.products import matmul
from tests.reference.products import matmul as multiply_reference
from tests.support.float_bits import assert_bits, make_numbers, make_strided
from tests.support.guards import guarded_memory
from tests.support.threads import with_threads

# (M, K, N)
SMALL = [
    *itertools.product((0, 1, 2, 15, 16, 17, 33), (0, 1, 5, 16, 33), (1, 15, 16, 17, 33)),
    (3, 4, 0),
]
LARGE = [
    (64, 784, 256),  # the left factor is turned
    (300, 100, 70),  # the right one is
    (150, 70, 530),  # rows far from each other are copied
    (64, 128, 10),
    (10, 64, 256),
    (1, 300, 400),
    (400, 300, 1),
    (2, 40, 700),
    (1000, 20, 3),
    (100, 17, 49),
]
LAYOUTS = ("rows", "columns", "strided")


def make_matrix(seed: int, layout: str, *shape: int, special: bool = False) -> Tensor:
    if layout == "strided":
        return make_strided(seed, *shape, special=special)
    if layout == "columns":
        swapped = (*shape[:-2], shape[-1], shape[-2])
        return make_numbers(seed, *swapped, special=special).transpose(-1, -2)
    return make_numbers(seed, *shape, special=special)


def check(a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
    with np.errstate(all="ignore"):
        expected = multiply_reference(a.numpy(), b.numpy(), None if bias is None else bias.numpy())
    assert_bits(matmul(a, b, bias), expected)


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_small_products_exact_vector(left: str, right: str) -> None:
    for m, k, n in SMALL:
        a, b = make_matrix(1, left, m, k), make_matrix(2, right, k, n)
        check(a, b)
        check(a, b, make_numbers(3, n))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("left", ["rows", "columns"])
@pytest.mark.parametrize("right", ["rows", "columns"])
@pytest.mark.parametrize("size", LARGE)
def test_large_products_exact_vector(
    size: tuple[int, int, int], left: str, right: str, threads: int
) -> None:
    m, k, n = size
    with with_threads(threads):
        check(make_matrix(1, left, m, k), make_matrix(2, right, k, n), make_strided(3, n))


@pytest.mark.parametrize("size", [(17, 33, 40), (8, 16, 48), (65, 20, 19), (40, 9, 1)])
@pytest.mark.parametrize("right", LAYOUTS)
def test_products_of_special_values_exact_vector(size: tuple[int, int, int], right: str) -> None:
    m, k, n = size
    a = make_matrix(4, "rows", m, k, special=True)
    b = make_matrix(5, right, k, n, special=True)
    check(a, b, make_numbers(6, n, special=True))


def test_products_are_rounded_before_they_are_added_exact_vector() -> None:
    a = torch.tensor([[1.0, 1.0 + 2**-12]])
    b = torch.tensor([[-1.0 - 2**-11], [1.0 + 2**-12]])
    assert matmul(a, b).item() == 0.0  # 2**-24 in fused arithmetic
    tiny = torch.full((1, 1), 2.0**-149)
    assert matmul(tiny, torch.ones(1, 1)).item() == 2.0**-149


def test_sums_never_end_in_minus_zero_exact_vector() -> None:
    zeros = torch.zeros(20, 20)
    assert_bits(matmul(-zeros, zeros), np.zeros((20, 20), np.float32))
    assert_bits(matmul(-zeros, zeros, -zeros[0]), np.zeros((20, 20), np.float32))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_batches_of_products_exact_vector(left: str, right: str, threads: int) -> None:
    sizes = [(1, 40, 40, 40), (40, 32, 16, 32), (7, 17, 20, 9), (3, 1, 5, 33), (2, 0, 3, 4)]
    with with_threads(threads):
        for batches, m, k, n in sizes:
            check(make_matrix(1, left, batches, m, k), make_matrix(2, right, batches, k, n))


def test_one_matrix_for_all_batches_exact_vector() -> None:
    a = make_numbers(1, 9, 20).expand(6, 9, 20)
    check(a, make_numbers(2, 20, 30).t().contiguous().t().expand(6, 20, 30))


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_stay_inside_their_memory(threads: int) -> None:
    with with_threads(threads):
        for m, k, n in [*LARGE, (17, 33, 15), (64, 64, 64), (5, 3, 96)]:
            a, b, bias = make_numbers(1, m, k), make_numbers(2, k, n), make_numbers(3, n)
            with guarded_memory():
                matmul(a, b, bias)
            with guarded_memory():
                matmul(a, b.t().contiguous().t(), bias)
