"""Softmax, its logarithm and the negative log-likelihood against the rules in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu import softmax as kernels
from tests.reference import losses as reference
from tests.support.float_bits import Floats, assert_bits, make_numbers, make_strided
from tests.support.threads import with_threads

SHAPES = [
    *(((n,), 0) for n in (1, 2, 15, 16, 17, 33)),
    *(((20, n), 1) for n in (1, 10, 16, 17, 100)),
    *(((20, n), 0) for n in (1, 10, 33)),
    *(((4, 5, 6), dim) for dim in (0, 1, 2, -1, -2)),
    *(((600, 19), 1), ((3, 5000), 1), ((0, 5), 1), ((5, 0), 1), ((2, 3, 0), 1)),
]

FORWARD: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": kernels.softmax,
    "log_softmax": kernels.log_softmax,
}
BACKWARD: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "softmax_backward": kernels.softmax_backward,
    "log_softmax_backward": kernels.log_softmax_backward,
}


def compute(name: str, dim: int, *tensors: Tensor) -> Floats:
    if not tensors[0].numel():
        return np.empty(tensors[0].shape, np.float32)
    with np.errstate(all="ignore"):
        result: Floats = getattr(reference, name)(*(x.numpy() for x in tensors), dim)
    return result


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_softmax_exact_vector(
    name: str, shape: tuple[int, ...], dim: int, special: bool, threads: int
) -> None:
    x, gradient = make_numbers(1, *shape, special=special), make_numbers(2, *shape)
    with with_threads(threads):
        if name in FORWARD:
            assert_bits(FORWARD[name](x, dim), compute(name, dim, x))
        else:
            found = BACKWARD[name](gradient, x, dim)
            assert_bits(found, compute(name, dim, gradient, x))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_softmax_of_strided_tensors_exact_vector(dim: int) -> None:
    x, gradient = make_strided(1, 5, 17, 3), make_strided(2, 5, 17, 3)
    for name, forward in FORWARD.items():
        found = forward(x, dim)
        assert found.is_contiguous()
        assert_bits(found, compute(name, dim, x))
    for name, backward in BACKWARD.items():
        found = backward(gradient, x, dim)
        assert found.is_contiguous()
        assert_bits(found, compute(name, dim, gradient, x))


def test_softmax_of_a_single_number_exact_vector() -> None:
    for value in (3.0, -np.inf, np.inf, np.nan):
        x = torch.tensor(value)
        sure = np.asarray(1.0 if value == 3.0 else np.nan, np.float32)
        assert_bits(kernels.softmax(x, 0), sure)
        assert_bits(kernels.log_softmax(x, 0), np.log(sure))
    assert_bits(kernels.softmax_backward(torch.tensor(2.0), torch.tensor(1.0), 0), np.float32(0))


def test_masked_and_equal_elements_exact_vector() -> None:
    x = torch.tensor([[0.0, -np.inf, 0.0, -0.0], [-np.inf] * 4, [-5.0] * 4])
    found = kernels.softmax(x, 1)
    assert_bits(found, compute("softmax", 1, x))
    assert found[0, 1] == 0
    assert found[1].isnan().all()
    assert (found[2] == 0.25).all()


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [-100, 2])
@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 200])
def test_nll_loss_exact_vector(rows: int, ignore: int, weighted: bool, reduction: int) -> None:
    classes = 7
    x = make_strided(1, rows, classes, special=True)
    weight = make_strided(2, classes) if weighted else None
    target = torch.from_numpy(np.random.default_rng(3).integers(0, classes, rows))
    if ignore < 0:
        target[::4] = ignore
    numbers = None if weight is None else weight.numpy()
    arrays = x.numpy(), target.numpy(), numbers, reduction, ignore
    with np.errstate(all="ignore"):
        loss, total = reference.nll_loss(*arrays)
    found = kernels.nll_loss(x, target, weight, reduction, ignore)
    assert_bits(found, (loss, total))
    gradient = make_numbers(4, *loss.shape)
    with np.errstate(all="ignore"):
        slopes = reference.nll_loss_backward(gradient.numpy(), *arrays, total)
    assert_bits(
        kernels.nll_loss_backward(gradient, x, target, weight, reduction, ignore, found[1]), slopes
    )


@pytest.mark.parametrize("outside", [-1, 3, 2**40, -(2**40)])
def test_nll_loss_refuses_a_target_outside(outside: int) -> None:
    target = torch.tensor([0, outside, 1])
    with pytest.raises(IndexError, match="outside the 3 classes"):
        kernels.nll_loss(torch.zeros(3, 3), target, None, 1, -100)
    one = torch.tensor(1.0)
    with pytest.raises(IndexError, match="outside the 3 classes"):
        kernels.nll_loss_backward(one, torch.zeros(3, 3), target, None, 1, -100, one)


def test_a_gradient_of_every_row_by_stride_exact_vector() -> None:
    x, target = make_numbers(1, 6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    gradient = torch.tensor(1.5).expand(6)
    total = torch.tensor(0.0)
    found = kernels.nll_loss_backward(gradient, x, target, None, 0, -100, total)
    expected = np.zeros((6, 4), np.float32)
    expected[np.arange(6), target.numpy()] = -1.5
    assert_bits(found, expected)
