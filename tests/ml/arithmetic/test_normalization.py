"""Normalization of rows and channels against the rules in NumPy, and against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from milepost_ml.arithmetic.cpu.normalization import (
    batch_norm,
    batch_norm_backward,
    layer_norm,
    layer_norm_backward,
)
from tests.support.float_bits import (
    Floats,
    assert_bits,
    make_numbers,
    make_strided,
    sum_in_lanes,
)
from tests.support.threads import with_threads

ONE = np.float32(1)


def compute_layer_norm(
    x: Floats, weight: Floats | None, bias: Floats | None, eps: float
) -> tuple[Any, ...]:
    n = np.float32(x.shape[1])
    with np.errstate(all="ignore"):
        m = sum_in_lanes(x) / n
        d = x - m[:, None]
        r = ONE / np.sqrt(sum_in_lanes(d * d) / n + np.float32(eps))
        y = d * r[:, None]
        y = y * weight if weight is not None else y
        y = y + bias if bias is not None else y
    return y, m, r


def compute_layer_norm_backward(
    g: Floats, x: Floats, m: Floats, r: Floats, weight: Floats | None
) -> tuple[Any, ...]:
    n = np.float32(x.shape[1])
    with np.errstate(all="ignore"):
        h = (x - m[:, None]) * r[:, None]
        q = g * weight if weight is not None else g
        c1, c2 = sum_in_lanes(q) / n, sum_in_lanes(q * h) / n
        gx = ((q - c1[:, None]) - (h * c2[:, None])) * r[:, None]
        return gx, sum_in_lanes(g * h, 0), sum_in_lanes(g, 0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("rows", "n"), [(1, 1), (5, 15), (16, 16), (17, 17), (33, 40), (3, 300), (70, 64), (0, 7)]
)
def test_layer_norm_exact_vector(
    rows: int, n: int, affine: bool, special: bool, threads: int
) -> None:
    x, g = make_numbers(1, rows, n, special=special), make_numbers(2, rows, n, special=special)
    weight = make_numbers(3, n, special=special) if affine else None
    bias = make_numbers(4, n, special=special) if affine else None
    of_weight = weight.numpy() if weight is not None else None
    expected = compute_layer_norm(
        x.numpy(), of_weight, bias.numpy() if bias is not None else None, 1e-5
    )
    with with_threads(threads):
        found = layer_norm(x, n, weight, bias, 1e-5)
        assert_bits(found, expected)
        assert_bits(
            layer_norm_backward(g, x, found[1], found[2], weight),
            compute_layer_norm_backward(
                g.numpy(), x.numpy(), found[1].numpy(), found[2].numpy(), of_weight
            ),
        )


def test_layer_norm_of_strided_tensors_exact_vector() -> None:
    x, g = make_strided(1, 9, 21), make_strided(2, 9, 21)
    assert not x.is_contiguous()
    found = layer_norm(x, 21, None, None, 1e-3)
    assert_bits(found, compute_layer_norm(x.numpy(), None, None, 1e-3))
    m, r = found[1], found[2]
    expected = compute_layer_norm_backward(g.numpy(), x.numpy(), m.numpy(), r.numpy(), None)
    assert_bits(layer_norm_backward(g, x, m, r, None), expected)


def test_layer_norm_is_the_layer_norm_of_pytorch() -> None:
    x, g = make_numbers(1, 6, 10), make_numbers(2, 6, 10)
    weight, bias = make_numbers(3, 10), make_numbers(4, 10)
    y, m, r = torch.ops.aten.native_layer_norm(x, [10], weight, bias, 1e-5)
    found = layer_norm(x, 10, weight, bias, 1e-5)
    for one, other in zip(found, (y, m.flatten(), r.flatten()), strict=True):
        torch.testing.assert_close(one, other)
    theirs = torch.ops.aten.native_layer_norm_backward(
        g, x, [10], m, r, weight, bias, [True, True, True]
    )
    ours = layer_norm_backward(g, x, m, r, weight)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def sum_channels(x: Floats) -> Floats:
    """Over pixels, then over images [E7]; x is (N, C, pixels)."""
    return sum_in_lanes(sum_in_lanes(x), 0)


def compute_batch_norm(
    x: Floats,
    weight: Floats | None,
    bias: Floats | None,
    running: tuple[Floats, Floats] | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Any, ...]:
    """y, m, r and the running values afterwards; x is (N, C, pixels)."""
    count = np.float32(x.shape[0] * x.shape[2])
    with np.errstate(all="ignore"):
        if training:
            m = sum_channels(x) / count
            d = x - m[:, None]
            q = sum_channels(d * d)
            v = q / count
            if running:
                old, new = np.float32(1 - momentum), np.float32(momentum)
                running = (
                    old * running[0] + new * m,
                    old * running[1] + new * (q / np.float32(int(count) - 1)),
                )
        else:
            assert running
            m, v = running
        r = ONE / np.sqrt(v + np.float32(eps))
        y = (x - m[:, None]) * r[:, None]
        y = y * weight[:, None] if weight is not None else y
        y = y + bias[:, None] if bias is not None else y
    return y, m, r, running


def compute_batch_norm_backward(
    g: Floats, x: Floats, weight: Floats | None, m: Floats, r: Floats, training: bool
) -> tuple[Any, ...]:
    count = np.float32(x.shape[0] * x.shape[2])
    with np.errstate(all="ignore"):
        h = (x - m[:, None]) * r[:, None]
        a, b = sum_channels(g * h), sum_channels(g)
        factor = (weight * r if weight is not None else r)[:, None]
        if training:
            gx = ((g - (b / count)[:, None]) - (h * (a / count)[:, None])) * factor
        else:
            gx = g * factor
    return gx, a, b


SHAPES = [(2, 3), (37, 19), (1, 3, 2), (3, 2, 7), (17, 3, 4, 4), (5, 4, 7, 7), (33, 2, 3, 11)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_exact_vector(
    shape: tuple[int, ...], training: bool, affine: bool, special: bool, threads: int
) -> None:
    channels = shape[1]
    x, g = make_numbers(1, *shape, special=special), make_numbers(2, *shape, special=special)
    planes = (shape[0], channels, -1)
    weight = make_numbers(3, channels, special=special) if affine else None
    bias = make_numbers(4, channels, special=special) if affine else None
    of_weight = weight.numpy() if weight is not None else None
    running = make_numbers(5, channels), make_numbers(6, channels).abs()
    before = running[0].numpy().copy(), running[1].numpy().copy()
    y, m, r, after = compute_batch_norm(
        x.reshape(planes).numpy(),
        of_weight,
        bias.numpy() if bias is not None else None,
        before,
        training,
        0.1,
        1e-5,
    )
    with with_threads(threads):
        found = batch_norm(x, weight, bias, *running, training, 0.1, 1e-5)
        assert_bits(found, (y.reshape(shape), m, r))
        assert_bits(running, after)
        expected = compute_batch_norm_backward(
            g.reshape(planes).numpy(), x.reshape(planes).numpy(), of_weight, m, r, training
        )
        assert_bits(
            batch_norm_backward(g, x, weight, found[1], found[2], training),
            (expected[0].reshape(shape), *expected[1:]),
        )
    assert all(tensor.is_contiguous() for tensor in found)


@pytest.mark.parametrize("shape", [(18, 5), (4, 3, 5, 6)])
def test_batch_norm_of_strided_tensors_exact_vector(shape: tuple[int, ...]) -> None:
    x, g = make_strided(1, *shape), make_strided(2, *shape)
    planes = (shape[0], shape[1], -1)
    running = make_strided(3, shape[1]), make_strided(4, shape[1])
    before = running[0].numpy().copy(), running[1].numpy().copy()
    of_x, of_g = x.reshape(planes).numpy(), g.reshape(planes).numpy()
    y, m, r, after = compute_batch_norm(of_x, None, None, before, True, 0.3, 1e-3)
    found = batch_norm(x, None, None, *running, True, 0.3, 1e-3)
    assert_bits(found, (y.reshape(shape), m, r))
    assert_bits(running, after)
    gx, a, b = compute_batch_norm_backward(of_g, of_x, None, m, r, True)
    found = batch_norm_backward(g, x, None, found[1], found[2], True)
    assert_bits(found, (gx.reshape(shape), a, b))


def test_batch_norm_without_running_values_exact_vector() -> None:
    x = make_numbers(1, 4, 3, 2)
    expected = compute_batch_norm(x.numpy(), None, None, None, True, 0.1, 1e-5)
    assert_bits(batch_norm(x, None, None, None, None, True, 0.1, 1e-5), expected[:3])


@pytest.mark.parametrize("shape", [(5, 1), (2, 1, 3)])
def test_batch_norm_stores_one_nan_exact_vector(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, -1, dtype=torch.int32).view(torch.float32)
    running = torch.zeros(1), torch.ones(1)
    batch_norm(x, None, None, *running, True, 0.1, 1e-5)
    for tensor in running:
        assert tensor.view(torch.int32).item() == 0x7FC00000


@pytest.mark.parametrize("mean", [float("inf"), float("nan")])
def test_gradients_with_an_infinite_mean_exact_vector(mean: float) -> None:
    """Nothing is multiplied past the end of a row: 0 times infinity would be NaN."""
    x, g = make_numbers(1, 3, 19), make_numbers(2, 3, 19).abs()
    m, r = torch.full((3,), mean), torch.ones(3)
    expected = compute_layer_norm_backward(g.numpy(), x.numpy(), m.numpy(), r.numpy(), None)
    assert_bits(layer_norm_backward(g, x, m, r, None), expected)
    x, g = x[None], g[None]
    expected = compute_batch_norm_backward(
        g.numpy(), x.numpy(), None, m.numpy(), r.numpy(), training=False
    )
    assert np.isnan(expected[1]).all() == np.isnan(mean)
    assert_bits(batch_norm_backward(g, x, None, m, r, training=False), expected)


def test_batch_norm_refuses_one_element_a_channel() -> None:
    with pytest.raises(ValueError, match="two elements a channel"):
        batch_norm(torch.ones(1, 3, 1, 1), None, None, None, None, True, 0.1, 1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 6, 6)])
def test_batch_norm_is_the_batch_norm_of_pytorch(shape: tuple[int, ...], training: bool) -> None:
    x, g = make_numbers(1, *shape), make_numbers(2, *shape)
    channels = shape[1]
    weight, bias = make_numbers(3, channels), make_numbers(4, channels)
    mean, var = make_numbers(5, channels), make_numbers(6, channels).abs() + 1
    running = mean.clone(), var.clone()
    y, m, r = torch.ops.aten.native_batch_norm(x, weight, bias, mean, var, training, 0.1, 1e-5)
    found = batch_norm(x, weight, bias, *running, training, 0.1, 1e-5)
    torch.testing.assert_close(found[0], y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(running, (mean, var))
    theirs = torch.ops.aten.native_batch_norm_backward(
        g, x, weight, mean, var, m, r, training, 1e-5, [True, True, True]
    )
    ours = batch_norm_backward(g, x, weight, found[1], found[2], training)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
