"""Small models of every kind a recipe must hold, with losses and data to train them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return result


class LeNet5(nn.Module):
    """LeNet-5 for 28 x 28 images: 61,706 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        result: torch.Tensor = self.fc3(torch.relu(self.fc2(x)))
        return result


class ConvNet(nn.Module):
    """Convolution, batch normalisation and dropout, with in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.BatchNorm2d(8, momentum=0.2),
            nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(x)
        return result


class Transformer(nn.Module):
    """An embedding, a block as torch ships it, a causal block by hand, and tied output weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.register_buffer("places", torch.randn(6, 16))
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.1, batch_first=True, activation="gelu"
        )
        self.mix = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.block(self.embed(x) + self.get_buffer("places"))
        q, k, v = self.mix(h).chunk(3, dim=-1)
        scores = q @ k.transpose(-2, -1) / 4.0
        mask = torch.tril(torch.ones(6, 6)) == 0
        h = self.norm(h + torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v)
        h = h + functional.scaled_dot_product_attention(h, h, h, is_causal=True)
        result: torch.Tensor = self.head(h).flatten(0, 1)
        return result


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(x)
        x, _ = self.gru(x)
        result: torch.Tensor = self.head(x[:, -1])
        return result


class Task(NamedTuple):
    """A model to make, its loss and its data: inputs and targets with equally many rows."""

    make: Callable[[], nn.Module]
    loss: Callable[[Any, Any], torch.Tensor]
    inputs: torch.Tensor
    targets: torch.Tensor


def flat_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output, target.flatten())


def make_task(name: str, records: int = 40) -> Task:
    """One of mlp, mlp-mse, lenet, convnet, transformer, recurrent; always the same data."""
    draw = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(records, *shape, generator=draw)

    def classes(count: int, *shape: int) -> torch.Tensor:
        return torch.randint(count, (records, *shape), generator=draw)

    if name == "mlp":
        return Task(MLP, functional.cross_entropy, normal(12), classes(4))
    if name == "mlp-mse":
        return Task(MLP, functional.mse_loss, normal(12), normal(4))
    if name == "lenet":
        return Task(LeNet5, nn.CrossEntropyLoss(), normal(1, 28, 28), classes(10))
    if name == "convnet":
        smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
        return Task(ConvNet, smooth, normal(1, 12, 12), classes(4))
    if name == "transformer":
        return Task(Transformer, flat_cross_entropy, classes(20, 6), classes(20, 6))
    if name == "recurrent":
        return Task(Recurrent, functional.cross_entropy, normal(5, 6), classes(4))
    raise KeyError(name)


TASKS = ("mlp", "mlp-mse", "lenet", "convnet", "transformer", "recurrent")


def make_model(task: Task, seed: int = 1) -> nn.Module:
    """The task's model with weights that depend on the seed only."""
    torch.manual_seed(seed)
    return task.make()
