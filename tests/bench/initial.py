"""Whether models train from derived initial weights as they do from PyTorch's own.

Each model is trained on 4,000 MNIST digits from ten seeds either way, with the same order of the
data, and tested on the 1,000 digits left over.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from milepost.scripts.train_lenet5 import make_lenet5
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.graph import DTYPE_NAMES
from milepost_ml.initial import Normal, Uniform, derive_tensor, describe
from milepost_ml.initial_rules import choose_initial
from milepost_ml.keyed import Order, make_seed
from milepost_ml.snapshots import TensorSpec

SEEDS: Final = 10
STEPS: Final = 480
BATCH: Final = 64
LARGE: Final = 10_000_000


def make_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def make_conv_net() -> nn.Module:
    """Two convolutions with batch normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


def _derive(model: nn.Module, seed: bytes) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, initial in choose_initial(model, {}).items():
        tensor = tensors[name]
        spec = TensorSpec(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(derive_tensor(seed, spec, initial)))


def _train(make: Callable[[], nn.Module], number: int, *, derived: bool) -> float:
    """Accuracy in percent."""
    digits = load_mnist_5k()
    held_out = np.arange(len(digits.labels)) % 5 == 0
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    x_train, y_train = images[~held_out], labels[~held_out]
    seed = make_seed(number)
    torch.manual_seed(number)
    model = make()
    if derived:
        _derive(model, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order = Order(seed=seed, records=len(y_train), batch_size=BATCH)
    for step in range(STEPS):
        indices = torch.from_numpy(order.get_indices(step))
        loss = functional.cross_entropy(model(x_train[indices]), y_train[indices])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(images[held_out]).argmax(1) == labels[held_out]
    return 100 * float(right.float().mean())


def bench_initial() -> None:
    """Accuracies, mean and standard deviation, and what deriving a large tensor takes."""
    torch.set_num_threads(1)
    for name, make in (("LeNet-5", make_lenet5), ("MLP", make_mlp), ("conv-bn", make_conv_net)):
        for kind, derived in (("PyTorch's", False), ("derived", True)):
            found = [_train(make, number, derived=derived) for number in range(SEEDS)]
            mean, deviation = statistics.mean(found), statistics.stdev(found)
            print(f"{name:8} {kind:10} {mean:6.2f} % +- {deviation:.2f}")
    for initial in (Uniform(0.05), Normal(0.02)):
        begin = time.perf_counter()
        derive_tensor(make_seed(1), TensorSpec("large", "F32", (LARGE,)), initial)
        seconds = time.perf_counter() - begin
        print(f"{LARGE:,} values of {describe(initial)} in {seconds:.2f} s")
