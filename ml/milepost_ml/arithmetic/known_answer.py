"""Which arithmetic this machine repeats, found out by computing with it.

A node vouches for nothing that it has not seen come out right: exact and rounded arithmetic must
give the digests below for a short training that goes through every kind of kernel, and a class of
machines is named by what such a training gives.  A compiler, processor, GPU, setting or library
that computes otherwise is noticed here, when a node starts and before each of its tasks, and not in
somebody's verdict.  So this is also where it is chosen what is computed on a GPU.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from milepost_ml.arithmetic.profiles import ExactProfile, Profile, RoundedProfile, ToleranceProfile
from milepost_ml.arithmetic.rounded import Widened, round_tensors
from milepost_ml.device import AUTOCAST, find_device_class
from milepost_ml.digests import compute_content_digest
from milepost_ml.gpus import CPU, find_gpu, is_gpu_class, keep_generators, require_gpu
from milepost_ml.keras_graph import DEVICE_PREFIX
from milepost_ml.keras_training.device_class import compute_device_class as compute_keras_class
from milepost_ml.keras_training.device_class import find_device_class as find_keras_class
from milepost_ml.keras_training.device_class import is_installed as is_keras_installed

EXACT_CLASS: Final = "exact/1"
"""The version of exact arithmetic, whose module loads a compiler that may be missing."""
KNOWN_ANSWER: Final = "ca428458ecc131c7b57751b9e03e9946695af3c1cc2d26e297c86161f11334af"
"""The digest of `compute_known_answer`; changes with `exact.VERSION` and never without it."""
ROUNDED_ANSWER: Final = "b477746252ceb4f99f1bec30679c3776bceb801813e0c22f9e339ce4b2e0248e"
"""The digest of `compute_rounded_answer`; changes with `RoundedProfile.VERSION` likewise."""

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


def compute_known_answer(device: torch.device = CPU) -> bytes:
    """The content digest of a small model after a few exact steps of two optimizers."""
    return _train(ExactProfile(), device)


def compute_rounded_answer(device: torch.device = CPU) -> bytes:
    """The same in rounded arithmetic."""
    return _train(RoundedProfile(), device)


def _train(profile: Profile, device: torch.device) -> bytes:
    profile.device = device
    words = np.random.Philox(key=_KEY)
    with keep_generators(device):
        model = _Covering()
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = (words.random_raw(parameter.numel()) >> 40).astype(np.float32)
                parameter.copy_(torch.from_numpy(drawn * 2.0**-25 - 0.25).view(parameter.shape))
        integers = torch.from_numpy((words.random_raw(2 * _BATCH) >> 32).astype(np.int64))
        tokens, targets = map(profile.take, (integers[:_BATCH] % 12, integers[_BATCH:] % 10))
        model.to(device)
        state = [*model.parameters(), *model.buffers()]
        recorded = [tensor.dtype for tensor in state]
        widened = Widened(state, profile)
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
                    profile.round_gradients(_get_gradients(model))
                    optimizer.step()
                slots = [each for slots in optimizer.state.values() for each in slots.values()]
                slots = [each for each in slots if isinstance(each, torch.Tensor)]
                round_tensors([*state, *slots], [*recorded, *[torch.float32] * len(slots)])
        widened.restore()
    return compute_content_digest(
        {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    )


def _get_gradients(model: nn.Module) -> list[torch.Tensor]:
    return [each.grad for each in model.parameters() if each.grad is not None]


def get_device_classes() -> tuple[tuple[str, ...], str]:
    """The device classes that this machine repeats just now, the strongest first.

    With it, why exact or rounded arithmetic, or the GPU's own, is not among them; empty if all are.
    """
    names, faults = list[str](), list[str]()
    for name in _PORTABLE:
        with _one_at_a_time():
            fault = find_fault(name)
        if fault:
            faults.append(f"{name}: {fault}")
        else:
            names.append(name)
    machine = [find_device_class(), find_device_class(autocast=True)]
    gpu = find_gpu()
    if gpu is not None:
        try:
            machine += [find_device_class(autocast=cast, device=gpu) for cast in (False, True)]
        except RuntimeError as error:  # of its driver, or an operator that it cannot repeat
            faults.append(f"{gpu}: {error}")
    keras = find_keras_class()
    if keras:
        machine.append(keras)
    return (*names, *machine, ToleranceProfile.VERSION), "; ".join(faults)


def find_fault(device_class: str) -> str:
    """Why this process does not repeat a device class just now; empty if it does.

    Computes the known answer every time, for settings change while a process lives.
    """
    if device_class == ToleranceProfile.VERSION:
        return ""  # no bits are asked for
    if device_class.startswith(DEVICE_PREFIX):
        return _find_fault_of_keras(device_class)
    if device_class not in _PORTABLE:
        return _find_other_class(device_class)
    _chosen.pop(device_class, None)
    if choose_device(device_class) != CPU:
        return ""
    return find_wrong_answer(device_class, CPU)


def _find_other_class(device_class: str) -> str:
    """What this machine is instead of a machine's class; empty if it is of that class."""
    try:
        device = choose_device(device_class)
        found = find_device_class(autocast=AUTOCAST in device_class.split("/"), device=device)
    except RuntimeError as error:  # MissingGpu, or of a GPU that fails
        return f"{type(error).__name__}: {error}"
    return "" if found == device_class else f"this machine is {found}"


def find_wrong_answer(device_class: str, device: torch.device) -> str:
    """Why a device does not compute exact or rounded arithmetic; empty if it does."""
    compute, expected = _PORTABLE[device_class]
    try:
        found = compute(device).hex()
    except Exception as error:  # whatever kernels and their compiler may raise on odd machines
        return f"{type(error).__name__}: {error}"
    return "" if found == expected else f"the known answer is {expected}, here {found}"


def _find_fault_of_keras(device_class: str) -> str:
    """In this very process, which loads TensorFlow for the task anyway."""
    if not is_keras_installed():
        return "this machine is without TensorFlow"
    try:
        found = compute_keras_class()
    except Exception as error:  # whatever TensorFlow may raise where it was set up otherwise
        return f"{type(error).__name__}: {error}"
    return "" if found == device_class else f"this machine is {found}"


def choose_device(device_class: str) -> torch.device:
    """Where this process computes a device class: on its GPU, or on the processor.

    On the GPU, if there is one, what is of its own class; exact arithmetic, if it gives the known
    answer there; nothing else, because a GPU draws other random numbers.  Found once a process;
    `find_fault` finds it anew.  Raises MissingGpu for a GPU's class without one.
    """
    if is_gpu_class(device_class):
        return require_gpu(device_class)
    gpu = find_gpu()
    if gpu is None or device_class != EXACT_CLASS:
        return CPU
    if device_class not in _chosen:
        fault = find_wrong_answer(device_class, gpu)
        if fault:
            warnings.warn(f"{device_class} is not computed on the GPU: {fault}", stacklevel=2)
        _chosen[device_class] = CPU if fault else gpu
    return _chosen[device_class]


_chosen: Final[dict[str, torch.device]] = {}
"""What `choose_device` found last."""

_PORTABLE: Final[dict[str, tuple[Callable[[torch.device], bytes], str]]] = {
    EXACT_CLASS: (compute_known_answer, KNOWN_ANSWER),
    RoundedProfile.VERSION: (compute_rounded_answer, ROUNDED_ANSWER),
}
"""How the classes that every machine can repeat are tested, and what must come out."""


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Nodes that start together wait for the first to compile the kernels, which stay on disk."""
    with Path(__file__).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
