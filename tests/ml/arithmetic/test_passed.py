"""The operators of PyTorch that exact arithmetic passes through are one IEEE operation an element.

Each is compared with NumPy at awkward lengths, offsets and strides; a subprocess repeats that for
every set of vector instructions that PyTorch chooses between.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.float_bits import SPECIAL, assert_bits, make_numbers
from tests.support.threads import with_threads

LENGTHS = (0, 1, 7, 8, 15, 16, 17, 31, 33, 70_001)
"""Around the widths of vectors, and enough for two threads."""

NUMBERS = (3.0, 0.1, -1.7, 1e-42, 3e38)

UNARY: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = {
    "neg": (torch.neg, np.negative),
    "abs": (torch.abs, np.abs),
    "reciprocal": (torch.reciprocal, lambda x: np.float32(1) / x),
    "floor": (torch.floor, np.floor),
    "ceil": (torch.ceil, np.ceil),
    "round": (torch.round, np.rint),
    "trunc": (torch.trunc, np.trunc),
    "sign": (torch.sign, lambda x: np.where(np.isnan(x), np.float32(0), np.sign(x))),
    "clone": (torch.clone, np.copy),
    "masked_fill": (
        lambda x: x.masked_fill(x > 0.5, 0.3),
        lambda x: np.where(x > np.float32(0.5), np.float32(0.3), x),
    ),
    "square": (lambda x: x * x, lambda x: x * x),
}
BINARY: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Any, Any], Any]]] = {
    "add": (torch.add, np.add),
    "sub": (torch.sub, np.subtract),
    "mul": (torch.mul, np.multiply),
    "div": (torch.div, np.divide),
    "where": (lambda x, y: torch.where(x < y, x, y), lambda x, y: np.where(x < y, x, y)),
}
SCALAR: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "add": (lambda x, c: x + c, np.add),
    "sub": (lambda x, c: x - c, np.subtract),
    "rsub": (lambda x, c: c - x, lambda x, c: c - x),
    "mul": (lambda x, c: x * c, np.multiply),
    "div": (lambda x, c: x / c, np.divide),
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
}


def iterate_inputs(seed: int) -> Iterator[Tensor]:
    """Tensors of many lengths, some off the boundaries of vectors, and one of strides."""
    for length in LENGTHS:
        for offset in (0, 1, 3):
            room = make_numbers(seed, length + offset, special=True)
            yield room[offset:]
    yield make_numbers(seed, 37, 2, 41, special=True).permute(2, 0, 1)[:, ::2]


def iterate_pairs() -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(iterate_inputs(1), iterate_inputs(2), strict=True)
    every = torch.tensor([*SPECIAL, 1.0, -1.0, 1.5])
    yield every.view(-1, 1), every
    yield make_numbers(3, 33, 19, special=True), make_numbers(4, 19)
    yield make_numbers(3, 33, 19, special=True), make_numbers(4, 33, 1)
    yield make_numbers(3, 33, 19, special=True).T, make_numbers(4, 19, 33)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", UNARY)
def test_unary_operators_exact_vector(name: str, threads: int) -> None:
    ours, theirs = UNARY[name]
    for x in iterate_inputs(1):
        with with_threads(threads), np.errstate(all="ignore"):
            assert_bits(ours(x), theirs(x.numpy()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", BINARY)
def test_binary_operators_exact_vector(name: str, threads: int) -> None:
    ours, theirs = BINARY[name]
    for x, y in iterate_pairs():
        with with_threads(threads), np.errstate(all="ignore"):
            assert_bits(ours(x, y), theirs(x.numpy(), y.numpy()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["add_", "sub_", "mul_", "div_"])
def test_operators_in_place_exact_vector(name: str, threads: int) -> None:
    theirs = BINARY[name[:-1]][1]
    for x, y in zip(iterate_inputs(1), iterate_inputs(2), strict=True):
        with with_threads(threads), np.errstate(all="ignore"):
            expected = theirs(x.numpy(), y.numpy())
            assert_bits(getattr(x, name)(y), expected)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", SCALAR)
def test_operators_with_a_number_exact_vector(name: str, number: float) -> None:
    ours, theirs = SCALAR[name]
    for x in iterate_inputs(1):
        with np.errstate(all="ignore"):
            expected = theirs(x.numpy(), np.float32(number))
        assert_bits(ours(x, number), expected)
        assert_bits(ours(x, torch.tensor(number)), expected)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_exact_vector(name: str) -> None:
    compare = COMPARISONS[name]
    for x, y in iterate_pairs():
        assert np.array_equal(compare(x, y).numpy(), compare(x.numpy(), y.numpy()))
    x = torch.tensor([0.1, -0.0, 0.3])
    for number in (0.1, 0.0, 0.3):
        expected = compare(x.numpy(), np.float32(number))
        assert np.array_equal(compare(x, number).numpy(), expected)


def make_integers(length: int) -> Tensor:
    """Integers of all sizes, among them those that lie between two float32 or just beside."""
    chance = np.random.default_rng(length)
    shifts = chance.integers(0, 39, length)
    halves = (2 ** chance.integers(23, 25, length) + chance.integers(0, 2**22, length)) * 2 + 1
    beside = chance.integers(-1, 2, length) * (shifts > 0)
    values = (halves << np.minimum(shifts, 36)) + beside
    small = chance.integers(-(2**30), 2**30, length)
    chosen = np.where(chance.random(length) < 0.2, small, values)
    return torch.from_numpy(chosen * chance.choice((-1, 1), length))


@pytest.mark.parametrize("threads", [1, 2])
def test_integers_become_float32_by_one_rounding_exact_vector(threads: int) -> None:
    for length in LENGTHS:
        x = make_integers(length)
        with with_threads(threads):
            assert_bits(x.to(torch.float32), x.numpy().astype(np.float32))
            assert_bits(torch.empty(length).copy_(x), x.numpy().astype(np.float32))
            flags = x > 0
            assert_bits(flags.to(torch.float32), flags.numpy().astype(np.float32))


def test_float64_becomes_float32_by_one_rounding_exact_vector() -> None:
    for length in LENGTHS:
        chance = np.random.default_rng(length)
        x = make_numbers(length, length, special=True).numpy()
        wide = x.astype(np.float64) * 2.0 ** chance.integers(-150, 100, length)
        with np.errstate(all="ignore"):
            middle = (x.astype(np.float64) + np.nextafter(x, np.float32(9)).astype(np.float64)) / 2
            for values in (wide, middle, np.nextafter(middle, 0), np.nextafter(middle, 9)):
                found = torch.from_numpy(values)
                assert_bits(found.to(torch.float32), values.astype(np.float32))
        back = torch.from_numpy(x).to(torch.float64).numpy()
        assert np.array_equal(back, x.astype(np.float64), equal_nan=True)


def _find_extremes(x: Any, axis: int, sign: int) -> tuple[Any, Any]:
    """Values and positions by rule E15, one place after the other."""
    rows = np.moveaxis(x, axis, 0)
    best, places = rows[0].copy(), np.zeros(rows.shape[1:], np.int64)
    for place, row in enumerate(rows[1:], start=1):
        beyond = (row > best) if sign > 0 else (row < best)
        taken = (beyond | np.isnan(row)) & ~np.isnan(best)
        places, best = np.where(taken, place, places), np.where(taken, row, best)
    return best, places


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(5, 7), (33, 64), (3, 17, 40), (1, 1000), (1000, 1)])
def test_positions_of_extremes_exact_vector(shape: tuple[int, ...], threads: int) -> None:
    values = np.array([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf], np.float32)
    for choice in (values, values[:4]):
        x = np.random.default_rng(len(choice)).choice(choice, shape)
        tensor = torch.from_numpy(x)
        for axis in range(len(shape)):
            with with_threads(threads):
                largest, smallest = tensor.max(axis), tensor.min(axis)
                places = tensor.argmax(axis), tensor.argmin(axis)
            for found, place, sign in ((largest, places[0], 1), (smallest, places[1], -1)):
                best, expected = _find_extremes(x, axis, sign)
                assert_bits(found[0], best)
                assert (found[1].numpy() == expected).all()
                assert (place.numpy() == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_set_of_instructions_exact_vector(capability: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", str(Path(__file__))]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    root = Path(__file__).parents[3]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout
