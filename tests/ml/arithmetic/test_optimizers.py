"""Steps of optimizers against the rules in NumPy, and against PyTorch's optimizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost_ml.arithmetic.cpu.optimizers import PIECE_ELEMENTS, adam, sgd
from tests.support.float_bits import Floats, assert_bits, make_numbers, make_strided
from tests.support.threads import with_threads

SHAPES = [(1,), (15,), (4, 4), (17,), (0, 3), (), (3, PIECE_ELEMENTS), (PIECE_ELEMENTS + 1,)]

F = np.float32


def make_tensors(seed: int, *, special: bool = False) -> list[Tensor]:
    return [make_numbers(seed + i, *shape, special=special) for i, shape in enumerate(SHAPES)]


def as_arrays(tensors: Sequence[Tensor]) -> list[Floats]:
    return [tensor.numpy().copy() for tensor in tensors]


def compute_sgd(
    p: Floats,
    g: Floats,
    b: Floats | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> tuple[Floats, Floats | None]:
    with np.errstate(all="ignore"):
        if weight_decay:
            g = g + F(weight_decay) * p
        if b is not None:
            b = g if first else F(momentum) * b + F(1 - dampening) * g
            g = g + F(momentum) * b if nesterov else b
        return p - F(lr) * g, b


SGD_OPTIONS = [
    (0.0, 0.0, 0.0, False),
    (0.0, 0.0, 0.01, False),
    (0.9, 0.0, 0.0, False),
    (0.9, 0.3, 0.01, False),
    (0.8, 0.0, 0.01, True),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("momentum", "dampening", "weight_decay", "nesterov"), SGD_OPTIONS)
def test_sgd_exact_vector(
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    special: bool,
    threads: int,
) -> None:
    parameters = make_tensors(10, special=special)
    momenta = [torch.full_like(p, 5.0) for p in parameters] if momentum else []
    expected = as_arrays(parameters)
    buffers: list[Floats | None] = list(as_arrays(momenta)) or [None] * len(expected)
    for step in range(3):
        gradients = make_tensors(20 + 10 * step, special=special)
        before = as_arrays(gradients)
        options: dict[str, Any] = {
            "lr": 0.1 / (step + 1),
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "first": step == 0,
        }
        with with_threads(threads):
            sgd(parameters, gradients, momenta, **options)
        for i, (p, g) in enumerate(zip(expected, before, strict=True)):
            expected[i], buffers[i] = compute_sgd(p, g, buffers[i], **options)
        assert_bits(parameters, expected)
        assert_bits(gradients, before)
        if momenta:
            assert_bits(momenta, buffers)


def test_sgd_of_strided_tensors_exact_vector() -> None:
    p, g, b = make_strided(1, 5, 9), make_strided(2, 5, 9), make_strided(3, 5, 9)
    options: dict[str, Any] = {
        "lr": 0.1,
        "momentum": 0.9,
        "dampening": 0.0,
        "weight_decay": 0.1,
        "nesterov": False,
        "first": False,
    }
    expected = compute_sgd(p.numpy().copy(), g.numpy().copy(), b.numpy().copy(), **options)
    sgd([p], [g], [b], **options)
    assert not p.is_contiguous()
    assert_bits([p, b], expected)


@pytest.mark.parametrize(("momentum", "dampening", "weight_decay", "nesterov"), SGD_OPTIONS)
def test_sgd_is_the_sgd_of_pytorch(
    momentum: float, dampening: float, weight_decay: float, nesterov: bool
) -> None:
    p = make_numbers(1, 40)
    theirs = p.clone().requires_grad_()
    optimizer = torch.optim.SGD([theirs], 0.1, momentum, dampening, weight_decay, nesterov)
    momenta = [torch.zeros(40)] if momentum else []
    for step in range(4):
        g = make_numbers(2 + step, 40)
        theirs.grad = g
        optimizer.step()
        sgd(
            [p],
            [g],
            momenta,
            lr=0.1,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            first=step == 0,
        )
        torch.testing.assert_close(p, theirs.detach(), rtol=1e-5, atol=1e-4)


def raise_by_squaring(base: float, exponent: int) -> float:
    """base^exponent with the factors of [E29], lowest bit of the exponent first."""
    result = 1.0
    for bit in reversed(f"{exponent:b}"):
        if bit == "1":
            result *= base
        base *= base
    return result


def compute_adam(
    p: Floats,
    g: Floats,
    m: Floats,
    v: Floats,
    w: Floats | None,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    decoupled: bool,
) -> tuple[Floats, ...]:
    with np.errstate(all="ignore"):
        if weight_decay and decoupled:
            p = p * F(1 - lr * weight_decay)
        elif weight_decay:
            g = g + F(weight_decay) * p
        m = m + F(1 - beta1) * (g - m)
        v = F(beta2) * v + F(1 - beta2) * (g * g)
        used = v
        if w is not None:
            used = w = np.asarray(np.where(np.isnan(w) | (w > v), w, v), np.float32)
        rate = F(lr / (1 - raise_by_squaring(beta1, step)))
        correction = F(math.sqrt(1 - raise_by_squaring(beta2, step)))
        p = np.asarray(p - rate * (m / (np.sqrt(used) / correction + F(eps))), F)
    return (p, m, v) if w is None else (p, m, v, w)


ADAM_OPTIONS = [
    (0.0, False, False),
    (0.02, False, True),
    (0.02, True, False),
    (0.0, True, True),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("weight_decay", "decoupled", "amsgrad"), ADAM_OPTIONS)
def test_adam_exact_vector(
    weight_decay: float, decoupled: bool, amsgrad: bool, special: bool, threads: int
) -> None:
    state = [make_tensors(10, special=special)]
    state += [[torch.zeros_like(p) for p in state[0]] for _ in range(3 if amsgrad else 2)]
    expected = [as_arrays(tensors) for tensors in state]
    # Parameters that came later have taken fewer steps.
    steps = [torch.tensor(float(5 * i)) for i in range(len(SHAPES))]
    options: dict[str, Any] = {
        "lr": 0.003,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": weight_decay,
        "eps": 1e-8,
        "decoupled": decoupled,
    }
    for step in range(3):
        gradients = make_tensors(20 + 10 * step, special=special)
        before = as_arrays(gradients)
        for tensor in steps:
            tensor.add_(1)
        with with_threads(threads):
            adam(
                state[0],
                gradients,
                state[1],
                state[2],
                state[3] if amsgrad else [],
                steps,
                **options,
            )
        for i, g in enumerate(before):
            p, m, v = (tensors[i] for tensors in expected[:3])
            w = expected[3][i] if amsgrad else None
            new = compute_adam(p, g, m, v, w, int(steps[i].item()), **options)
            for tensors, value in zip(expected, new, strict=True):
                tensors[i] = value
        for ours, wanted in zip(state, expected, strict=True):
            assert_bits(ours, wanted)
        assert_bits(gradients, before)


def test_adam_of_strided_tensors_exact_vector() -> None:
    tensors = [make_strided(i, 5, 9) for i in range(4)]
    tensors[3] = make_strided(9, 5, 9).abs()
    options: dict[str, Any] = {
        "lr": 0.1,
        "beta1": 0.8,
        "beta2": 0.95,
        "weight_decay": 0.0,
        "eps": 1e-6,
        "decoupled": False,
    }
    p, g, m, v = tensors
    of_p, of_g, of_m, of_v = as_arrays(tensors)
    adam([p], [g], [m], [v], [], [torch.tensor(7.0)], **options)
    assert_bits([p, m, v], compute_adam(of_p, of_g, of_m, of_v, None, 7, **options))


@pytest.mark.parametrize(("weight_decay", "decoupled", "amsgrad"), ADAM_OPTIONS)
def test_adam_is_the_adam_of_pytorch(weight_decay: float, decoupled: bool, amsgrad: bool) -> None:
    p = make_numbers(1, 40)
    theirs = p.clone().requires_grad_()
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([theirs], 0.01, weight_decay=weight_decay, amsgrad=amsgrad)
    m, v, w, steps = torch.zeros(40), torch.zeros(40), torch.zeros(40), torch.zeros(())
    for step in range(5):
        g = make_numbers(2 + step, 40)
        theirs.grad = g
        optimizer.step()
        steps += 1
        adam(
            [p],
            [g],
            [m],
            [v],
            [w] if amsgrad else [],
            [steps],
            lr=0.01,
            beta1=0.9,
            beta2=0.999,
            weight_decay=weight_decay,
            eps=1e-8,
            decoupled=decoupled,
        )
        torch.testing.assert_close(p, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_steps_store_one_nan_exact_vector() -> None:
    odd = torch.tensor([-1, 0x7F800001, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    p, g, m, v, w, b = (odd.clone() for _ in range(6))
    adam(
        [p],
        [g],
        [m],
        [v],
        [w],
        [torch.tensor(1.0)],
        lr=0.1,
        beta1=0.9,
        beta2=0.99,
        weight_decay=0.1,
        eps=1e-8,
        decoupled=True,
    )
    q = odd.clone()
    for first in (True, False):
        sgd(
            [q],
            [g],
            [b],
            lr=0.1,
            momentum=0.5,
            dampening=0.0,
            weight_decay=0.0,
            nesterov=False,
            first=first,
        )
        assert (b.view(torch.int32) == 0x7FC00000).all()
    for tensor in (p, m, v, w, q):
        assert (tensor.view(torch.int32) == 0x7FC00000).all()


def test_steps_without_parameters_do_nothing() -> None:
    sgd(
        [],
        [],
        [],
        lr=0.1,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        first=True,
    )
