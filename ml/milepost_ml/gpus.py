"""The GPU of this process, if it has one, and what a device class says of it.

A process uses the first GPU that it sees, and only NVIDIA's: `CUDA_VISIBLE_DEVICES` chooses another
one, and hides all of them where it is empty.
"""

from __future__ import annotations

import functools
import os
import re
from contextlib import AbstractContextManager
from typing import Final

import torch

from milepost_ml.errors import MissingGpu

CPU: Final = torch.device("cpu")

_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"
_REPEATABLE_WORKSPACE: Final = ":4096:8"
"""Fixed buffers for NVIDIA's products, without which they may be added in another order each time.
PyTorch reads it with the first product on a GPU."""
_MARK: Final = "cuda-"
_MAX_NAME: Final = 28
"""Characters of a GPU's name in a device class, which has 128."""


@functools.cache
def find_gpu() -> torch.device | None:
    """The GPU that this process uses; found once, for it does not change while a process lives."""
    found = torch.cuda.is_available() and torch.version.cuda is not None
    return torch.device("cuda", 0) if found else None


def configure_gpu() -> None:
    """Deterministic products and convolutions in full float32; does nothing to a CPU."""
    os.environ.setdefault(_WORKSPACE, _REPEATABLE_WORKSPACE)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False


def describe_gpu(device: torch.device) -> tuple[str, ...]:
    """What the bits of a GPU's results depend on: builds, model, capability, flags.

    For example ("cuda-13.0", "cudnn-91002", "h200", "sm-90", "cublas-4096-8").
    """
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    major, minor = torch.cuda.get_device_capability(device)
    return (
        f"{_MARK}{torch.version.cuda}",
        f"cudnn-{cudnn}",
        _make_word(torch.cuda.get_device_name(device)).removeprefix("nvidia-")[:_MAX_NAME],
        f"sm-{major}{minor}",
        f"cublas-{_make_word(os.environ.get(_WORKSPACE, ''))}",
    )


def _make_word(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def is_gpu_class(device_class: str) -> bool:
    """Whether a device class is a GPU's own."""
    return any(part.startswith(_MARK) for part in device_class.split("/"))


def require_gpu(device_class: str) -> torch.device:
    """The GPU for a GPU's device class; raises MissingGpu."""
    gpu = find_gpu()
    if gpu is None:
        raise MissingGpu(f"{device_class} is the class of a GPU, and this process sees none")
    return gpu


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed PyTorch's generator, and that of a device that has its own."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def keep_generators(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards the same generators are as they were."""
    return torch.random.fork_rng([] if device.type == "cpu" else [device])


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU has."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)


def is_broken() -> bool:
    """Whether the GPU failed this process for good, as after an index outside a tensor."""
    gpu = find_gpu()
    if gpu is None:
        return False
    try:
        torch.cuda.synchronize(gpu)
    except RuntimeError:
        return True
    return False
