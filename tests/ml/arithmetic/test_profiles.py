"""Profiles set PyTorch up for a step, and only for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.payloads import KNOWN_PROFILES, validate_device_class
from milepost_ml.arithmetic.exact import is_active
from milepost_ml.arithmetic.profiles import make_profile


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_profile_can_be_made() -> None:
    assert [make_profile(name).name for name in KNOWN_PROFILES] == list(KNOWN_PROFILES)
    with pytest.raises(KeyError):
        make_profile("magic")


@pytest.mark.parametrize("name", KNOWN_PROFILES)
def test_a_device_class_belongs_to_its_profile(name: str) -> None:
    device_class = make_profile(name).get_device_class()
    validate_device_class(name, device_class)
    for other in set(KNOWN_PROFILES) - {name}:
        with pytest.raises(InvalidTransaction, match="does not belong"):
            validate_device_class(other, device_class)


@pytest.mark.parametrize("name", KNOWN_PROFILES)
def test_settings_are_those_that_repeat(name: str) -> None:
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(False)
    make_profile(name).configure()
    assert torch.get_num_threads() == (1 if name == "class" else 2)
    assert torch.are_deterministic_algorithms_enabled()
    assert (torch.tensor(1e-40) * 1.0).item() > 0, "denormal numbers are kept"


@pytest.mark.parametrize("name", KNOWN_PROFILES)
def test_arithmetic_is_active_inside_only_and_many_times(name: str) -> None:
    profile = make_profile(name)
    for _ in range(2):
        with profile.active():
            assert is_active() == (name == "exact")
            assert torch.ones(1).dtype == profile.dtype
        assert not is_active()
        assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", KNOWN_PROFILES)
def test_chance_is_keyed(name: str) -> None:
    profile = make_profile(name)
    drawn = []
    for seed in (5, 5, 6):
        profile.reseed(seed)
        with profile.active():
            drawn.append(torch.rand(8))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_rounded_gradients_have_eight_bits_and_no_noise() -> None:
    exact = [1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.0**-9, -(2.0**-40), 1.01 * 2.0**-41, float("inf")]
    gradient = torch.tensor(exact, dtype=torch.float64)
    make_profile("rounded").round_gradients([gradient])
    # Ties go to the even neighbour; 3^-9 is 1.665... * 2^-15.
    third = round(3.0**-9 * 2**22) / 2**22
    assert gradient.tolist() == [1.0, 1.0, 1 + 2.0**-6, third, -(2.0**-40), 0.0, float("inf")]
    assert gradient.dtype == torch.float64
    for name in ("exact", "class"):
        same = torch.tensor([1 + 2.0**-20, 2.0**-60])
        make_profile(name).round_gradients([same])
        assert same.tolist() == [1 + 2.0**-20, 2.0**-60]


@pytest.mark.parametrize(("name", "fused"), [("exact", True), ("rounded", False), ("class", False)])
def test_the_optimizers_implementation_is_chosen_and_restored(name: str, fused: bool) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    before = {**optimizer.param_groups[0]}
    undo = make_profile(name).set_options(optimizer)
    assert optimizer.param_groups[0]["fused"] is fused
    undo()
    assert optimizer.param_groups[0] == before
