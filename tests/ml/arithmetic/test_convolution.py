"""Convolutions and their gradients against sums in plain loops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.cpu import geometry
from milepost_ml.arithmetic.cpu.convolution import (
    convolution,
    convolution_input,
    convolution_weight,
    make_plan,
)
from tests.reference import products as reference
from tests.support.float_bits import assert_bits, make_numbers, make_strided
from tests.support.guards import guarded_memory
from tests.support.threads import with_threads

PLAIN = Convolution((1, 1), (0, 0), (1, 1), 1)

# Size of the input, size of the weight, geometry.
CASES = [
    ((2, 1, 8, 8), (3, 1, 3, 3), PLAIN),
    ((16, 3, 5, 5), (8, 3, 5, 5), PLAIN),  # one pixel is left
    ((17, 2, 9, 7), (5, 2, 3, 3), PLAIN._replace(padding=(1, 1))),
    ((33, 3, 6, 11), (9, 3, 3, 2), PLAIN._replace(stride=(2, 1), padding=(1, 0))),
    ((5, 4, 12, 10), (6, 2, 2, 3), Convolution((2, 3), (2, 1), (2, 1), 2)),
    ((20, 6, 7, 7), (6, 1, 3, 3), PLAIN._replace(padding=(1, 1), groups=6)),
    ((15, 4, 14, 14), (17, 4, 1, 1), PLAIN._replace(stride=(2, 2))),
    ((3, 2, 1, 40), (4, 2, 1, 5), PLAIN._replace(padding=(0, 2))),
    ((1, 5, 4, 4), (2, 5, 3, 3), PLAIN._replace(padding=(4, 3))),  # windows beside the input
    ((2, 3, 10, 10), (4, 3, 2, 2), PLAIN._replace(stride=(4, 5), dilation=(3, 2))),
    ((2, 2, 2, 2), (3, 2, 3, 3), PLAIN._replace(stride=(3, 3), padding=(1, 1))),
]
THREADS = (1, 2, 3)


def make_case(
    size: tuple[int, ...], taps: tuple[int, ...], shape: Convolution, *, special: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, weight, bias, gradient."""
    x, weight = make_numbers(1, *size, special=special), make_numbers(2, *taps, special=special)
    bias = make_numbers(3, taps[0], special=special)
    out = torch.nn.functional.conv2d(x, weight, None, *shape).shape
    return x, weight, bias, make_numbers(4, *out, special=special)


def check(
    x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor, shape: Convolution
) -> None:
    """All three functions against the reference."""
    arrays = x.numpy(), weight.numpy(), None if bias is None else bias.numpy()
    geometry = shape._asdict()
    with np.errstate(all="ignore"):
        output = reference.convolution(*arrays, geometry)
        to_input = reference.convolution_input(gradient.numpy(), weight.numpy(), x.shape, geometry)
        to_weight = reference.convolution_weight(
            gradient.numpy(), x.numpy(), weight.shape, geometry
        )
    assert_bits(convolution(x, weight, bias, shape), output)
    assert_bits(convolution_input(gradient, weight, x.shape, shape), to_input)
    assert_bits(convolution_weight(gradient, x, weight.shape, shape), to_weight)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("case", CASES)
def test_convolutions_exact_vector(
    case: tuple[tuple[int, ...], tuple[int, ...], Convolution], threads: int
) -> None:
    x, weight, bias, gradient = make_case(*case)
    with with_threads(threads):
        check(x, weight, bias, gradient, case[2])
        check(x, weight, None, gradient, case[2])


@pytest.mark.parametrize("case", CASES)
def test_convolutions_of_special_values_exact_vector(
    case: tuple[tuple[int, ...], tuple[int, ...], Convolution],
) -> None:
    check(*make_case(*case, special=True), case[2])


@pytest.mark.parametrize("case", CASES)
def test_convolutions_of_strided_tensors_exact_vector(
    case: tuple[tuple[int, ...], tuple[int, ...], Convolution],
) -> None:
    size, taps, shape = case
    gradient = make_case(*case)[3]
    apart = make_strided(4, *gradient.shape)
    check(make_strided(1, *size), make_strided(2, *taps), make_strided(3, taps[0]), apart, shape)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("limit", [1, 20_000, 60_000])
def test_bands_do_not_change_convolutions_exact_vector(
    monkeypatch: pytest.MonkeyPatch, limit: int, threads: int
) -> None:
    monkeypatch.setattr(geometry, "BAND_BYTES", limit)
    make_plan.cache_clear()
    for size, taps, shape in CASES:
        with with_threads(threads):
            check(*make_case(size, taps, shape), shape)
    make_plan.cache_clear()


@pytest.mark.parametrize("threads", THREADS)
def test_kernels_stay_inside_their_memory(threads: int) -> None:
    for size, taps, shape in CASES:
        x, weight, bias, gradient = make_case(size, taps, shape)
        with with_threads(threads):
            with guarded_memory():
                convolution(x, weight, bias, shape)
            with guarded_memory():
                convolution_input(gradient, weight, size, shape)
            with guarded_memory():
                convolution_weight(gradient, x, taps, shape)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_meet_the_padding_exact_vector(value: float) -> None:
    shape = PLAIN._replace(padding=(1, 1))
    for place in (0, 20, 5 * 3 * 9 - 1):  # in whole vectors and behind them
        x, weight, bias, gradient = make_case((4, 3, 6, 6), (5, 3, 3, 3), shape)
        weight.view(-1)[place] = value
        check(x, weight, bias, gradient, shape)
        assert convolution(x, weight, bias, shape).isnan().any()


def test_convolutions_of_no_images_exact_vector() -> None:
    x, weight, gradient = (
        torch.empty(0, 2, 5, 5),
        make_numbers(2, 3, 2, 3, 3),
        torch.empty(0, 3, 3, 3),
    )
    check(x, weight, None, gradient, PLAIN)


SCRIPT = """
import hashlib, torch
from tests.ml.arithmetic.test_convolution import CASES, make_case
from milepost_ml.arithmetic.backends import Convolution
from milepost_ml.arithmetic.cpu import convolution as c, products
from tests.support.float_bits import make_numbers
torch.set_num_threads(2)
digest = hashlib.sha256()
three = Convolution((1, 1), (1, 1), (1, 1), 1)
for size, taps, shape in [*CASES, ((40, 12, 14, 14), (13, 12, 3, 3), three)]:
    x, weight, bias, gradient = make_case(size, taps, shape)
    digest.update(c.convolution(x, weight, bias, shape).numpy().tobytes())
    digest.update(c.convolution_input(gradient, weight, size, shape).numpy().tobytes())
    digest.update(c.convolution_weight(gradient, x, taps, shape).numpy().tobytes())
for m, k, n in [(64, 300, 100), (15, 70, 257), (130, 40, 513), (3, 100, 10)]:
    a, b = make_numbers(1, m, k), make_numbers(2, k, n)
    digest.update(products.matmul(a, b).numpy().tobytes())
    digest.update(products.matmul(a, b.t().contiguous().t()).numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_tiles_of_other_processors_exact_vector() -> None:
    """The shape of tiles depends on the processor; the bits do not."""
    answers = set()
    for target in ({}, {"NUMBA_CPU_NAME": "haswell"}, {"NUMBA_CPU_NAME": "x86-64"}):
        features = {"NUMBA_CPU_FEATURES": ""} if target else {}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, **target, **features},
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
            text=True,
        )
        answers.add(done.stdout)
    assert len(answers) == 1
