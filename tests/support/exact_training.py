"""The four models of the training vectors in plain PyTorch, and their hundred steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.reference.training import MODELS, STEPS, compute_digest, make_batches, make_tensors

HEADS: Final = 4


class Mlp(nn.Module):
    """784-256-128-10."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 256), nn.Linear(256, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        result: Tensor = self.fc3(x)
        return result


class LeNet(nn.Module):
    """LeNet-5 with relu and max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        x = torch.relu(self.fc2(x))
        result: Tensor = self.fc3(x)
        return result


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        if stride != 1:
            self.conv3 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.norm3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        around = x if self.stride == 1 else self.norm3(self.conv3(x))
        return torch.relu(y + around)


class ResNet(nn.Module):
    """Convolution, two residual blocks, mean over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.two = Block(8, 8, 1), Block(8, 16, 2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(torch.relu(self.norm(self.conv(x)))))
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


class Transformer(nn.Module):
    """One causal block; logits of all tokens, (N T, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(32, 32)
        self.positions = nn.Parameter(torch.zeros(16, 32))
        self.norm1, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(32), nn.Linear(32, 128), nn.Linear(128, 32)
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions
        n, t, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, t, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        result: Tensor = self.head(x).flatten(0, 1)
        return result


_CLASSES: Final[dict[str, Callable[[], nn.Module]]] = {
    "mlp": Mlp,
    "lenet": LeNet,
    "resnet": ResNet,
    "transformer": Transformer,
}


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """The vector's optimizer, fused as exact training has it."""
    settings = dict(MODELS[name].optimizer)
    named = dict(model.named_parameters())
    parameters = [named[key] for key in MODELS[name].shapes]
    if settings.pop("kind") == "sgd":
        return torch.optim.SGD(parameters, fused=True, **settings)
    settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
    return torch.optim.AdamW(parameters, fused=True, **settings)


def _get_state(name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    for key, parameter in model.named_parameters():
        for slot, tensor in optimizer.state[parameter].items():
            if isinstance(tensor, Tensor):
                state[f"optimizer.{key}.{slot}"] = tensor
    return {key: tensor.detach().cpu().numpy() for key, tensor in state.items()}


def train(
    name: str, mode: AbstractContextManager[Any], *, device: str = "cpu", steps: int = STEPS
) -> dict[str, Any]:
    """Losses and digests as in tests/vectors/exact/training.json, trained inside `mode`."""
    model = _CLASSES[name]().to(device)
    start = {key: torch.from_numpy(np.array(a)) for key, a in make_tensors(name).items()}
    model.load_state_dict(start)
    optimizer = make_optimizer(name, model)
    losses, digests = [], []
    for step, batch in zip(range(1, steps + 1), make_batches(name), strict=False):
        x, target = (torch.from_numpy(batch[key]).to(device) for key in ("x", "target"))
        with mode:
            loss = functional.cross_entropy(model(x), target.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        losses.append(loss.detach().cpu().numpy().astype("<f4").tobytes().hex())
        if step % 10 == 0:
            gradients = {
                key: parameter.grad.cpu().numpy()
                for key, parameter in model.named_parameters()
                if parameter.grad is not None
            }
            digests.append(
                {
                    "step": step,
                    "gradients": compute_digest(gradients),
                    "state": compute_digest(_get_state(name, model, optimizer)),
                }
            )
    return {"losses": losses, "digests": digests}
