"""Rows added at indices against the rule in NumPy, and against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu.embedding import index_add
from tests.support.float_bits import Floats, assert_bits, make_numbers, make_strided
from tests.support.threads import with_threads


def compute_index_add(base: Tensor, index: Tensor, rows: Tensor, skip: int) -> Floats:
    out: Floats = base.numpy().copy()
    with np.errstate(all="ignore"):
        for i, row in zip(index.tolist(), rows.numpy(), strict=True):
            if i != skip:
                out[i] = out[i] + row
    return out


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("skip", [-1, 2])
@pytest.mark.parametrize(
    ("size", "count", "width"),
    [(3, 1, 1), (5, 40, 15), (4, 33, 16), (7, 0, 17), (10, 64, 33), (3, 9, 70), (4, 5, 0)],
)
def test_index_add_exact_vector(
    size: int, count: int, width: int, skip: int, special: bool, threads: int
) -> None:
    base = make_numbers(1, size, width, special=special)
    rows = make_numbers(2, count, width, special=special)
    index = torch.from_numpy(np.random.default_rng(3).integers(0, size, count))
    before = base.clone()
    with with_threads(threads):
        found = index_add(base, index, rows, skip)
    assert_bits(found, compute_index_add(base, index, rows, skip))
    assert_bits(base, before.numpy())


def test_index_add_of_strided_tensors_exact_vector() -> None:
    base, rows = make_strided(1, 6, 20), make_strided(2, 30, 20)
    index = torch.arange(60)[::2] % 6
    found = index_add(base, index, rows, 0)
    assert found.is_contiguous()
    assert_bits(found, compute_index_add(base, index, rows, 0))


@pytest.mark.parametrize("skip", [-1, 5, 1])
@pytest.mark.parametrize("index", [-1, 5, 2**40])
def test_index_add_refuses_an_index_outside(index: int, skip: int) -> None:
    with pytest.raises(IndexError, match="outside the 5 rows"):
        index_add(torch.zeros(5, 3), torch.tensor([0, index]), torch.ones(2, 3), skip)


def test_index_add_refuses_an_index_outside_without_columns() -> None:
    with pytest.raises(IndexError):
        index_add(torch.zeros(5, 0), torch.tensor([9]), torch.ones(1, 0), -1)


def test_index_add_is_the_gradient_of_an_embedding() -> None:
    g, index = make_numbers(1, 50, 20), torch.arange(50) % 7
    theirs = torch.ops.aten.embedding_dense_backward(g, index, 9, 3, False)
    torch.testing.assert_close(index_add(torch.zeros(9, 20), index, g, 3), theirs)
