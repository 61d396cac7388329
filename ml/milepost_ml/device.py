"""On what arithmetic this process computes, as a short text that two machines can compare.

Floating-point results depend on the build of the framework, the instructions it chooses and the
number of threads, or on the GPU.  The text names these and ends in the digest of a small training
whose bits were really computed here (a known-answer test), so equal texts mean equal bits on
everything it covers.
"""

from __future__ import annotations

import functools
import os
import platform
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from milepost_ml.digests import compute_content_digest
from milepost_ml.gpus import CPU, configure_gpu, describe_gpu, keep_generators, seed_generators

AUTOCAST: Final = "bfloat16"
"""What PyTorch's autocast computes in, where a run declares it."""
_KAT_SEED: Final = 20260101
_KAT_STEPS: Final = 3


def configure_torch(*, threads: int | None = 1) -> None:
    """Put torch into the state in which records are made and retraced.

    One thread (or another number, or None for as many as there are), deterministic algorithms,
    float32, denormal numbers kept, no reduced-precision products.  Changes the settings of the
    whole process.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Listed operators never read memory they have not written; filling it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_default_dtype(torch.float32)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")
    configure_gpu()
    torch.set_grad_enabled(True)


class _KnownAnswer(nn.Module):
    """One layer of each kind whose kernels differ between machines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 5, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.strided = nn.Conv2d(8, 16, 3, stride=2)
        self.mix = nn.Linear(16 * 6 * 6, 64)
        self.scale = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        x = functional.gelu(self.scale(self.mix(self.strided(x).flatten(1))))
        tokens = x.view(-1, 4, 16)
        x = x + functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)
        result: torch.Tensor = self.head(functional.dropout(x, 0.2))
        return result


def compute_known_answer(*, autocast: bool = False, device: torch.device = CPU) -> bytes:
    """The content digest of a small model after a few steps; leaves torch's generators as they
    were.

    With `autocast`, forward is computed under it, in bfloat16.
    """
    with keep_generators(device):
        seed_generators(device, _KAT_SEED)
        model = _KnownAnswer().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
        images, labels = torch.randn(32, 1, 28, 28), torch.randint(10, (32,))
        images, labels = images.to(device), labels.to(device)
        for _ in range(_KAT_STEPS):
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return compute_content_digest(
        {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    )


@functools.cache
def compute_device_class(*, autocast: bool = False, device: torch.device = CPU) -> str:
    """For example "torch-2.13.0/x86_64/avx512/threads-1/kat-<16 hex>"; computed once a process."""
    return find_device_class(autocast=autocast, device=device)


def find_device_class(*, autocast: bool = False, device: torch.device = CPU) -> str:
    """The same, found anew: settings and surroundings of a process change.

    Processors of one class may multiply bfloat16 in different ways, so runs with `autocast` have a
    class of their own.  Calls `configure_torch` first, because the answer depends on it.
    """
    configure_torch()
    version = torch.__version__.split("+")[0]
    return "/".join(
        (
            f"torch-{version}",
            *(_describe_processor() if device.type == "cpu" else describe_gpu(device)),
            *((AUTOCAST,) if autocast else ()),
            f"kat-{compute_known_answer(autocast=autocast, device=device).hex()[:16]}",
        )
    )


def _describe_processor() -> tuple[str, ...]:
    """What the bits of the processor's results depend on."""
    return (
        platform.machine().lower() or "unknown",
        torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-"),
        f"threads-{torch.get_num_threads()}",
    )


def describe_environment(device_class: str) -> dict[str, str | int]:
    """For people: what a run of this device class was recorded on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processors": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "device_class": device_class,
    }
