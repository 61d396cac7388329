"""Sums in sixteen partial sums against the rule in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from milepost_ml.arithmetic.cpu.sums import sum as compute_sum
from tests.reference.products import compute_sum as compute_reference
from tests.support.float_bits import Floats, assert_bits, make_numbers, make_strided, sum_in_lanes
from tests.support.threads import with_threads

COUNTS = (0, 1, 2, 15, 16, 17, 32, 33, 100, 1000)
WIDTHS = (1, 2, 10, 15, 16, 17, 49, 63, 64, 65, 100, 128, 200)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_sum_of_one_row_exact_vector(count: int, special: bool) -> None:
    x = make_numbers(count, count, special=special)
    assert_bits(compute_sum(x, (0,)), sum_in_lanes(x.numpy()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_sum_of_columns_exact_vector(count: int, width: int, threads: int) -> None:
    x = make_numbers(1, 3, count, width)
    with with_threads(threads):
        assert_bits(compute_sum(x, (1,)), sum_in_lanes(x.numpy(), 1))
        assert_bits(compute_sum(x[0], (0,)), sum_in_lanes(x[0].numpy(), 0))


@pytest.mark.parametrize("width", WIDTHS)
def test_sum_of_special_columns_exact_vector(width: int) -> None:
    x = make_numbers(1, 3, 21, width, special=True)
    assert_bits(compute_sum(x, (1,)), sum_in_lanes(x.numpy(), 1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", COUNTS)
def test_sum_of_rows_exact_vector(count: int, threads: int) -> None:
    x = make_numbers(1, 70, count, special=True)
    with with_threads(threads):
        assert_bits(compute_sum(x, (1,)), sum_in_lanes(x.numpy(), 1))


def select_dims(ndim: int) -> list[tuple[int, ...]]:
    counts = range(1, ndim + 1)
    return [dims for count in counts for dims in itertools.combinations(range(ndim), count)]


@pytest.mark.parametrize("dims", select_dims(4))
def test_sum_over_any_dimensions_exact_vector(dims: tuple[int, ...]) -> None:
    x, strided = make_numbers(1, 5, 18, 3, 21), make_strided(2, 5, 18, 3, 21)
    assert_bits(compute_sum(x, dims), compute_reference(x.numpy(), dims))
    found = compute_sum(strided, dims)
    assert found.is_contiguous()
    assert_bits(found, compute_reference(strided.numpy(), dims))


def test_groups_are_summed_from_the_inside_exact_vector() -> None:
    x = make_numbers(1, 20, 3, 20)
    inner: Floats = sum_in_lanes(x.numpy(), 2)
    assert_bits(compute_sum(x, (0, 2)), sum_in_lanes(inner, 0))


def test_a_negative_zero_does_not_survive_a_sum() -> None:
    for shape, dims in (((1,), (0,)), ((1, 70), (0,)), ((1, 3), (0,)), ((3, 0), (1,))):
        found = compute_sum(torch.full(shape, -0.0), dims)
        assert_bits(found, np.zeros(found.shape, np.float32))


def test_a_sum_does_not_touch_what_lies_beside_it() -> None:
    room = torch.full((3, 40), 7.0)
    x = room[1, 3:36].view(3, 11)
    before = room.clone()
    for dims in ((0,), (1,), (0, 1)):
        compute_sum(x, dims)
    assert torch.equal(room, before)
