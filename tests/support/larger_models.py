"""Models an order and more above the small ones, as people write them, and real data to train them.

ResNet-18 with its stem for small images (He et al., arXiv 1512.03385) on MNIST digits, and a
transformer in the manner of GPT-2 on the text of this repository's documents, byte by byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from milepost_ml.datasets import load_mnist_5k
from tests.support.models import Task, flat_cross_entropy

DOCUMENTS: Final = Path(__file__).parents[2] / "docs"
DIGITS: Final = 64
"""How many images the task has, spread over all classes."""
CONTEXT: Final = 64
"""Bytes of text in a record."""


class Block(nn.Module):
    """Two convolutions and the way around them, through a third where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.around = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(h + self.around(x))


class ResNet18(nn.Module):
    """Standard widths, 3 x 3 stem without pooling: 11,173,962 parameters for 3 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        self.body = nn.Sequential(
            *(Block(64, 64, 1), Block(64, 64, 1)),
            *(Block(64, 128, 2), Block(128, 128, 1)),
            *(Block(128, 256, 2), Block(256, 256, 1)),
            *(Block(256, 512, 2), Block(512, 512, 1)),
        )
        self.head = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return result


class Layer(nn.Module):
    """Causal attention with four heads and two linear maps, each after a layer normalisation."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, places, width = x.shape
        parts = self.mix(self.norm1(x)).view(batch, places, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.join(seen.transpose(1, 2).reshape(batch, places, width)))
        result: torch.Tensor = x + self.feed(self.norm2(x))
        return result


class TextModel(nn.Module):
    """Four layers of width 128 over bytes, output weights tied to the embedding."""

    def __init__(self, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.places = nn.Parameter(torch.zeros(CONTEXT, width))
        self.drop = nn.Dropout(0.1)
        self.layers = nn.Sequential(*(Layer(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layers(self.drop(self.embed(x) + self.places))
        result: torch.Tensor = self.head(self.norm(h)).flatten(0, 1)
        return result


def make_digits_task(side: int = 32) -> Task:
    """ResNet-18 on MNIST digits as colour images of `side` pixels, of each class equally many."""
    images, labels = load_mnist_5k()
    chosen = torch.arange(0, len(labels), len(labels) // DIGITS)[:DIGITS]
    margin = (side - images.shape[-1]) // 2
    grey = functional.pad(torch.from_numpy(images)[chosen], (margin,) * 4)
    colour = grey.expand(-1, 3, -1, -1).contiguous()
    return Task(ResNet18, functional.cross_entropy, colour, torch.from_numpy(labels)[chosen])


def make_text_task() -> Task:
    """The text model on the repository's documents: each byte is to be told from those before."""
    text = b"".join(path.read_bytes() for path in sorted(DOCUMENTS.glob("*.md")))
    whole = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    records = (len(whole) - 1) // CONTEXT
    inputs = whole[: records * CONTEXT].view(records, CONTEXT)
    targets = whole[1 : records * CONTEXT + 1].view(records, CONTEXT)
    return Task(TextModel, flat_cross_entropy, inputs.clone(), targets.clone())
