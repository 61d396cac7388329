"""The models that benchmarks train."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class LeNet5(nn.Module):
    """61,706 parameters: two convolutions, three linear layers, tanh, average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def make_mlp() -> nn.Module:
    """235,146 parameters: the recorder's hardest case, much state for little arithmetic."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class _Block(nn.Module):
    """Two 3x3 convolutions with batch-norm and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(y)) + self.around(x))


class ResNet(nn.Module):
    """About 20,000 parameters: seven 3x3 convolutions, 8 to 32 channels, batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(_Block(8, 8, 1), _Block(8, 16, 2), _Block(16, 32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: torch.Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Transformer(nn.Module):
    """About 60,000 parameters: one causal block of width 64, four heads, over 32 tokens."""

    VOCABULARY, LENGTH, WIDTH, HEADS = 64, 32, 64, 4

    def __init__(self) -> None:
        super().__init__()
        width = self.WIDTH
        self.tokens = nn.Embedding(self.VOCABULARY, width)
        self.places = nn.Parameter(torch.randn(self.LENGTH, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.head = nn.Linear(width, self.VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places
        batch, length, width = x.shape
        mixed = self.mix(self.norm(x)).view(batch, length, 3, self.HEADS, width // self.HEADS)
        q, k, v = mixed.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        x = x + self.inner(self.second_norm(x))
        logits: torch.Tensor = self.head(x)
        return logits
