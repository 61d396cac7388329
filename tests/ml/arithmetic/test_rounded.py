"""Tensors change their type in place and come back with the same values."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from milepost_ml.arithmetic.profiles import Profile, RoundedProfile
from milepost_ml.arithmetic.rounded import Widened, convert, round_tensors


def test_tensors_are_widened_and_restored_in_place() -> None:
    weight = nn.Parameter(torch.tensor([1.5, -0.0]))
    weight.grad = torch.ones(2)
    half = torch.tensor([0.5], dtype=torch.float16)
    count = torch.tensor(3)
    widened = Widened([weight, half, count], RoundedProfile())
    assert (weight.dtype, half.dtype, count.dtype) == (torch.float64, torch.float64, torch.int64)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float64
    assert weight.requires_grad
    (weight * weight).sum().backward()  # type: ignore[no-untyped-call]
    widened.restore()
    assert (weight.dtype, half.dtype, count.dtype) == (torch.float32, torch.float16, torch.int64)
    assert weight.grad.dtype == torch.float32
    assert weight.grad.tolist() == [4.0, 1.0]
    assert weight.detach().view(torch.int32).tolist() == [0x3FC00000, -(2**31)]


def test_a_pause_gives_the_same_tensors_back() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    widened = Widened([weight], RoundedProfile())
    with torch.no_grad():
        weight.fill_(1 + 2.0**-40)
    weight.grad = torch.full((1,), 2.0**-1000, dtype=torch.float64)
    with widened.paused():
        assert weight.dtype == torch.float32
        with torch.no_grad():
            weight.fill_(9.0)
        weight.grad = None
    assert weight.item() == 1 + 2.0**-40
    assert weight.grad is not None
    assert weight.grad.item() == 2.0**-1000


def test_profile_class_widens_nothing() -> None:
    weight = nn.Parameter(torch.ones(2))
    address = weight.data_ptr()
    widened = Widened([weight], Profile())
    with widened.paused():
        pass
    widened.restore()
    assert (weight.dtype, weight.data_ptr()) == (torch.float32, address)


def test_values_are_rounded_to_nearest_in_place_and_halves_away_from_zero() -> None:
    ulp = 2.0**-23
    values = [1 + 0.4 * ulp, 1 + 1.6 * ulp, -1 - 2.4 * ulp, 2.0**-149, 1e39, -0.0]
    halves = torch.tensor([1 + ulp / 2, -1 - ulp / 2, 1 + 0.499 * ulp], dtype=torch.float64)
    # What one processor rounds to just below the middle and another to the middle goes one way.
    below = torch.nextafter(halves, torch.zeros(3, dtype=torch.float64))
    for tensor in (halves, below):
        (found,) = round_tensors([tensor], [torch.float32])
        assert found.tolist() == [1 + ulp, -1 - ulp, 1.0]
    wide = torch.tensor(values, dtype=torch.float64)
    same = torch.ones(2)
    narrow, kept = round_tensors([wide, same], [torch.float32, torch.float32])
    with np.errstate(over="ignore"):
        expected = np.array(values).astype(np.float32)
    assert narrow.numpy().view(np.int32).tolist() == expected.view(np.int32).tolist()
    assert wide.dtype == torch.float64
    assert wide.numpy().tobytes() == expected.astype(np.float64).tobytes()
    assert kept is same


def test_conversion_to_the_same_type_touches_nothing() -> None:
    weight = nn.Parameter(torch.ones(2))
    version = weight._version
    convert(weight, torch.float32)
    assert weight._version == version
