"""Which arithmetic this machine repeats, found out by computing with it.

A node vouches for nothing that it has not seen come out right: exact arithmetic must give the
digest below for a short training that goes through every kind of kernel.  A compiler or processor
that computes otherwise is noticed here, and not in somebody's verdict.
"""

from __future__ import annotations

import fcntl
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from milepost_ml.arithmetic.profiles import ExactProfile, RoundedProfile
from milepost_ml.device import compute_device_class
from milepost_ml.digests import compute_content_digest

KNOWN_ANSWER: Final = "ca428458ecc131c7b57751b9e03e9946695af3c1cc2d26e297c86161f11334af"
"""The digest of `compute_known_answer`; changes with `exact.VERSION` and never without it."""

_KEY: Final = 20260101
_STEPS: Final = 2
_BATCH: Final = 20


class _Covering(nn.Module):
    """A layer for every kind of kernel: products, sums, functions, normalisation, chance."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 49)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.strided = nn.Conv2d(4, 8, 3, stride=2, groups=2, bias=False)
        self.mix = nn.Linear(8, 32)
        self.scale = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).view(-1, 1, 7, 7)
        x = functional.max_pool2d(functional.silu(self.norm(self.conv(x))), 3, 2, 1)
        x = functional.adaptive_avg_pool2d(functional.gelu(self.strided(x)), 1).flatten(1)
        x = torch.tanh(self.scale(self.mix(x)))
        groups = x.view(-1, 4, 8)
        x = x + functional.scaled_dot_product_attention(groups, groups, groups).flatten(1)
        result: torch.Tensor = self.head(functional.dropout(x.sigmoid(), 0.2))
        return result


def compute_known_answer() -> bytes:
    """The content digest of a small model after a few exact steps of two optimizers."""
    words = np.random.Philox(key=_KEY)
    with torch.random.fork_rng([]):
        model = _Covering()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = (words.random_raw(parameter.numel()) >> 40).astype(np.float32)
            parameter.copy_(torch.from_numpy(drawn * 2.0**-25 - 0.25).view(parameter.shape))
    integers = torch.from_numpy((words.random_raw(2 * _BATCH) >> 32).astype(np.int64))
    tokens, targets = integers[:_BATCH] % 12, integers[_BATCH:] % 10
    profile = ExactProfile()
    first = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    second = torch.optim.AdamW(model.parameters(), 0.01)
    for optimizer in (first, second):
        profile.set_options(optimizer)
        for step in range(_STEPS):
            profile.reseed(step)
            with profile.active():
                loss = functional.cross_entropy(model(tokens), targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return compute_content_digest(
        {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    )


@functools.cache
def get_device_classes() -> tuple[tuple[str, ...], str]:
    """The device classes that this machine can repeat, the strongest first, once a process.

    With it, why exact arithmetic is not among them; empty if it is.
    """
    fault = _find_fault()
    exact = () if fault else (ExactProfile().get_device_class(),)
    classes = (compute_device_class(), compute_device_class(autocast=True))
    return (*exact, RoundedProfile().get_device_class(), *classes), fault


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Nodes that start together wait for the first to compile the kernels, which stay on disk."""
    with Path(__file__).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find_fault() -> str:
    try:
        with _one_at_a_time():
            found = compute_known_answer().hex()
    except Exception as error:  # whatever kernels and their compiler may raise on odd machines
        return f"{type(error).__name__}: {error}"
    return "" if found == KNOWN_ANSWER else f"the known answer is {KNOWN_ANSWER}, here {found}"
