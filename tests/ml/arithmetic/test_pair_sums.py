"""Sums over two arrays have the order that their module writes down, on every processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from milepost_ml.arithmetic.cpu.pair_sums import BLOCK_VALUES, SUMS, add_pair, make_sums

SIZES: Final = (0, 1, 7, 8, 9, 15, 16, 17, 31, 1000)


def make_pair(size: int, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Numbers of many magnitudes, so that another order would give other bits."""
    chance = np.random.default_rng(size)
    before, after = (
        chance.normal(size=size) * 2.0 ** chance.integers(-12, 12, size) for _ in range(2)
    )
    return before.astype(dtype), after.astype(dtype)


def sum_pair(before: NDArray[Any], after: NDArray[Any]) -> list[float]:
    sums = make_sums()
    add_pair(sums, before, after)
    return list(sums)


def _add_product(total: float, x: float, y: float) -> float:
    """Rounded once: Python rounds a fraction correctly."""
    return float(Fraction(total) + Fraction(x) * Fraction(y))


def sum_by_rule(before: NDArray[Any], after: NDArray[Any]) -> list[float]:
    """The module's text in plain Python."""
    result = [0.0] * SUMS
    for first in range(0, before.size, BLOCK_VALUES):
        lanes = np.zeros((SUMS, 8))
        for i in range(first, min(first + BLOCK_VALUES, before.size)):
            a, b = float(before[i]), float(after[i])
            d, p = b - a, lanes[:, (i - first) % 8]
            p[0] += abs(d)
            p[1] += abs(a)
            for k, (x, y) in enumerate(((d, d), (a, a), (b, b), (a, b), (d, a)), start=2):
                p[k] = _add_product(p[k], x, y)
            p[7] += abs((b + 1.5 * 2**28) - (a + 1.5 * 2**28))
        half = 4
        while half:
            lanes = lanes[:, :half] + lanes[:, half:]
            half //= 2
        result = [total + float(lanes[k, 0]) for k, total in enumerate(result)]
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*SIZES, pytest.param(BLOCK_VALUES + 5, marks=pytest.mark.slow)])
def test_bits_are_those_of_the_written_order(size: int, dtype: Any) -> None:
    pair = make_pair(size, dtype)
    assert sum_pair(*pair) == sum_by_rule(*pair)


def test_vectors_cut_at_blocks_give_the_bits_of_the_whole() -> None:
    before, after = make_pair(3 * BLOCK_VALUES + 100, np.float32)
    sums = make_sums()
    for start in range(0, before.size, BLOCK_VALUES):
        part = slice(start, start + BLOCK_VALUES)
        add_pair(sums, before[part], after[part])
    assert list(sums) == sum_pair(before, after)


def test_nothing_beyond_the_end_is_read_as_a_number() -> None:
    for size in range(1, 40):
        before, after = make_pair(size, np.float32)
        room = np.full((2, size + 32), np.nan, dtype=np.float32)
        room[0, :size], room[1, :size] = before, after
        assert sum_pair(room[0, :size], room[1, :size]) == sum_pair(before, after)


_PRINT: Final = """
import json
from tests.ml.arithmetic.test_pair_sums import make_pair, sum_pair
print(json.dumps([sum_pair(*make_pair(40_003, kind)) for kind in ("<f4", "<f8")]))
"""


@pytest.mark.slow
def test_a_processor_without_vectors_and_fused_products_gives_the_same_bits() -> None:
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PRINT], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [
        sum_pair(*make_pair(40_003, kind)) for kind in ("<f4", "<f8")
    ]


def test_the_framework_is_not_loaded_for_them() -> None:
    program = (
        "import sys, numpy; from milepost_ml.distance import compute_change;"
        " compute_change({'w': numpy.zeros(3)}, {'w': numpy.ones(3)});"
        " assert 'numba' in sys.modules and 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
