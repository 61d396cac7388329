"""The quick trainer computes what torch's own layers, autograd and optimizers compute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from milepost_experiments.dense import OPTIMIZERS, DenseNetwork
from torch import nn

SIZES = (12, 7, 5, 3)
RATE = 0.01


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_twin(network: DenseNetwork) -> nn.Sequential:
    """The same network out of torch's parts."""
    layers: list[nn.Module] = []
    for size, out in itertools.pairwise(SIZES):
        layers += [nn.Linear(size, out), nn.ReLU()]
    twin = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        values = network.copy_parameters().values()
        for parameter, value in zip(twin.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return twin


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(model.parameters(), RATE)
    return torch.optim.SGD(model.parameters(), RATE, momentum=0.9 if name == "momentum" else 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch(name: str) -> None:
    network = DenseNetwork(SIZES, 3)
    twin = make_twin(network)
    optimizer = make_optimizer(name, twin)
    chance = torch.Generator().manual_seed(4)
    for _ in range(20):
        inputs = torch.rand(16, SIZES[0], generator=chance)
        labels = torch.randint(SIZES[-1], (16,), generator=chance)
        network.take_step(inputs, labels, rate=RATE, optimizer=name)
        loss = nn.functional.cross_entropy(twin(inputs), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for mine, theirs in zip(network.copy_parameters().values(), twin.parameters(), strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), theirs.detach(), rtol=1e-4, atol=1e-6)
    images = torch.rand(50, SIZES[0], generator=chance)
    assert network.predict(images.numpy()).tolist() == twin(images).argmax(dim=1).tolist()


def test_a_seed_gives_weights_within_torchs_bounds() -> None:
    first, again, other = (DenseNetwork(SIZES, seed).copy_parameters() for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert not all((first[name] == other[name]).all() for name in first)
    assert list(first) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    bound = SIZES[0] ** -0.5
    assert 0.8 * bound < abs(first["0.weight"]).max() <= bound


def test_parameters_can_be_put_back() -> None:
    network = DenseNetwork(SIZES, 1)
    kept = network.copy_parameters()
    inputs, labels = torch.rand(4, SIZES[0]), torch.tensor([0, 1, 2, 0])
    network.take_step(inputs, labels, rate=0.5, optimizer="sgd")
    assert not (network.copy_parameters()["0.weight"] == kept["0.weight"]).all()
    network.set_parameters(kept)
    assert all((network.copy_parameters()[name] == kept[name]).all() for name in kept)
