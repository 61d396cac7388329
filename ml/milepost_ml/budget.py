"""Chooses how many steps a step digest covers, from what digests and steps cost on this machine.

A digest reads the whole state.  Beside a step that computes much, that is nothing; a perceptron
moves nearly as many bytes in a step as its state has, and would spend a third of its time hashing.
The choice is made once, before anything is committed or registered, and declared in the recipe.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import torch

from milepost_consensus.params import MAX_STEPS_PER_DIGEST
from milepost_consensus.tolerance import TOLERANCE
from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.errors import RecordingError
from milepost_ml.gpus import keep_generators, synchronize
from milepost_ml.keyed import compute_generator_seed
from milepost_ml.recipe import Recipe
from milepost_ml.rehearsal import Loss, StepModule, WholeStep
from milepost_ml.strides import StepImages

BUDGET: Final = 0.025
"""The share of a step's time that its digest may take."""
MEASURED_BYTES: Final = 256 * 1024
"""A smaller state is hashed in less time than the measurement is uncertain by: every step has its
digest, on every machine."""
REPETITIONS: Final = 5
ENOUGH_SECONDS: Final = 0.5
"""What has taken so long needs no further repetition."""


def set_stride(
    recipe: Recipe,
    stride: int | None,
    *,
    model: torch.nn.Module,
    loss: Loss | WholeStep,
    data: Sequence[torch.Tensor],
    profile: Profile,
) -> Recipe:
    """The recipe with its stride: as given, or the shortest that keeps to the budget.

    Raises RecordingError (bad-plan) for one that cannot be.
    """
    most = min(MAX_STEPS_PER_DIGEST, recipe.steps_per_interval)
    if stride is None:
        images = StepImages(recipe)
        stride = 1
        if recipe.profile != TOLERANCE and images.size_bytes >= MEASURED_BYTES:
            seconds = recipe.accumulate * measure_batch(recipe, model, loss, data, profile)
            stride = choose_stride(
                digest_seconds=measure_digest(images),
                step_seconds=seconds,
                most=most,
            )
    elif not 1 <= stride <= most:
        raise RecordingError(
            f"stride={stride}: a digest covers 1 to {MAX_STEPS_PER_DIGEST} steps, and no more than"
            f" the {recipe.steps_per_interval} of an interval",
            slug="bad-plan",
        )
    return msgspec.structs.replace(recipe, steps_per_digest=stride)


def choose_stride(*, digest_seconds: float, step_seconds: float, most: int) -> int:
    """The shortest stride, a power of two up to `most`, whose digests keep to the budget."""
    stride = 1
    while digest_seconds > BUDGET * stride * step_seconds and 2 * stride <= most:
        stride *= 2
    return stride


def measure_digest(images: StepImages) -> float:
    """Seconds to copy and hash what one digest covers."""
    parts = (images.model, images.optimizer, images.gradient)
    sources = [[array.copy() for _, array in sorted(part.get_arrays().items())] for part in parts]

    def work() -> None:
        for part, arrays in zip(parts, sources, strict=True):
            part.fill(array.ctypes.data for array in arrays)
            part.compute_digest()

    return _measure(work)


def measure_batch(
    recipe: Recipe,
    model: torch.nn.Module,
    loss: Loss | WholeStep,
    data: Sequence[torch.Tensor],
    profile: Profile,
) -> float:
    """Seconds for forward and backward of one batch, on a copy of the model.

    Leaves torch's generators as they were.
    """
    twin = copy.deepcopy(StepModule(model, loss))
    batch = [profile.take(tensor[: recipe.batch_size]) for tensor in data]
    for tensor in (*twin.model.parameters(), *twin.model.buffers()):
        tensor.data = profile.take(tensor.data)
    with keep_generators(profile.device):
        profile.reseed(compute_generator_seed(recipe.seed_bytes, 0))
        with profile.active():
            return _measure(lambda: _step(twin, batch, profile))


def _step(module: StepModule, batch: Sequence[torch.Tensor], profile: Profile) -> None:
    module.zero_grad()
    with profile.casting():
        loss = module(*batch)
    loss.backward()
    synchronize(profile.device)


def _measure(work: Callable[[], None]) -> float:
    """The shortest of a few times, in seconds."""
    times: list[float] = []
    while len(times) < REPETITIONS and sum(times) < ENOUGH_SECONDS:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
